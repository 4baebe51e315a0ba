"""Questions with their answers as tables of the warehouse, and from these the examples of a recipe in words.

A recipe's own assets bring its questions as `Question`s, wherever they come from; from `<recipe>.questions` on, the
chain is the same for all.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.config import DataSettings
from medcode_assets.recipes.recipe import BuildExamples, TellDataVersion
from medcode_assets.warehouse import Built, Source, built, fingerprint, inputs, one_value, record_of, write_table
from medcode_serving.bundle import DataVersion
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

SPLITS = ("train", "validation", "test")
BATCH = 2_000
"""Questions that go into the warehouse together."""
COLUMNS = (
    "question_id BIGINT, group_id BIGINT, split VARCHAR, subject VARCHAR, question VARCHAR, answer VARCHAR, "
    '"references" VARCHAR[], options VARCHAR[], correct INTEGER'
)


@dataclass(frozen=True)
class Question:
    """A question with the answer that training teaches."""

    question: str
    """What the model is asked, as the user's message holds it; options of a multiple-choice question included."""
    answer: str
    """The completion."""
    split: str
    """train, validation or test."""
    group: str
    """What must stay within one split: the row that it was made from, or the person, or the hash of its text."""
    subject: str = ""
    """Specialty, medical subject or topic, by which figures are told; no text of a patient."""
    references: tuple[str, ...] = ()
    """What written answers are measured against, the best counts; none: the answer."""
    options: tuple[str, ...] = ()
    """Of a multiple-choice question: the completions whose likelihoods are compared, in the question's order."""
    correct: int | None = None
    """Place of the right one, from 0."""


def load_questions(
    con: "duckdb.DuckDBPyConnection",
    recipe: str,
    questions: Iterable[Question],
    made_from: str,
    recorded: dict[str, Any],
    *,
    rebuild: bool = False,
) -> Built:
    """Make `<recipe>.questions`, a row a question in the order given, unless it was made from the same.

    Args:
        con: Writing connection of the warehouse.
        recipe: Name of the recipe, which is its schema.
        questions: Read only if the table has to be made.
        made_from: Fingerprint of all that they come from.
        recorded: What bundles tell of the data: `release` (a short name of the data set) and `sources` (sha256 of each
            file by name), and whatever else is JSON.
        rebuild: Make it even if nothing changed.

    Raises:
        MedcodeError: a split has no question, or one group is in two splits.
    """
    table = f"{recipe}.questions"
    made_from = fingerprint(questions=made_from, version=1)
    earlier = built(con, table)
    if earlier and earlier.fingerprint == made_from and not rebuild:
        return earlier
    con.execute(f"CREATE SCHEMA IF NOT EXISTS {recipe}")

    def create() -> None:
        con.execute(f"CREATE OR REPLACE TABLE {table} ({COLUMNS})")
        rows, first = iter(questions), 0
        while batch := list(islice(rows, BATCH)):
            con.register("questions_read", _table(batch, first))
            con.execute(f"INSERT INTO {table} SELECT * FROM questions_read")
            con.unregister("questions_read")
            first += len(batch)

    return write_table(con, table, Source(made_from, recorded), create, check=lambda _: _refuse_unusable(con, recipe))


def _table(batch: list[Question], first: int) -> "pa.Table":
    import pyarrow as pa

    texts = pa.list_(pa.string())
    return pa.table(
        {
            "question_id": pa.array(range(first, first + len(batch)), pa.int64()),
            "group_id": pa.array([group_number(row.group) for row in batch], pa.int64()),
            "split": pa.array([row.split for row in batch], pa.string()),
            "subject": pa.array([row.subject for row in batch], pa.string()),
            "question": pa.array([row.question for row in batch], pa.string()),
            "answer": pa.array([row.answer for row in batch], pa.string()),
            "references": pa.array([list(row.references) or [row.answer] for row in batch], texts),
            "options": pa.array([list(row.options) for row in batch], texts),
            "correct": pa.array([row.correct for row in batch], pa.int32()),
        }
    )


