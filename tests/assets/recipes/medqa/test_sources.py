"""Files and data sets of MedMCQA's shape are read, and what is wrong with one is told with file and row."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medcode_assets.recipes.medqa.rows import ExamRow, unlabelled
from medcode_assets.recipes.medqa.settings import MedqaSection
from medcode_assets.recipes.medqa.sources import ReadQuestions, find_source, hub_source, read_source
from medcode_serving.errors import MedcodeError
from tests.assets.recipes.damaged_files import write_damaged_stream
from tests.assets.recipes.medqa.exam_rows import DRUGS, record


def read(path: Path, cop_base: str = "auto") -> ReadQuestions:
    settings = MedqaSection(source=str(path), cop_base=cop_base)  # type: ignore[arg-type]
    return read_source(find_source(settings, path.parent / "cache"), settings.cop_base)


def write_lines(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path


def right(rows: Sequence[ExamRow]) -> list[str | None]:
    return [None if row.cop is None else row.options[row.cop] for row in rows]


def test_the_authors_count_options_from_one(tmp_path: Path) -> None:
    found = read(write_lines(tmp_path / "dev.jsonl", [record(n, cop=n % 4 + 1) for n in range(8)]))
    assert found.cop_base == 1
    assert right(found.rows) == [*DRUGS, *DRUGS]


@pytest.mark.parametrize("name", ["q.jsonl", "q.json", "array.json", "q.parquet", "q.arrow"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    records = [record(n, cop=n % 4, exp=f"why {n}") for n in range(6)]
    path = tmp_path / name
    table = pa.Table.from_pylist(records)
    if name == "array.json":
        path.write_text(json.dumps(records, indent=1), encoding="utf-8")
    elif name.endswith(".parquet"):
        pq.write_table(table, path)
    elif name.endswith(".arrow"):
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    else:
        write_lines(path, records)
    found = read(path)
    assert found.cop_base == 0
    assert right(found.rows) == [*DRUGS, *DRUGS[:2]]
    assert [row.explanation for row in found.rows] == [f"why {n}" for n in range(6)]


def test_the_hubs_way_of_loading_counts_from_zero_and_has_no_answers_in_test(tmp_path: Path) -> None:
    import datasets

    names = datasets.ClassLabel(names=["a", "b", "c", "d"])
    folder = tmp_path / "openlife" / "data"
    folder.mkdir(parents=True)
    for split, cops in {"train": [1, 2, 3, 1], "validation": [1, 2], "test": [-1, -1]}.items():
        made = datasets.Dataset.from_list([record(n, cop=cop) for n, cop in enumerate(cops)])
        made.cast_column("cop", names).to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    source = hub_source(str(tmp_path / "openlife"), None, tmp_path / "cache")
    found = read_source(source)
    assert (found.cop_base, source.base) == (0, 0)
    assert {row.split for row in found.rows} == {"train", "validation", "test"}
    assert right([row for row in found.rows if row.split == "train"]) == ["warfarin", "aspirin", "insulin", "warfarin"]
    assert right([row for row in found.rows if row.split == "test"]) == [None, None]
    # The same files as a local folder tell it by themselves, too.
    local = read(tmp_path / "openlife")
    assert local.cop_base == 0
    assert sorted(map(str, right(local.rows))) == sorted(map(str, right(found.rows)))


def test_a_hub_that_is_not_to_be_had_is_named_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    with pytest.raises(MedcodeError, match=r"openlifescienceai/medmcqa: not in .*cache.*name its folder"):
        hub_source("openlifescienceai/medmcqa", None, tmp_path / "cache")


def test_a_file_that_does_not_tell_where_it_counts_from_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "q.jsonl", [record(n, cop=n % 3 + 1) for n in range(6)])
    with pytest.raises(MedcodeError, match="never 0 and never 4.*set medqa.cop_base"):
        read(path)
    assert right(read(path, "1").rows)[:3] == list(DRUGS[:3])
    assert right(read(path, "0").rows)[:3] == list(DRUGS[1:])


def test_a_setting_that_the_file_contradicts_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "q.jsonl", [record(0, cop=1), record(1, cop=4)])
    with pytest.raises(MedcodeError, match=r"cop_base is 0, and column cop is 4 in .*q.jsonl, line 2"):
        read(path, "0")


BAD: dict[str, tuple[list[Any], str]] = {
    "no question": ([record(0), {"opa": "x"}], "line 2: no column question"),
    "no option": ([{k: v for k, v in record(0).items() if k != "opc"}], "line 1: no column opc"),
    "no cop": ([{k: v for k, v in record(0).items() if k != "cop"}], "line 1: no column cop"),
    "open without answer": ([{"question": "Why?"}], "line 1: no columns opa, .*open questions need an answer"),
    "number for text": ([record(0), record(1, opb=7)], "line 2: column opb is a int; expected text"),
    "text for cop": ([record(0, cop="b")], 'line 1: column cop is text; expected the number .*2 and not "2"'),
    "true for cop": ([record(0, cop=True)], "line 1: column cop is a bool"),
    "cop without end": ([record(0, cop=float("inf"))], "line 1: column cop is a float"),
    "half a character": ([record(0), record(1, opb="aspirin \ud83d")], "line 2: column opb has half a character"),
    "cop out of range": ([record(0, cop=5)], "line 1: column cop is 5"),
    "both counts": ([record(0, cop=0), record(1, cop=4)], "cop is 0 in .*line 1 and 4 in .*line 2"),
    "no object": ([record(0), ["a"]], "line 2: a list where an object"),
    "empty": ([], "has no rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_row_is_told_with_file_and_row(tmp_path: Path, case: str) -> None:
    records, message = BAD[case]
    with pytest.raises(MedcodeError, match=message) as raised:
        read(write_lines(tmp_path / "q.jsonl", records))
    assert "illness" not in str(raised.value)
    if case != "both counts":
        assert "q.jsonl" in str(raised.value)


def test_lines_are_counted_with_blank_ones_and_rows_without(tmp_path: Path) -> None:
    good, bad = (json.dumps(record(cop=cop)) for cop in (4, 7))
    lines = tmp_path / "q.jsonl"
    lines.write_text(f"\n{good}\n\n\n{bad}\n", encoding="utf-8")
    with pytest.raises(MedcodeError, match=r"q\.jsonl, line 5: column cop is 7"):
        read(lines)
    array = tmp_path / "q.json"
    array.write_text(f"\n[{good},\n\n{bad}]", encoding="utf-8")
    with pytest.raises(MedcodeError, match=r"q\.json, row 2: column cop is 7"):
        read(array)


def test_an_answer_that_is_withheld_is_told_from_one_that_is_missing(tmp_path: Path) -> None:
    without = {name: value for name, value in record(2).items() if name != "cop"}
    write_lines(tmp_path / "test.jsonl", [record(0, cop=-1), record(1, cop=None), without])
    write_lines(tmp_path / "train.jsonl", [record(3, cop=4)])
    withheld = {row.place: row.withheld for row in read(tmp_path).rows if row.split == "test"}
    assert withheld == {"line 1": True, "line 2": False, "line 3": True}


def test_broken_files_are_told_with_the_row(tmp_path: Path) -> None:
    lines = [json.dumps(record(n, cop=4)) for n in range(3)]
    broken = tmp_path / "broken.jsonl"
    broken.write_text(lines[0] + "\n" + lines[1][:40] + "\n", encoding="utf-8")
    with pytest.raises(MedcodeError, match=r"broken.jsonl, line 2: no JSON"):
        read(broken)
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_bytes(f"{lines[0]}\n".encode() + '{"question": "Sjögren"}\n'.encode("cp1252"))
    with pytest.raises(MedcodeError, match=r"mixed.jsonl, line 2: not UTF-8 \(byte 0xf6\).*iconv"):
        read(mixed)
    array = tmp_path / "array.json"
    array.write_bytes(b"[\n" + lines[0].encode() + b',\n{"question": "Sj\xf6gren"}]')
    with pytest.raises(MedcodeError, match=r"array.json, line 3: not UTF-8"):
        read(array)
    for name, contents in {"deep.json": "[" * 100_000, "deep.jsonl": "[" * 100_000, "long.jsonl": "9" * 5_000}.items():
        (tmp_path / name).write_text(contents, encoding="utf-8")
        with pytest.raises(MedcodeError, match=rf"{name}.*too deep or a number too long"):
            read(tmp_path / name)
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.Table.from_pylist([record(n, cop=4) for n in range(50)]), whole)
    for name, ending in (("cut.parquet", ".parquet"), ("cut.arrow", ".arrow")):
        cut = tmp_path / name
        cut.write_bytes(whole.read_bytes()[:300])
        with pytest.raises(MedcodeError, match=rf"cut\{ending}: "):
            read(cut)
    with pytest.raises(MedcodeError, match="no such file"):
        read(tmp_path / "missing.jsonl")
    with pytest.raises(MedcodeError, match="of no known kind"):
        read(write_lines(tmp_path / "q.csv", [record(0)]))


def test_a_folder_needs_files_named_for_splits(tmp_path: Path) -> None:
    write_lines(tmp_path / "questions.jsonl", [record(0, cop=4)])
    with pytest.raises(MedcodeError, match="no file there is named train"):
        read(tmp_path)
    write_lines(tmp_path / "train.json", [record(0, cop=4)])
    write_lines(tmp_path / "dev.json", [record(1, cop=2)])
    assert [(row.split, row.cop) for row in read(tmp_path).rows] == [("validation", 1), ("train", 3)]


def test_folders_named_like_files_are_passed_over_and_files_of_one_name_all_count(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "test.json").mkdir(parents=True)
        write_lines(tmp_path / folder / "train.jsonl", [record(n, cop=n % 4 + 1) for n in range(4)])
    before = find_source(MedqaSection(source=str(tmp_path)), tmp_path)
    assert sorted(before.files) == ["a/train.jsonl", "b/train.jsonl"]
    write_lines(tmp_path / "a" / "train.jsonl", [record(n, cop=1) for n in range(4)])
    assert find_source(MedqaSection(source=str(tmp_path)), tmp_path).fingerprint != before.fingerprint


@pytest.mark.parametrize("told", [b"{", b"\xff", b"[]", b'{"info": {"features": {"cop": "x"}}}'])
def test_a_parquet_file_with_odd_metadata_says_nothing_of_its_columns(tmp_path: Path, told: bytes) -> None:
    table = pa.Table.from_pylist([record(n, cop=n % 4 + 1) for n in range(4)])
    pq.write_table(table.replace_schema_metadata({b"huggingface": told}), tmp_path / "q.parquet")
    assert read(tmp_path / "q.parquet").cop_base == 1


@pytest.mark.parametrize("source", ["~nobody-has-this-name/a.json", f"/tmp/{'a' * 300}.json"])
def test_a_name_that_is_no_path_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match=r"medqa\.source .*: no usable path"):
        find_source(MedqaSection(source=source), tmp_path)


def test_texts_lose_blanks_controls_and_letters_of_their_own() -> None:
    assert unlabelled(("a) one", "B. two", "(c) three", "d)four")) == ("one", "two", "three", "four")
    assert unlabelled(("a) one", "two", "c) three", "d) four"))[0] == "a) one"


def test_open_questions_have_an_answer_and_no_options(tmp_path: Path) -> None:
    open_one = {"question": "What  lowers\u200b glucose?", "answer": "Insulin.", "subject_name": None}
    (found,) = read(write_lines(tmp_path / "q.jsonl", [open_one])).rows
    assert (found.question, found.options, found.answer) == ("What lowers glucose?", (), "Insulin.")
    assert found.subject == "Unknown"


@pytest.mark.parametrize("row", [1, 15, 30])
def test_a_damaged_arrow_file_ends_in_a_line_and_not_the_process(tmp_path: Path, row: int) -> None:
    write_damaged_stream(tmp_path / "a.arrow", ("question", "opa", "opb"), row)
    with pytest.raises(MedcodeError, match=r"a\.arrow"):
        read(tmp_path / "a.arrow")
