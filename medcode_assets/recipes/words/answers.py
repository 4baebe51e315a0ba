"""What models answered to the questions of a split: files that measures, reports and pictures are made from.

`answers/<engine>.parquet` in an artifact, a row a question in order of `example_id`: example_id, subject, question,
references, options, correct, and the answer: text, tokens, confidence, cut, option_log_probabilities,
reference_log_probability, reference_tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_assets.recipes.words.questions import Asked

if TYPE_CHECKING:
    import pyarrow as pa

ANSWERS = "answers"
"""Folder of an artifact that holds a file an engine."""
UNTUNED = "untuned_base"
TUNED = "adapter"


@dataclass(frozen=True)
class Answered:
    """A model's answer to one question."""

    text: str
    """Without what the model thought before, in tags."""
    tokens: int
    """That it took, with its thoughts."""
    confidence: float
    """Geometric mean of its tokens' probabilities, in [0, 1]."""
    cut: bool
    """It was broken off at the limit."""
    option_log_probabilities: tuple[float, ...] = ()
    """Of each option as the completion, in nats, summed over its tokens; none without options.

    Ends are counted only where an option is how another one begins.
    """
    reference_log_probability: float = 0.0
    """Of the first reference as the completion, in nats, summed over its tokens, its end counted."""
    reference_tokens: int = 0
    """Tokens of that."""


def answers_file(folder: Path, engine: str) -> Path:
    """Return where an artifact keeps an engine's answers; `engine` is `UNTUNED`, `TUNED` or a name of its own."""
    return folder / ANSWERS / f"{engine}.parquet"


def write_word_answers(file: Path, asked: Sequence[Asked], answers: Sequence[Answered]) -> None:
    """Write questions and their answers, which are as many and in the same order."""
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(answers_table(asked, answers), file)


def answers_table(asked: Sequence[Asked], answers: Sequence[Answered]) -> "pa.Table":
    """Return questions and answers as one table. Raises ValueError if they are not as many."""
    import pyarrow as pa

    if len(asked) != len(answers):
        raise ValueError(f"there are {len(asked)} questions and {len(answers)} answers")
    texts, numbers = pa.list_(pa.string()), pa.list_(pa.float64())
    return pa.table(
        {
            "example_id": pa.array([one.example_id for one in asked], pa.int64()),
            "subject": pa.array([one.subject for one in asked], pa.string()),
            "question": pa.array([one.question for one in asked], pa.string()),
            "references": pa.array([list(one.references) for one in asked], texts),
            "options": pa.array([list(one.options) for one in asked], texts),
            "correct": pa.array([one.correct for one in asked], pa.int32()),
            "text": pa.array([one.text for one in answers], pa.string()),
            "tokens": pa.array([one.tokens for one in answers], pa.int32()),
            "confidence": pa.array([one.confidence for one in answers], pa.float64()),
            "cut": pa.array([one.cut for one in answers], pa.bool_()),
            "option_log_probabilities": pa.array([list(one.option_log_probabilities) for one in answers], numbers),
            "reference_log_probability": pa.array([one.reference_log_probability for one in answers], pa.float64()),
            "reference_tokens": pa.array([one.reference_tokens for one in answers], pa.int32()),
        }
    )


def read_word_answers(file: Path) -> tuple[list[Asked], list[Answered]]:
    """Return the questions and answers that `write_word_answers` wrote."""
    import pyarrow.parquet as pq

    rows = pq.read_table(file).to_pylist()
    asked = [
        Asked(
            row["example_id"],
            row["subject"],
            row["question"],
            tuple(row["references"]),
            tuple(row["options"]),
            row["correct"],
        )
        for row in rows
    ]
    answers = [
        Answered(
            row["text"],
            row["tokens"],
            row["confidence"],
            row["cut"],
            tuple(row["option_log_probabilities"]),
            row["reference_log_probability"],
            row["reference_tokens"],
        )
        for row in rows
    ]
    return asked, answers