def group_number(group: str) -> int:
    """Return a number of 56 bits for a group's name."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:7])


def _refuse_unusable(con: "duckdb.DuckDBPyConnection", recipe: str) -> None:
    counts = dict(con.execute(f"SELECT split, count(*) FROM {recipe}.questions GROUP BY split").fetchall())
    for split in SPLITS:
        if not counts.pop(split, 0):
            raise MedcodeError(
                f"recipe {recipe}: the {split} split has no question; give it more rows or larger shares"
            )
    if counts:
        raise MedcodeError(f"recipe {recipe}: unknown splits {', '.join(sorted(counts))}")
    torn = one_value(
        con,
        f"SELECT count(*) FROM (SELECT group_id FROM {recipe}.questions GROUP BY ALL HAVING count(DISTINCT split) > 1)",
    )
    if torn:
        raise MedcodeError(f"recipe {recipe}: {torn} groups of questions are in more than one split")


def word_examples(recipe: str) -> BuildExamples:
    """Return what makes a recipe's examples from `<recipe>.questions`."""
    return partial(_build_examples, recipe)


def _build_examples(
    recipe: str, con: "duckdb.DuckDBPyConnection", settings: DataSettings, rebuild: bool = False
) -> Built:
    """Make the tables that the chain looks for, as `BuildExamples` has them; there are no codes."""
    made_from = fingerprint(inputs=inputs(con, f"{recipe}.questions"), version=1)
    earlier = built(con, f"{recipe}.examples")
    if earlier and earlier.fingerprint == made_from and not rebuild:
        return earlier

    def create() -> None:
        con.execute(
            f"CREATE OR REPLACE TABLE {recipe}.labels (label INTEGER, system VARCHAR, code VARCHAR, text VARCHAR, "
            "description VARCHAR, frequency BIGINT)"
        )
        con.execute(
            f"CREATE OR REPLACE TABLE {recipe}.examples AS SELECT question_id AS example_id, group_id AS subject_id, "
            f"split, []::INTEGER[] AS gold, [answer] AS answer FROM {recipe}.questions"
        )
        con.execute(
            f"CREATE OR REPLACE VIEW {recipe}.notes AS SELECT question_id AS example_id, question AS note "
            f"FROM {recipe}.questions"
        )
        con.execute(
            f"CREATE OR REPLACE VIEW {recipe}.dictionary AS SELECT system, code, description FROM {recipe}.labels"
        )

    return write_table(con, f"{recipe}.examples", Source(made_from), create)


def word_data_version(recipe: str) -> TellDataVersion:
    """Return what tells which questions a warehouse holds."""
    return partial(_data_version, recipe)


def _data_version(
    recipe: str, con: "duckdb.DuckDBPyConnection", home: Path, partition: str, train_documents: int
) -> DataVersion:
    told = record_of(con, f"{recipe}.questions")
    return DataVersion(
        partition=partition,
        release=told.get("release", recipe),
        sources=told.get("sources", {}),
        split_hash=question_split_hash(con, recipe),
        train_documents=train_documents,
    )


def question_split_hash(con: "duckdb.DuckDBPyConnection", recipe: str) -> str:
    """Return the sha256 over the sorted (group, split) pairs, as `group_id:split` lines."""
    pairs = f"SELECT DISTINCT group_id, split FROM {recipe}.questions"
    return str(
        one_value(
            con, f"SELECT sha256(string_agg(group_id || ':' || split, chr(10) ORDER BY group_id, split)) FROM ({pairs})"
        )
    )


@dataclass(frozen=True)
class Asked:
    """A question of the test split, as the model is asked and its answers are measured."""

    example_id: int
    subject: str
    question: str
    references: tuple[str, ...]
    options: tuple[str, ...] = ()
    correct: int | None = None


def asked_hash(asked: Sequence[Asked]) -> str:
    """Return the sha256 over questions and references: figures compare where it is the same."""
    return fingerprint(asked=sorted((one.question, *one.references) for one in asked))


def asked_questions(con: "duckdb.DuckDBPyConnection", recipe: str, split: str, limit: int) -> list[Asked]:
    """Return a split's questions by number, at most `limit` (0: all), the same ones each time."""
    rows = con.execute(
        f"""
        SELECT * FROM (
            SELECT question_id, subject, question, "references", options, correct FROM {recipe}.questions
            WHERE split = $split ORDER BY md5(CAST(question_id AS VARCHAR)), question_id
            LIMIT CASE WHEN $limit = 0 THEN 9223372036854775807 ELSE $limit END
        ) ORDER BY question_id
        """,
        {"split": split, "limit": limit},
    ).fetchall()
    return [Asked(row[0], row[1], row[2], tuple(row[3]), tuple(row[4]), row[5]) for row in rows]
