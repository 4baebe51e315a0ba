"""A source's questions into the warehouse, and what is told of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.recipes.medqa.preparation import REASONS, prepare
from medcode_assets.recipes.medqa.recipe import NAME
from medcode_assets.recipes.medqa.settings import MedqaSection
from medcode_assets.recipes.medqa.sources import find_source, read_source
from medcode_assets.recipes.words.questions import SPLITS, Question, load_questions
from medcode_assets.warehouse import Built, fingerprint, record_of
from medcode_serving.bundle import file_sha256

if TYPE_CHECKING:
    import duckdb

VERSION = 1
"""Changes when the same source and settings come to other questions."""
MOST_DROPPED = 0.1
"""Share of a source's rows that may be of no use before it is said."""
UNEVEN = 0.35
"""Share of training questions whose right option has one place, above which a model may learn the place."""
CHECKS = {
    "few_rows_dropped": f"No more than {MOST_DROPPED:.0%} of the source's rows are of no use.",
    "places_are_even": f"No place of an option is right in more than {UNEVEN:.0%} of the training examples.",
}
USELESS = ("missing_question", "missing_option", "duplicate_options", "missing_answer", "contradiction")
"""Reasons that are faults of a source. Answers that it withholds are none."""


def load_source(
    con: "duckdb.DuckDBPyConnection",
    settings: MedqaSection,
    cache: Path,
    *,
    rebuild: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Built:
    """Make `medqa.questions` from the source that the settings name, unless it was made from the same.

    Args:
        con: Writing connection of the warehouse.
        settings: Section `medqa`.
        cache: Folder of data sets from the hub.
        rebuild: Make it even if nothing changed.
        say: Told in a sentence from where the source counts its options.

    Raises:
        MedcodeError: the source is not to be had or has a wrong row, or a split comes out empty.
    """
    source = find_source(settings, cache)
    recorded: dict[str, Any] = {"release": source.release, "sources": dict(source.files)}

    def questions() -> Iterator[Question]:
        read = read_source(source, settings.cop_base)
        say(f"{source.release}: options are counted from {read.cop_base} ({read.why})")
        found, facts = prepare(read.rows, settings)
        # `load_questions` reads the questions first and writes what is recorded of them then.
        recorded.update(preparation=facts.recorded(), cop_base=read.cop_base, cop_base_why=read.why)
        yield from found

    made_from = fingerprint(
        source=source.fingerprint,
        settings=settings.model_dump(exclude={"source", "revision"}),
        wording=file_sha256(Path(__file__).with_name("wording.yaml")),
        version=VERSION,
    )
    return load_questions(con, NAME, questions(), made_from, recorded, rebuild=rebuild)


def source_facts(con: "duckdb.DuckDBPyConnection") -> dict[str, Any]:
    """Return what was recorded of the questions: release, sources, preparation, cop_base."""
    return record_of(con, f"{NAME}.questions")


def dropped_rows(facts: dict[str, Any]) -> list[tuple[str, str, int]]:
    """Return (reason, what it means, rows) of all that was not taken."""
    return [(reason, REASONS[reason], rows) for reason, rows in facts["preparation"]["dropped"].items()]


def subject_rows(facts: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return (subject, questions of each split), those with most training questions first."""
    subjects = facts["preparation"]["subjects"].items()
    rows = [(subject, *(counts[split] for split in SPLITS)) for subject, counts in subjects]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def check_source(con: "duckdb.DuckDBPyConnection") -> list[tuple[str, bool, str]]:
    """Return (name, passed, reason) of each of `CHECKS`."""
    told = source_facts(con)["preparation"]
    faults = {reason: rows for reason in USELESS if (rows := told["dropped"].get(reason, 0))}
    share = sum(faults.values()) / max(1, told["read"])
    of_these = "; ".join(f"{rows:,}: {REASONS[reason]}" for reason, rows in faults.items())
    places = con.execute(
        f"SELECT correct, count(*) AS questions FROM {NAME}.questions WHERE split = 'train' AND correct IS NOT NULL "
        "GROUP BY correct ORDER BY questions DESC, correct"
    ).fetchall()
    in_all = sum(count for _, count in places)
    most = places[0][1] / in_all if in_all else 0.0
    return [
        (
            "few_rows_dropped",
            share <= MOST_DROPPED,
            f"{sum(faults.values()):,} of {told['read']:,} rows ({share:.1%}) are of no use"
            f"{f' ({of_these})' if of_these else ''}; at most {MOST_DROPPED:.0%}",
        ),
        ("places_are_even", most <= UNEVEN, f"the most frequent place is right in {most:.1%} of {in_all:,} examples"),
    ]
