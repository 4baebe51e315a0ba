"""Reading JSONL files of the three stages: what cannot be read is named by its line, and nothing of it is quoted."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_assets.recipes.reasoning.formats import stage_1_line, stage_2_line, stage_3_line, written
from medcode_assets.recipes.reasoning.lines import Problem, detect_stage, read_lines
from medcode_serving.errors import MedcodeError

NARRATIVE = "Zebrafish handler with cough and fever since four days, chest film is clear."
COUGH = stage_1_line(NARRATIVE, "icd10cm", "J20.9", "Acute bronchitis, unspecified", source="synthetic")
REASONED = stage_2_line(NARRATIVE, ["cough and fever"], "icd10cm", "J20.9", None, quality=1.0, source="synthetic")
PREFERRED = stage_3_line(NARRATIVE, "<think>\n- cough\n</think>\nICD10: J20.9", "ICD10: J20.8", source="synthetic")


def raw(**changes: Any) -> dict[str, Any]:
    return json.loads(written(COUGH)) | changes


def file_of(folder: Path, *lines: bytes | str | dict[str, Any]) -> Path:
    path = folder / "train.jsonl"
    path.write_bytes(
        b"\n".join(
            line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
            for line in lines
        )
    )
    return path


@pytest.mark.parametrize(("stage", "line"), [(1, COUGH), (2, REASONED), (3, PREFERRED)])
def test_what_was_written_is_read_and_its_stage_is_seen(stage: int, line: Any, tmp_path: Path) -> None:
    path = file_of(tmp_path, "not json", written(line))
    assert detect_stage(path) == stage
    assert list(read_lines(path, stage))[1] == (2, line)


def test_blank_lines_a_byte_order_mark_and_carriage_returns_are_no_problem(tmp_path: Path) -> None:
    path = file_of(tmp_path, b"\xef\xbb\xbf" + written(COUGH).encode() + b"\r", b"  ", b"", written(COUGH))
    assert list(read_lines(path, 1)) == [(1, COUGH), (4, COUGH)]


METADATA = raw()["_metadata"]


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        (b'{"messages": "caf\xe9"}', "not_utf8", "byte 18 of the line"),
        ('{"messages": [', "not_json", "column 15"),
        ("[1, 2]", "not_json", "a list where an object is expected"),
        ("[" * 100_000, "not_json", "too deep"),
        ('{"a": ' + "9" * 5000 + "}", "not_json", "too long"),
        ('{"messages": []}', "schema", "messages.0: Field required; 3 more"),
        (raw(_metadata=METADATA | {"code_type": "SNOMED"}), "unknown_code_type", "expected ICD10, CPT or HCPCS"),
        (raw(_metadata={"code_type": "ICD10", "code": "J20.9"}), "schema", "_metadata.code_valid: Field required"),
        (raw(messages=list(reversed(raw()["messages"]))), "schema", "roles are assistant, user, system"),
        (raw(note="more"), "schema", "(another field): Extra inputs are not permitted"),
        (raw(Zebrafish="more"), "schema", "(another field): Extra inputs are not permitted"),
        (raw(_metadata=METADATA | {"code_vallid": 1}), "schema", "_metadata.code_vallid: Extra inputs"),
        (written(COUGH)[:-1] + ', "_metadata": {}}', "not_json", "a field stands twice in one object"),
        (raw(_metadata=METADATA | {"source": "\ud800"}), "not_json", "half of a character"),
        (raw(_metadata=METADATA | {"\udc00": 1}), "not_json", "half of a character"),
        (json.loads(written(PREFERRED)), "schema", "looks like a line of stage 3"),
        ('{"messages": "\\ud800"}', "not_json", "half of a character"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: Any, kind: str, says: str, tmp_path: Path) -> None:
    path = file_of(tmp_path, written(COUGH), line, written(COUGH))
    (_, first), (number, problem), (_, last) = read_lines(path, 1)
    assert first == last == COUGH
    assert isinstance(problem, Problem)
    assert (number, problem.line, problem.kind) == (2, 2, kind)
    assert says in problem.detail


@given(st.recursive(st.none() | st.booleans() | st.text(), lambda of: st.lists(of) | st.dictionaries(st.text(), of)))
@settings(max_examples=60, deadline=None)
def test_no_json_brings_the_reading_down_or_is_quoted(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    secret = f"zebra {json.dumps(value)}"
    lines = (value, {"messages": value, secret: 1}, raw(messages=secret), raw(_metadata={"code_type": secret}))
    found = list(read_lines(file_of(tmp_path_factory.mktemp("any"), *(json.dumps(line) for line in lines)), 1))
    assert [number for number, _ in found] == [1, 2, 3, 4]
    for _, problem in found:
        assert isinstance(problem, Problem)
        assert "zebra" not in problem.detail
        assert len(problem.detail.splitlines()) == 1


def test_a_stage_that_no_line_tells_is_asked_for(tmp_path: Path) -> None:
    path = file_of(tmp_path, '{"text": 1}', '{"_metadata": 3}', "nothing")
    with pytest.raises(MedcodeError, match=r"train.jsonl: no line tells .* --stage"):
        detect_stage(path)


def test_a_missing_file_and_an_unknown_stage_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match="No such file"):
        list(read_lines(tmp_path / "none.jsonl", 1))
    with pytest.raises(MedcodeError, match="stage 4 is unknown; stages are 1, 2, 3"):
        list(read_lines(file_of(tmp_path, written(COUGH)), 4))


def test_a_whole_character_beyond_the_first_65536_may_be_escaped(tmp_path: Path) -> None:
    line = json.dumps(raw(_metadata=METADATA | {"source": "\U0001f600"}))
    assert "\\ud83d" in line
    ((_, read),) = read_lines(file_of(tmp_path, line), 1)
    assert not isinstance(read, Problem)
    assert read.metadata.source == "\U0001f600"


@pytest.mark.parametrize(
    ("lines", "says"),
    [((), "has no lines"), ((b" ",), "has no lines"), ((b"\xff\xfe{",), "line 1: byte 1 of the line is not UTF-8")],
)
def test_a_file_whose_stage_cannot_be_told_says_why(lines: tuple[bytes, ...], says: str, tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match=says):
        detect_stage(file_of(tmp_path, *lines))


def test_a_pipe_is_no_file_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(MedcodeError, match="no file"):
            detect_stage(path)
