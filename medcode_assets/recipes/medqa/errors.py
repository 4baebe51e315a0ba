"""The analysis of wrong answers: patterns with counts, shares and lift, and whether some places are preferred."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.recipes.medqa.error_patterns import PATTERNS, Case, Pattern, cases, patterns
from medcode_assets.recipes.medqa.rows import LABELS
from medcode_assets.recipes.medqa.settings import ErrorsSection
from medcode_assets.recipes.words.answers import Answered
from medcode_assets.recipes.words.questions import Asked
from medcode_assets.warehouse import fingerprint
from medcode_serving.bundle import file_sha256

REPORT, PAGE = "errors.json", "errors.md"
VERSION = 2
"""Changes when the same answers, patterns and settings come to another analysis."""
SURE = 0.05
"""Probability of chance alone, below which a pattern is told."""
POSITION_ADVICE = (
    "Raise medqa.augmentation, which shuffles the options, so that no place is right more often than another."
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FoundPattern(_Frozen):
    """How often a pattern is there, and how often the answer is wrong then."""

    name: str
    title: str
    fault: bool = Field(description="Of answers; else a trait of questions.")
    answers: int = Field(description="That have it.")
    wrong: int = Field(description="Of these.")
    share_of_wrong: float = Field(description="Of all wrong answers.")
    error_rate: float | None = Field(description="Share of wrong ones among those that have it.")
    lift: float | None = Field(description="That by the error rate of all answers.")
    chance: float | None = Field(
        description="Of a trait: probability of as many wrong ones by chance alone (hypergeometric)."
    )
    finding: bool = Field(description="Worth doing something about.")
    suggestion: str
    examples: tuple[int, ...] = Field(description="Numbers of wrong answers, the surest first.")


class Position(_Frozen):
    """How often an option's place is right, and how often it is chosen."""

    label: str
    right: int
    chosen: int


class ErrorReport(_Frozen):
    """The contents of errors.json."""

    answers: int
    wrong: int
    temperature: float
    patterns: tuple[FoundPattern, ...] = Field(description="Findings first, then by wrong answers.")
    positions: tuple[Position, ...]
    position_chance: float | None = Field(
        description="Probability of the wrong answers' places by chance alone (chi-square); None: too few."
    )

    @property
    def prefers_positions(self) -> bool:
        """Whether wrong answers lie at some places more often than they would by chance."""
        return self.position_chance is not None and self.position_chance < SURE


def errors_fingerprint(evaluation: str, temperature: float, settings: ErrorsSection) -> str:
    """Return the fingerprint of an analysis; `evaluation` is the seal of the answers."""
    return fingerprint(
        evaluation=evaluation,
        temperature=temperature,
        section=settings.model_dump(),
        patterns=file_sha256(PATTERNS),
        version=VERSION,
    )


def find_errors(
    asked: Sequence[Asked], answers: Sequence[Answered], temperature: float, settings: ErrorsSection
) -> ErrorReport:
    """Return which patterns go together with wrong answers.

    Args:
        asked: Questions of the test split.
        answers: The adapter's, as many and in the same order.
        temperature: By which confidences are calibrated.
        settings: Section `errors`.
    """
    judged = cases(asked, answers, temperature)
    wrong = [case for case in judged if case.wrong]
    found = [_found(pattern, judged, len(wrong), settings) for pattern in patterns(asked, settings)]
    return ErrorReport(
        answers=len(judged),
        wrong=len(wrong),
        temperature=temperature,
        patterns=tuple(sorted(found, key=lambda one: (not one.finding, -one.wrong, one.name))),
        positions=tuple(_positions(judged)),
        position_chance=_position_chance(wrong),
    )


def _found(pattern: Pattern, judged: Sequence[Case], all_wrong: int, settings: ErrorsSection) -> FoundPattern:
    having = [case for case in judged if pattern.holds(case)]
    wrong = sorted((case for case in having if case.wrong), key=lambda case: (-case.confidence, case.asked.example_id))
    rate = len(wrong) / len(having) if having else None
    overall = all_wrong / len(judged) if judged else 0.0
    lift = rate / overall if rate is not None and overall else None
    chance = None if pattern.fault else _chance(len(wrong), len(having), all_wrong, len(judged))
    told = len(wrong) >= settings.least and (pattern.fault or (chance is not None and chance < SURE))
    return FoundPattern(
        name=pattern.name,
        title=pattern.title,
        fault=pattern.fault,
        answers=len(having),
        wrong=len(wrong),
        share_of_wrong=len(wrong) / all_wrong if all_wrong else 0.0,
        error_rate=rate,
        lift=lift,
        chance=chance,
        finding=told,
        suggestion=pattern.suggestion,
        examples=tuple(case.asked.example_id for case in wrong[: settings.examples]),
    )


