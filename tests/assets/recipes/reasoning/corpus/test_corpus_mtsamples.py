"""Reading MTSamples' CSV, and narratives in JSONL."""

from pathlib import Path

import pytest

from medcode_assets.recipes.reasoning.corpus.mtsamples import read_narratives
from medcode_serving.errors import MedcodeError


def _read(path: Path, content: bytes) -> list[str]:
    path.write_bytes(content)
    return list(read_narratives(path))


def test_columns_in_any_order_and_case_with_a_byte_order_mark_and_quoted_new_lines(tmp_path: Path) -> None:
    content = (
        "\ufeffTranscription,,Keywords,Medical_Specialty,sample_name,DESCRIPTION\r\n"
        '"SUBJECTIVE:, cough\r\nfor ""four"" days",0,k,Allergy,s,d\r\n'
        ",1,k,Allergy,s,d\r\n"
        "\r\n"
        "knee pain,2,k,Orthopedic,s,d"
    )
    assert _read(tmp_path / "mt.csv", content.encode()) == ['SUBJECTIVE:, cough\r\nfor "four" days', "knee pain"]


def test_jsonl(tmp_path: Path) -> None:
    content = '{"narrative": "cough\\nfever", "id": 3}\n\n{"narrative": " "}\n{"narrative": "knee"}\n'
    assert _read(tmp_path / "n.jsonl", content.encode()) == ["cough\nfever", "knee"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "a.csv: holds no narrative"),
        ("a.csv", b"description,transcription\n", "a.csv: holds no narrative"),
        ("a.csv", b"description,text\nd,t\n", "a.csv, row 1: no column 'transcription'; its columns are description"),
        ("a.csv", b"a,transcription\nd,t\nd,\xe9\n", "a.csv, line 3: not UTF-8"),
        ("a.csv", b'a,transcription\nd,t\nd,"open\n', "a.csv, row 3: not well-formed CSV"),
        ("a.csv", b"a,transcription\nd,t\nonly\n", "a.csv, row 3: 1 columns, the header has 2"),
        ("a.jsonl", b"", "a.jsonl: holds no narrative"),
        ("a.jsonl", b'{"narrative": "x"}\n{"narr', "a.jsonl, row 2: not JSON"),
        ("a.jsonl", b'{"narrative": "x"}\n{"text": "y"}\n', 'a.jsonl, row 2: no text "narrative"'),
        ("a.jsonl", b"[]\n", 'a.jsonl, row 1: no text "narrative"'),
        ("a.jsonl", b'{"narrative": "x"}\n\xff\n', "a.jsonl, line 2: not UTF-8"),
    ],
)
def test_bad_files_are_named_with_the_row(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(MedcodeError) as raised:
        _read(tmp_path / name, content)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match=r"gone\.csv: cannot be read \(No such file or directory\)"):
        list(read_narratives(tmp_path / "gone.csv"))
