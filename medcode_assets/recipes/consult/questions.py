"""Conversations as sealed artifacts, and from the converted ones the questions that the recipe learns."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.artifacts import making
from medcode_assets.recipes.consult.settings import SYNTHETIC, ConsultSection
from medcode_assets.recipes.consult.sources import (
    Conversation,
    Conversations,
    file_hashes,
    local_source,
    read_conversations,
)
from medcode_assets.recipes.words.questions import Question, load_questions
from medcode_assets.warehouse import Built, fingerprint
from medcode_serving.bundle import file_sha256

if TYPE_CHECKING:
    import duckdb

ROWS = "conversations.parquet"
LONGEST_STATUS = 40
"""Characters of a status that is shown as a subject; a longer one may be free text."""
MOST_STATUSES = 20
"""Different ones; a column that has more is no list of kinds."""
QUESTIONS_OF_EACH_SPLIT = (
    "SELECT split, count(*) AS questions FROM consult.questions GROUP BY split ORDER BY questions DESC"
)


def make_conversations(section: ConsultSection, cache: Path, target: Path, made_from: str) -> None:
    """Read a source and write an artifact of its rows and counts. Raises MedcodeError as `read_conversations` does."""
    found = read_conversations(section, cache)
    with making(target, made_from) as (folder, facts):
        write_rows(found.rows, folder / ROWS)
        facts.update(
            counts=_counts(found),
            converted=found.converted,
            content=content_hash(found.rows),
            release=section.source if section.source == SYNTHETIC else Path(section.source).name,
            sources=_hashes(section, folder),
        )


def content_hash(rows: Sequence[Conversation]) -> str:
    """Return a hash of rows, whatever file they are in."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(asdict(row)).encode())
    return digest.hexdigest()


def _counts(found: Conversations) -> dict[str, int]:
    return {
        "read": found.read,
        "kept": len(found.rows),
        "no_answer": found.no_answer,
        "no_question": found.no_question,
        "repeated": found.repeated,
        "patients": len({row.group for row in found.rows}),
    }


def _hashes(section: ConsultSection, folder: Path) -> dict[str, str]:
    local = None if section.source == SYNTHETIC else local_source(section.source)
    return {ROWS: file_sha256(folder / ROWS)} if local is None else file_hashes(local)


def write_rows(rows: Sequence[Conversation], file: Path) -> None:
    """Write rows to a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds: dict[str, Any] = {"row": pa.int64(), "success": pa.bool_()}
    schema = pa.schema([(one.name, kinds.get(one.name, pa.string())) for one in fields(Conversation)])
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema), file)


def read_rows(file: Path) -> tuple[Conversation, ...]:
    """Return the rows of a parquet file that `write_rows` wrote."""
    import pyarrow.parquet as pq

    return tuple(Conversation(**row) for row in pq.read_table(file).to_pylist())


def split_of(group: str, section: ConsultSection) -> str:
    """Return the split of a group: a draw by its hash, so that more data moves nothing."""
    draw = int.from_bytes(hashlib.sha256(f"{section.seed} {group}".encode()).digest()[:8]) / 2**64
    if draw < section.test_share:
        return "test"
    return "validation" if draw < section.test_share + section.validation_share else "train"


def questions_fingerprint(converted: str, section: ConsultSection) -> str:
    """Return the fingerprint of the questions of converted rows, whose `content_hash` is given.

    Not of the artifact's seal: asking once more, in vain, for rows without a reply must train nothing anew.
    """
    shares = (section.validation_share, section.test_share)
    return fingerprint(
        converted=converted, seed=section.seed, shares=shares, keep_unconverted=section.keep_unconverted, version=1
    )


def load_converted(
    con: "duckdb.DuckDBPyConnection",
    rows: Sequence[Conversation],
    section: ConsultSection,
    conversations: Mapping[str, Any],
    *,
    rebuild: bool,
) -> Built:
    """Load what is learned of converted rows into the warehouse, or keep what is there.

    Args:
        con: Writable connection of the partition.
        rows: The converted ones.
        section: Says which of them are kept, and how they are split.
        conversations: Facts of the artifact that they come from.
        rebuild: Make the table even if nothing changed.

    Raises:
        MedcodeError: as `load_questions` does.
    """
    return load_questions(
        con,
        "consult",
        consult_questions(rows, section),
        questions_fingerprint(content_hash(rows), section),
        {"release": conversations["release"], "sources": conversations["sources"]},
        rebuild=rebuild,
    )


def consult_questions(rows: Iterable[Conversation], section: ConsultSection) -> Iterator[Question]:
    """Yield what is learned: of converted rows, and of the others if they are kept.

    Their status becomes the subject, which tables and pictures show, only if it is one of a few short ones.
    """
    rows = list(rows)
    statuses = {row.status for row in rows}
    told = len(statuses) <= MOST_STATUSES and max(map(len, statuses), default=0) <= LONGEST_STATUS
    for row in rows:
        if row.success or section.keep_unconverted:
            subject = row.status if told else ""
            yield Question(row.question, row.doctor, split_of(row.group, section), row.group, subject=subject)