def _chance(wrong: int, having: int, all_wrong: int, answers: int) -> float | None:
    """Return the probability of so many or more wrong answers among those drawn at random."""
    from scipy.stats import hypergeom

    if not having:
        return None
    return float(min(1.0, hypergeom.sf(wrong - 1, answers, all_wrong, having)))


def _positions(judged: Sequence[Case]) -> list[Position]:
    with_options = [case for case in judged if case.asked.options]
    right = Counter(case.asked.correct for case in with_options)
    chosen = Counter(case.said for case in with_options)
    most = max((len(case.asked.options) for case in with_options), default=0)
    return [Position(label=LABELS[at], right=right[at], chosen=chosen[at]) for at in range(most)]


def _position_chance(wrong: Sequence[Case]) -> float | None:
    """Compare the places that wrong answers choose with an even choice among the wrong options of each question."""
    from scipy.stats import chisquare

    chosen: Counter[int] = Counter()
    expected: Counter[int] = Counter()
    for case in wrong:
        if case.said is None:
            continue
        chosen[case.said] += 1
        others = [at for at in range(len(case.asked.options)) if at != case.asked.correct]
        for at in others:
            expected[at] += 1 / len(others)  # type: ignore[assignment]
    places = [at for at in sorted(expected) if expected[at] > 0]
    if len(places) < 2 or sum(expected[at] for at in places) < 5 * len(places):  # fewer tell nothing
        return None
    return float(chisquare([chosen[at] for at in places], [expected[at] for at in places]).pvalue)


def error_page(report: ErrorReport) -> str:
    """Return the analysis as markdown: numbers and suggestions, no text of a question."""
    findings = [one for one in report.patterns if one.finding]
    lines = [
        "# Wrong answers of recipe medqa",
        "",
        f"{report.wrong:,} of {report.answers:,} answers to the test split are wrong in what they say"
        f"{f' ({report.wrong / report.answers:.1%})' if report.answers else ''}, whichever option the model finds "
        "likeliest: the rest of `accuracy_generated`, not of `accuracy`. A trait is a finding where as many "
        f"wrong answers come by chance in fewer than {SURE:.0%} of draws; of some twenty traits, one may.",
        "",
        "## What to do",
        "",
    ]
    lines += [f"- **{one.title}** ({one.wrong:,} wrong): {one.suggestion}" for one in findings]
    if report.prefers_positions:
        lines.append(f"- **prefers some places of options** (p = {report.position_chance:.2g}): {POSITION_ADVICE}")
    if not findings and not report.prefers_positions:
        lines.append("Nothing stands out.")
    lines += ["", "## Patterns", "", *pattern_lines(report), "", "## Places", "", *_position_lines(report), ""]
    return "\n".join(lines)


def pattern_lines(report: ErrorReport) -> list[str]:
    """Return the patterns that any answer has as a markdown table."""
    head = "| pattern | answers | wrong | share of wrong | error rate | lift | by chance | examples |"
    return [head, "|---|---|---|---|---|---|---|---|"] + [
        f"| {one.title.replace('|', '/')} | {one.answers:,} | {one.wrong:,} | {one.share_of_wrong:.1%} "
        f"| {_number(one.error_rate, '.1%')} | {_number(one.lift, '.2f')} | {_number(one.chance, '.2g')} "
        f"| {', '.join(map(str, one.examples))} |"
        for one in report.patterns
        if one.answers
    ]


def _position_lines(report: ErrorReport) -> list[str]:
    rows = [f"| {one.label} | {one.right:,} | {one.chosen:,} |" for one in report.positions]
    return ["| option | right | chosen |", "|---|---|---|", *rows]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def write_errors(report: ErrorReport, folder: Path) -> None:
    """Write the report and its page into an artifact's folder."""
    (folder / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(error_page(report), encoding="utf-8")


def read_errors(folder: Path) -> ErrorReport:
    """Return the report of an artifact."""
    return ErrorReport.model_validate_json((folder / REPORT).read_text(encoding="utf-8"))
