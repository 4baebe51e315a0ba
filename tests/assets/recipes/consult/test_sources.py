"""Conversations from every kind of source, and what is wrong with one told with its row."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medcode_assets.recipes.consult.questions import consult_questions, read_rows, split_of, write_rows
from medcode_assets.recipes.consult.settings import ConsultSection
from medcode_assets.recipes.consult.sources import Conversation, read_conversations, source_fingerprint
from medcode_serving.errors import MedcodeError
from tests.assets.recipes.damaged_files import write_damaged_stream

ROWS: list[dict[str, Any]] = [
    {"Description": "Q. Is it a cold?", "Patient": "Hi, I cough.", "Doctor": "Yes, a cold.\nRest.", "Status": "low"},
    {"Description": "Q. Ear", "Patient": "My ear hurts, doctor", "Doctor": None, "Status": "low severity"},
    {"Description": "Q. Is it a cold?", "Patient": "hi I cough", "Doctor": "yes a cold rest", "Status": "low"},
    {"Description": "Q. Is it a cold?", "Patient": "Hi, I cough.", "Doctor": 'No, "asthma", see us.', "Status": None},
    {"Description": "Q. Knee", "Patient": None, "Doctor": "Rest it.", "Status": "high"},
    {"Description": None, "Patient": "  ", "Doctor": "Whatever.", "Status": "high"},
    {"Description": "Q. Tail", "Patient": "Its tail", "Doctor": " null ", "Status": "high"},
]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_stream(path: Path, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table)


def write_arrow_file(path: Path, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table)


def save_to_disk(path: Path, rows: list[dict[str, Any]]) -> None:
    from datasets import Dataset

    Dataset.from_list(rows).save_to_disk(str(path))


def folder_of_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.mkdir()
    (path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], Any]] = {
    "rows.csv": write_csv,
    "rows.jsonl": lambda path, rows: path.write_text("\n".join(map(json.dumps, rows)) + "\n\n"),
    "rows.json": lambda path, rows: path.write_text(json.dumps(rows, indent=1)),
    "rows.parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path),
    "stream.arrow": write_stream,
    "file.arrow": write_arrow_file,
    "saved": save_to_disk,
    "hub": folder_of_jsonl,
}


def section(path: Path, **more: Any) -> ConsultSection:
    return ConsultSection(source=str(path), **more)


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_source_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, ROWS)
    found = read_conversations(section(tmp_path / name), tmp_path / "cache")
    assert (found.read, found.no_answer, found.no_question, found.repeated) == (7, 2, 1, 1)
    assert [row.row for row in found.rows] == [1, 4, 5]
    first, second, third = found.rows
    assert first.question == "Is it a cold?\n\nHi, I cough."
    assert first.doctor == "Yes, a cold.\nRest."
    assert (second.status, third.question) == ("", "Knee")
    assert first.group == second.group != third.group
    assert not found.converted


def test_what_the_patient_says_already_is_not_asked_twice() -> None:
    assert Conversation(1, "Q. I cough", "Doctor, I cough!", "Yes.", "").question == "Doctor, I cough!"


def test_a_converted_data_set_is_taken_as_it_is(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"_original_doctor": "Old.", "_conversion_success": flag} for flag in (True, False)]
    rows[1]["Patient"] = "Another one"
    for name in ("rows.csv", "saved"):
        WRITERS[name](tmp_path / name, rows)
        found = read_conversations(section(tmp_path / name), tmp_path)
        assert found.converted
        assert [(row.original, row.success) for row in found.rows] == [("Old.", True), ("Old.", False)]


def test_made_conversations_and_their_fingerprint(tmp_path: Path) -> None:
    made = ConsultSection(source="synthetic", count=100, seed=1)
    found = read_conversations(made, tmp_path)
    assert found.read == 100
    assert found.no_answer > 0 and found.repeated > 0
    assert source_fingerprint(made) == source_fingerprint(made.model_copy(update={"workers": 3}))
    assert source_fingerprint(made) != source_fingerprint(made.model_copy(update={"seed": 2}))


def test_a_files_fingerprint_is_that_of_its_contents(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ROWS)
    before = source_fingerprint(section(tmp_path / "a.csv"))
    write_csv(tmp_path / "a.csv", ROWS[:-1])
    assert source_fingerprint(section(tmp_path / "a.csv")) != before


@pytest.mark.parametrize("source", ["~nobody-has-this-name/a.csv", f"/tmp/{'a' * 300}.csv"])
def test_a_name_that_is_no_path_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match=r"consult\.source .*: no usable path"):
        read_conversations(section(source), tmp_path)


def test_a_saved_data_set_with_other_bytes_than_text_is_refused(tmp_path: Path) -> None:
    import datasets

    other = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    texts = {name: pa.array(["text"]) for name in ("Description", "Doctor", "Status")}
    datasets.Dataset(pa.table({**texts, "Patient": other})).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(MedcodeError, match="saved, split train: broken behind row 0"):
        read_conversations(section(tmp_path / "saved"), tmp_path)


def test_a_file_without_a_header_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("a.csv", "data/a.csv"):
        (tmp_path / name).write_text("Ann,has HIV,rest,ok\nb,c,d,e\n")
    for source in ("a.csv", "data"):
        with pytest.raises(MedcodeError) as refusal:
            read_conversations(section(tmp_path / source), tmp_path)
        assert "Ann" not in str(refusal.value) and "HIV" not in str(refusal.value)


HEAD = b"Description,Patient,Doctor,Status\n"
BAD: dict[str, tuple[str, bytes, str]] = {
    "no column": ("a.csv", b"Description,Patient,Status\na,b,c\n", "a.csv: no column Doctor; it has Description"),
    "no header": ("a.csv", b"Ann has HIV,rest\nb,c\n", "it has none of these and 2 other columns, and needs Desc"),
    "column twice": ("a.csv", b"Doctor," + HEAD + b"x,a,b,c,d\n", "a.csv: column Doctor is there twice"),
    "empty csv": ("a.csv", b"", "a.csv: holds no row"),
    "header only": ("a.csv", HEAD, "a.csv: holds no row"),
    "too few cells": ("a.csv", HEAD + b"a,b,c,d\na,b\n", r"a.csv, row 2 \(line 3\): 2 cells, and the header has 4"),
    "open quote": ("a.csv", HEAD + b'a,b,"c,d\n', r"a.csv, row 1 \(line 2\): no well-formed CSV"),
    "mixed encodings": (
        "a.csv",
        HEAD + "a,é,c,d\n".encode() + b"a,\xe9,c,d\n",
        r"a.csv, line 3: byte 3 of it is no UTF-8.*iconv -f WINDOWS-1252",
    ),
    "utf-16": ("a.csv", "Description,Patient,Doctor,Status\na,b,c,d\n".encode("utf-16"), "a.csv, line 1: byte 1"),
    "broken json line": ("a.jsonl", b'{"Description": 1\n', r"a.jsonl, row 1 \(line 1\): no JSON"),
    "json line of a list": ("a.jsonl", b"[1]\n", "row 1.*a list and no object"),
    "json line without a column": ("a.jsonl", b'{"Patient": "p"}\n', "row 1.*no column Description, Doctor, Status"),
    "wrong type": (
        "a.jsonl",
        b'\n{"Description": "d", "Patient": 7, "Doctor": "d", "Status": "s"}\n',
        r"a.jsonl, row 1 \(line 2\): column Patient holds a int",
    ),
    "half a character": (
        "a.jsonl",
        b'{"Description": "d", "Patient": "p", "Doctor": "\\ud83d", "Status": "s"}',
        r"a.jsonl, row 1 \(line 1\): column Doctor has half a character",
    ),
    "json object": ("a.json", b"{}", "a.json: no list of rows"),
    "deep json": ("a.json", b"[" * 100_000, "a.json: a number too long or brackets too deep"),
    "empty parquet": ("a.parquet", b"", "a.parquet: no whole parquet file"),
    "no parquet": ("a.parquet", b"PAR1 it is not", "a.parquet: no whole parquet file"),
    "no arrow": ("a.arrow", b"not arrow at all", "a.arrow: no whole Arrow file"),
    "unknown ending": ("a.xlsx", b"PK", "a.xlsx: no .csv, .jsonl"),
    "nobody answered": ("a.csv", HEAD + b"a,b,,d\n", "none of 1 rows has a question and a doctor's answer"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_with_file_and_row(what: str, tmp_path: Path) -> None:
    name, contents, told = BAD[what]
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(MedcodeError, match=told) as raised:
        read_conversations(section(tmp_path / name), tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["rows.parquet", "stream.arrow", "file.arrow"])
def test_a_truncated_file_is_named(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, ROWS * 3_000)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MedcodeError, match=f"{name}: no whole"):
        read_conversations(section(tmp_path / name), tmp_path)


def test_wrong_types_and_columns_of_data_sets(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "types", [{**ROWS[0], "Doctor": 5}])
    with pytest.raises(MedcodeError, match="types, split train, row 1: column Doctor holds a int"):
        read_conversations(section(tmp_path / "types"), tmp_path)
    save_to_disk(tmp_path / "columns", [{"Patient": "p"}])
    with pytest.raises(MedcodeError, match="columns, split train: no column Description, Doctor, Status"):
        read_conversations(section(tmp_path / "columns"), tmp_path)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(MedcodeError, match="nothing: no data set that can be read"):
        read_conversations(section(tmp_path / "nothing"), tmp_path)


def test_what_is_not_there_is_named() -> None:
    for source in ("/no/such/folder", "./rows.csv", "rows.csv", "one", "a/b/c"):
        with pytest.raises(MedcodeError, match="nothing there; give a file"):
            read_conversations(ConsultSection(source=source), Path("cache"))


def test_a_hub_data_set_that_cannot_be_had_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        MedcodeError, match=r"'mahfoos/Patient-Doctor-Conversation' is not in .*consult.source=synthetic"
    ):
        read_conversations(ConsultSection(), tmp_path)


def test_splits_are_by_patient_and_stay_where_they_are(tmp_path: Path) -> None:
    made = ConsultSection(source="synthetic", count=600)
    rows = read_conversations(made, tmp_path).rows
    converted = [Conversation(**{**vars(row), "success": row.row % 7 != 0}) for row in rows]
    questions = list(consult_questions(converted, made))
    assert len(questions) == sum(row.success for row in converted)
    splits = [question.split for question in questions]
    assert splits == [split_of(question.group, made) for question in questions]
    shares = {name: splits.count(name) / len(splits) for name in ("train", "validation", "test")}
    assert shares["train"] == pytest.approx(0.8, abs=0.05)
    assert shares["test"] == pytest.approx(0.1, abs=0.04)
    assert {question.subject for question in questions} == {"low severity", "medium severity", "high severity"}
    kept = made.model_copy(update={"keep_unconverted": True})
    assert len(list(consult_questions(converted, kept))) == len(converted)


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = (
        Conversation(1, "d", "p", "a", "s"),
        Conversation(9, "", "p\n2", "b", "", original="c", success=True),
    )
    write_rows(rows, tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet") == rows


@pytest.mark.parametrize("row", [1, 15, 30])
def test_a_damaged_arrow_file_ends_in_a_line_and_not_the_process(tmp_path: Path, row: int) -> None:
    write_damaged_stream(tmp_path / "a.arrow", ("Description", "Patient", "Doctor", "Status"), row)
    with pytest.raises(MedcodeError, match=r"a\.arrow"):
        read_conversations(section(tmp_path / "a.arrow"), tmp_path)
