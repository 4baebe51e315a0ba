"""What specialty files may look like, what becomes of their rows, and what a wrong one says."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_assets.recipes.specialty.sources import question_key, read_folder, read_source
from medcode_serving.errors import MedcodeError

QA = {"question": "What lowers fever?", "answer": "Paracetamol."}


def write(folder: Path, specialty: str, rows: Any, *, suffix: str = "json") -> Path:
    file = folder / f"dataset_with_answers_{specialty}.{suffix}"
    if suffix == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        file.write_text(json.dumps(rows), encoding="utf-8")
    return file


def test_lists_and_lines_and_all_names_of_the_fields_are_read(tmp_path: Path) -> None:
    write(tmp_path, "cardiology", [QA, {"input": "And pain?", "output": " Rest. "}])
    write(tmp_path, "ear nose throat", [{"id": 7, "question": "Ears?", "generated_answer": "Two."}], suffix="jsonl")
    (tmp_path / "README.md").write_text("no data")
    found = read_folder(tmp_path)
    assert [(item.specialty, item.question, item.answers) for item in found.items] == [
        ("cardiology", "What lowers fever?", ("Paracetamol.",)),
        ("cardiology", "And pain?", ("Rest.",)),
        ("ear nose throat", "Ears?", ("Two.",)),
    ]
    assert found.items[2].id == "ear nose throat:7"
    assert set(found.files) == {"dataset_with_answers_cardiology.json", "dataset_with_answers_ear nose throat.jsonl"}


@pytest.mark.parametrize("name", ["$x^{$", "_x", "a|b", "x\ty", "a\u202eb", "all", os.fsdecode(b"\xff")])
def test_a_name_that_pictures_and_tables_take_for_something_else_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, [QA])
    with pytest.raises(MedcodeError, match="names no specialty") as refusal:
        read_folder(tmp_path)
    assert str(refusal.value).isprintable()


def test_a_row_without_answer_is_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path, "a", [QA, {"question": "q", "answer": None}, {"question": "r", "answer": "  "}])
    found = read_folder(tmp_path)
    assert (found.read["a"].rows, found.read["a"].unanswered, len(found.items)) == (3, 2, 1)


def test_identical_questions_are_one_over_all_files_and_keep_every_answer(tmp_path: Path) -> None:
    write(tmp_path, "a", [QA, {"question": "what  LOWERS fever", "answer": "Ibuprofen."}, QA])
    write(tmp_path, "b", [{"question": "What lowers fever ?", "answer": "Rest."}, {"question": "x", "answer": "y"}])
    found = read_folder(tmp_path)
    assert [item.answers for item in found.items] == [("Paracetamol.", "Ibuprofen.", "Rest."), ("y",)]
    assert {name: read.duplicates for name, read in found.read.items()} == {"a": 2, "b": 1}


def test_signs_that_matter_make_another_question() -> None:
    assert question_key("pH < 7.2?") != question_key("pH > 7.2?")
    assert question_key("Best drug?", ["a", "b"]) == question_key("best drug", ["B", "A"])
    assert question_key("Best drug?", ["a", "b"]) != question_key("Best drug?", ["a", "c"])


@given(st.text())
def test_a_question_is_itself_whatever_its_spacing_and_case(text: str) -> None:
    assert question_key(text) == question_key(f" {text}\n")


def test_options_are_asked_and_the_right_one_is_known(tmp_path: Path) -> None:
    options = ["Aspirin", "Heparin"]
    write(
        tmp_path,
        "a",
        [
            {"question": "Which?", "options": options, "answer": "heparin."},
            {"question": "And which?", "options": {"A": "Aspirin", "B": "Heparin"}, "answer": "A"},
            {"question": "Why?", "options": options, "answer": "Because it is."},
        ],
    )
    by_text, by_label, free = read_folder(tmp_path).items
    assert by_text.question == "Which?\nA. Aspirin\nB. Heparin"
    assert (by_text.options, by_text.correct) == (("Aspirin", "heparin."), 1)
    assert (by_label.options, by_label.correct) == (("A", "B"), 0)
    assert (free.options, free.correct) == ((), None)


def test_reordering_and_reformatting_leave_the_contents_hash(tmp_path: Path) -> None:
    one, other, changed = tmp_path / "one", tmp_path / "other", tmp_path / "changed"
    for folder in (one, other, changed):
        folder.mkdir()
    rows = [{"question": f"q{number}", "answer": f"a{number}"} for number in range(5)]
    write(one, "a", rows)
    write(other, "a", rows[::-1], suffix="jsonl")
    write(changed, "a", [*rows[:4], {"question": "q4", "answer": "another"}])
    assert read_folder(one).contents() == read_folder(other).contents()
    assert read_folder(one).contents() != read_folder(changed).contents()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([QA, {"answer": "x"}], r"row 2: no field 'question' \(nor 'input'\)"),
        ([{"question": "x"}], "row 1: no field 'answer'"),
        ([QA, {"question": 5, "answer": "x"}], "row 2: question is a number, not a text"),
        ([{"question": "x", "answer": ["y"]}], "row 1: answer is a list, not a text"),
        ([{"question": " ", "answer": "y"}], "row 1: the question is null or blank"),
        ([QA, "text"], "row 2: a text, not an object"),
        ([{**QA, "id": 1}, {"question": "other", "answer": "x", "id": "1"}], "row 2: its id is that of row 1"),
        ([{**QA, "id": 1.5}], "row 1: id is a number; give a text or a whole number"),
        ([{**QA, "options": "A"}], "row 1: options is a text"),
        ([{**QA, "options": ["x", None]}], "row 1: an option is null"),
        ([{"question": "\ud800", "answer": "x"}], "row 1: question has half a character"),
        ([], "it has no rows"),
        ([{"question": "x", "answer": None}], "none of its 1 rows has an answer"),
    ],
)
def test_a_wrong_row_is_named_without_its_text(tmp_path: Path, rows: Any, message: str) -> None:
    file = write(tmp_path, "a", rows)
    with pytest.raises(MedcodeError, match=message) as raised:
        read_folder(tmp_path)
    assert str(file) in str(raised.value)
    assert "fever" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "it has no rows"),
        (b'[{"question": "q", "answer": "a"}', "line 1: broken JSON"),
        (b'{"question": "q", "answer": "a"}\n{"question": "q2", "answer"\n', "line 2: broken JSON"),
        (b'{"question": "q", "answer": "a"}\n\n{"question": "na\xefve", "answer": "a"}\n', "line 3: byte 0xef"),
        ('[{"question": "q", "answer": "a"}]'.encode("utf-16"), "it is UTF-16"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"question": "q", "answer": ' + b"9" * 5000 + b"}", "number too long"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "dataset_with_answers_a.json").write_bytes(raw)
    with pytest.raises(MedcodeError, match=message):
        read_folder(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "dataset_with_answers_a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([QA]).encode())
    assert read_folder(tmp_path).items[0].question == QA["question"]


def test_a_folder_must_be_there_with_one_file_a_specialty(tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match="no such folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(MedcodeError, match="no file dataset_with_answers_"):
        read_folder(tmp_path)
    write(tmp_path, "a", [QA])
    write(tmp_path, "a", [QA], suffix="jsonl")
    with pytest.raises(MedcodeError, match="of the same specialty"):
        read_folder(tmp_path)


def test_synthetic_specialties_are_a_source_that_stays_the_same() -> None:
    found, again = (read_source("synthetic", synthetic_per_specialty=30, seed=0) for _ in range(2))
    assert len(found.read) >= 3
    assert found.contents() == again.contents()
