"""What a conversion came to: the artifact of converted rows, and how they are held against their source."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from medcode_assets.artifacts import making, required, stands
from medcode_assets.recipes.consult.converting.convert import Outcome, convert, write_dataset
from medcode_assets.recipes.consult.converting.progress import moving
from medcode_assets.recipes.consult.questions import ROWS, read_rows, write_rows
from medcode_assets.recipes.consult.settings import ConsultSection
from medcode_assets.recipes.consult.sources import Conversation
from medcode_assets.recipes.consult.structure import check_structure

DATASET = "dataset"
"""Folder of the artifact that `datasets.load_from_disk` reads."""
CHECKS = {
    "nothing_lost": "Every conversation is there once, in order, with its original answer.",
    "structure_valid": "The converted answers are valid hierarchical lists (consult.least_valid of them).",
    "enough_converted": "Half of the answers or more could be converted.",
    "answers_differ": "Different answers became different lists (all but a twentieth of them).",
}
BLOCKING = {"nothing_lost"}
LEAST_CONVERTED = 0.5
MOST_ALIKE = 0.05
"""Share of converted rows whose list another answer has become, too; a model that says one thing to all has 1."""


def to_convert(target: Path, made_from: str, *, anew: bool) -> bool:
    """Whether there is something to convert: no artifact that may stay, or rows in it that got no reply."""
    return not stands(target, made_from, anew=anew) or required(target, "consult/converted")["unanswered"] > 0


def convert_source(
    source: Path, section: ConsultSection, journal: Path, target: Path, made_from: str, *, anew: bool
) -> None:
    """Convert the conversations of an artifact, with a bar, and write the artifact of what came of it.

    Args:
        source: The conversations.
        section: Names the converter.
        journal: File that keeps a model's replies.
        target: What is written.
        made_from: Its fingerprint.
        anew: Throw away what the journal has.

    Raises:
        MedcodeError: as `convert` does.
    """
    before, content = read_rows(source / ROWS), required(source, "consult/conversations")["content"]
    with tqdm(total=len(before), desc="converting", unit="row", delay=1) as bar:
        outcome = convert(before, section, journal, content=content, anew=anew, on_progress=moving(bar))
    make_converted(outcome, target, made_from)


def make_converted(outcome: Outcome, target: Path, made_from: str) -> None:
    """Write an artifact of a conversion: its rows, the data set, and what was measured."""
    measured = measure_structure(outcome)
    with making(target, made_from) as (folder, facts):
        write_rows(outcome.rows, folder / ROWS)
        write_dataset(outcome.rows, folder / DATASET)
        facts.update(measured=measured, unanswered=outcome.unanswered, failures=outcome.why)


def measure_structure(outcome: Outcome) -> dict[str, Any]:
    """Return counts and shares; the shares are over converted rows."""
    found = [check_structure(row.doctor) for row in outcome.rows if row.success]
    share = 1 / len(found) if found else 0.0
    return {
        "rows": len(outcome.rows),
        "converted": len(found),
        "not_converted": len(outcome.rows) - len(found),
        "unanswered": outcome.unanswered,
        "valid": share * sum(one.valid for one in found),
        "answer_first": share * sum(one.answer_first for one in found),
        "mean_levels": share * sum(one.levels for one in found),
        "mean_overlap": share * sum(one.overlap for one in found),
        "levels": {str(levels): count for levels, count in sorted(Counter(one.levels for one in found).items())},
    }


def measure_rows(measured: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return name and value of what `measure_structure` measured; not the levels, which are a table of their own."""
    return [(name, value) for name, value in measured.items() if not isinstance(value, dict)]


def check_converted(
    before: Sequence[Conversation], after: Sequence[Conversation], measured: dict[str, Any], section: ConsultSection
) -> list[tuple[str, bool, str]]:
    """Return name, whether it passed, and the reason of each of `CHECKS`."""
    same = [_same(one, other) for one, other in zip(before, after, strict=False)]
    lost = max(len(before), len(after)) - sum(same)
    share = measured["converted"] / max(measured["rows"], 1)
    alike = alike_share(after)
    return [
        ("nothing_lost", lost == 0, f"{lost:,} of {len(before):,} rows are missing, moved or changed"),
        (
            "structure_valid",
            measured["converted"] > 0 and measured["valid"] >= section.least_valid,
            f"{measured['valid']:.1%} of {measured['converted']:,} converted answers are valid, asked for "
            f"{section.least_valid:.0%}",
        ),
        (
            "enough_converted",
            share >= LEAST_CONVERTED,
            f"{measured['converted']:,} of {measured['rows']:,} answers were converted ({share:.1%})",
        ),
        (
            "answers_differ",
            alike <= MOST_ALIKE,
            f"{alike:.1%} of the converted answers are the list of another answer, too; {MOST_ALIKE:.0%} may be",
        ),
    ]


def alike_share(rows: Sequence[Conversation]) -> float:
    """Return the share of converted rows whose list was made of another answer, too; 0 without converted rows."""
    converted = [row for row in rows if row.success]
    originals: defaultdict[str, set[str | None]] = defaultdict(set)
    for row in converted:
        originals[row.doctor].add(row.original)
    return sum(len(originals[row.doctor]) > 1 for row in converted) / len(converted) if converted else 0.0


def _same(before: Conversation, after: Conversation) -> bool:
    """Whether a row is the one that it was made from."""
    original = before.original if before.original is not None else before.doctor
    return (before.row, before.question, original) == (after.row, after.question, after.original)
