"""What shortens answers at generation, and what that costs: every control tried on validation questions."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.recipes.medqa.scoring import score
from medcode_assets.recipes.medqa.settings import BrevitySection
from medcode_assets.recipes.words.answers import Answered
from medcode_assets.recipes.words.measuring import text_scores
from medcode_assets.recipes.words.questions import Asked
from medcode_serving.engines.protocol import Writing

REPORT = "brevity.json"
MOSTLY = 0.5
"""Share of answers that must be readable before it matters how long they are."""
LEAST = 1e-9
"""Accuracy of answers of which any is right."""

Ask = Callable[[Sequence[Asked], Writing], Sequence[Answered]]
"""Asks the model questions under a control; the answers are as many and in the same order."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BrevityRow(_Frozen):
    """What answers are like under one setting of the controls; 0: no limit."""

    length_penalty: float
    max_sentences: int
    max_tokens: int
    words: float = Field(description="Words of an answer, on average.")
    verbosity: float = Field(description="Words of the answers for each word of their references.")
    accuracy_generated: float
    readable: float = Field(description="Share of answers that choose an option.")
    rouge_l: float | None = Field(description="None where rouge-score is not installed.")
    cut: float = Field(description="Share of answers that were broken off at the limit of tokens.")

    @property
    def label(self) -> str:
        """The setting in words."""
        parts = [f"{name} {value:g}" for name in CONTROLS if (value := getattr(self, name))]
        return ", ".join(parts) or "no control"


CONTROLS = ("length_penalty", "max_sentences", "max_tokens")


class BrevityReport(_Frozen):
    """The contents of brevity.json."""

    questions: int
    may_lose: float
    rows: tuple[BrevityRow, ...] = Field(description="The first is without any control.")
    recommended: int | None = Field(description="Place of the row that is recommended; None: no setting works.")


def writings(section: BrevitySection) -> list[Writing]:
    """Return every combination of the controls; none at all comes first."""
    combinations = product(section.length_penalties, section.max_sentences, section.max_tokens)
    return [
        Writing(length_penalty=penalty, max_sentences=sentences or None, max_tokens=tokens or None)
        for penalty, sentences, tokens in sorted(combinations, key=lambda one: any(one))
    ]


def try_controls(asked: Sequence[Asked], section: BrevitySection, ask: Ask) -> BrevityReport:
    """Ask the same questions under every setting of the controls.

    Args:
        asked: Questions, of the validation split.
        section: What to try.
        ask: Asks the model. Options are left out of what it is given: their likelihoods do not depend on a control.
    """
    plain = [replace(one, options=(), correct=None) for one in asked]
    rows = tuple(_row(asked, ask(plain, writing), writing) for writing in writings(section))
    least_right = LEAST if any(one.options for one in asked) else 0.0  # open answers are hardly ever word for word
    return BrevityReport(
        questions=len(asked),
        may_lose=section.may_lose,
        rows=rows,
        recommended=recommended(rows, section.may_lose, least_right),
    )


def recommended(rows: Sequence[BrevityRow], may_lose: float, least_right: float = LEAST) -> int | None:
    """Return the place of the shortest answers that lose no more than that of accuracy and ROUGE-L, against the first.

    Of equally short ones the first, which has the fewest controls; a control that shortens nothing is no gain. None
    where no answers are worth shortening: most cannot be read, or none is right.

    Args:
        rows: What each setting makes of the answers; the first is without any.
        may_lose: Of accuracy and of ROUGE-L.
        least_right: Accuracy below which answers are worth nothing.
    """
    free = rows[0]

    def keeps(row: BrevityRow) -> bool:
        return (
            row.readable >= MOSTLY
            and row.accuracy_generated >= max(least_right, free.accuracy_generated - may_lose)
            and (row.rouge_l is None or free.rouge_l is None or row.rouge_l >= free.rouge_l - may_lose)
        )

    kept = [at for at, row in enumerate(rows) if keeps(row)]
    return min(kept, key=lambda at: (round(rows[at].words, 3), at), default=None)


def told_recommendation(report: BrevityReport) -> str:
    """Return the recommended setting in words, with what it does to the answers."""
    free = report.rows[0]
    if report.recommended is None:
        return (
            f"none: without control {free.readable:.0%} of the answers can be read and {free.accuracy_generated:.0%} "
            "are right, and no setting mends that"
        )
    best = report.rows[report.recommended]
    return (
        f"{best.label} ({best.words:.1f} words, accuracy of written answers {free.accuracy_generated:.3f} -> "
        f"{best.accuracy_generated:.3f} on {report.questions} validation questions)"
    )


def _row(asked: Sequence[Asked], answers: Sequence[Answered], writing: Writing) -> BrevityRow:
    own, text = score(asked, answers), text_scores(asked, answers)
    counts = [len(answer.text.split()) for answer in answers]
    references = sum(len(one.references[0].split()) for one in asked)
    return BrevityRow(
        length_penalty=writing.length_penalty,
        max_sentences=writing.max_sentences or 0,
        max_tokens=writing.max_tokens or 0,
        words=sum(counts) / len(counts),
        verbosity=sum(counts) / max(1, references),
        accuracy_generated=_mean(own["accuracy_generated"]),
        readable=_mean(own["readable"]),
        rouge_l=_mean(text["rouge_l"].tolist()) if "rouge_l" in text else None,
        cut=_mean([answer.cut for answer in answers]),
    )


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))


def write_brevity(report: BrevityReport, folder: Path) -> None:
    """Write the report into an artifact's folder."""
    (folder / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_brevity(folder: Path) -> BrevityReport:
    """Return the report of an artifact."""
    return BrevityReport.model_validate_json((folder / REPORT).read_text(encoding="utf-8"))
