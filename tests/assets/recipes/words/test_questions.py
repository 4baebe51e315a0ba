"""Questions in the warehouse: what is refused, what is skipped, and what the chain finds."""

from pathlib import Path

import pytest

from medcode_assets.config import DataSettings
from medcode_assets.recipes.words.questions import (
    Question,
    asked_questions,
    load_questions,
    question_split_hash,
    word_data_version,
    word_examples,
)
from medcode_assets.warehouse import open_warehouse
from medcode_serving.errors import MedcodeError

ROWS = [
    Question("Q1", "A1", "train", "a", subject="eyes"),
    Question("Q2", "A2", "train", "a"),
    Question("Q3", "A3", "validation", "b"),
    Question("Q4", "A4", "test", "c", references=("R", "S"), options=("x", "y"), correct=1),
    Question("Q5", "A5", "test", "d"),
]
RECORDED = {"release": "made", "sources": {"file": "0" * 64}}


@pytest.fixture
def con(tmp_path: Path):
    with open_warehouse(tmp_path / "w.duckdb") as con:
        yield con


def test_questions_become_examples_of_the_chain(con) -> None:
    load_questions(con, "quiz", ROWS, "1", RECORDED)
    word_examples("quiz")(con, DataSettings())
    assert con.execute("SELECT example_id, split, answer, gold FROM quiz.examples ORDER BY 1").fetchall() == [
        (0, "train", ["A1"], []),
        (1, "train", ["A2"], []),
        (2, "validation", ["A3"], []),
        (3, "test", ["A4"], []),
        (4, "test", ["A5"], []),
    ]
    assert con.execute("SELECT note FROM quiz.notes WHERE example_id = 2").fetchall() == [("Q3",)]
    assert con.execute("SELECT count(*) FROM quiz.labels").fetchall() == [(0,)]
    fourth, fifth = asked_questions(con, "quiz", "test", 0)
    assert (fourth.references, fourth.options, fourth.correct) == (("R", "S"), ("x", "y"), 1)
    assert (fifth.references, fifth.options, fifth.correct) == (("A5",), (), None)
    assert len(asked_questions(con, "quiz", "test", 1)) == 1
    version = word_data_version("quiz")(con, Path(), "p", 2)
    assert (version.release, version.sources, version.train_documents) == ("made", RECORDED["sources"], 2)
    assert version.split_hash == question_split_hash(con, "quiz")


def test_the_same_source_is_not_read_again(con) -> None:
    first = load_questions(con, "quiz", ROWS, "1", RECORDED)

    def unread():
        raise AssertionError("read")
        yield

    again = load_questions(con, "quiz", unread(), "1", RECORDED)
    assert again.skipped
    assert again.fingerprint == first.fingerprint
    assert not load_questions(con, "quiz", ROWS[:4], "2", RECORDED).skipped


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row for row in ROWS if row.split != "validation"], "the validation split has no question"),
        ([*ROWS, Question("Q6", "A6", "test", "a")], "1 groups of questions are in more than one split"),
        ([*ROWS, Question("Q6", "A6", "dev", "z")], "unknown splits dev"),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_is_kept(con, rows: list[Question], message: str) -> None:
    with pytest.raises(MedcodeError, match=message):
        load_questions(con, "quiz", rows, "1", RECORDED)
    assert con.execute("SELECT count(*) FROM made WHERE name = 'quiz.questions'").fetchall() == [(0,)]


def test_the_split_hash_knows_groups_and_splits_only(con) -> None:
    load_questions(con, "quiz", ROWS, "1", RECORDED)
    first = question_split_hash(con, "quiz")
    other_words = [Question("other", row.answer, row.split, row.group) for row in reversed(ROWS)]
    load_questions(con, "quiz", other_words, "2", RECORDED)
    assert question_split_hash(con, "quiz") == first
    load_questions(con, "quiz", [*ROWS, Question("Q6", "A6", "train", "z")], "3", RECORDED)
    assert question_split_hash(con, "quiz") != first
