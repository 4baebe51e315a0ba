import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from medcode_assets.mimic import load as loading
from medcode_assets.mimic.load import load_table
from medcode_assets.mimic.sources import MimicVersion, find_files, table_specs
from medcode_assets.warehouse import Built, open_warehouse, record_of
from medcode_serving.errors import MedcodeError

SECRET = "patient has a very private illness"


def load(home: Path, version: MimicVersion, table: str, *, drop_existing: bool = False) -> Built:
    with open_warehouse(home / "w.duckdb") as con:
        spec = table_specs("mimic-iv")[table]
        return load_table(con, spec, find_files(version)[table], drop_existing=drop_existing)


def query(home: Path, sql: str) -> list[tuple[object, ...]]:
    with open_warehouse(home / "w.duckdb", read_only=True) as con:
        return con.execute(sql).fetchall()


def test_codes_stay_text_and_quoted_lines_stay_whole(version: MimicVersion, tmp_path: Path) -> None:
    load(tmp_path, version, "diagnoses_icd")
    load(tmp_path, version, "notes")
    assert query(tmp_path, "SELECT icd_code FROM raw.diagnoses_icd WHERE subject_id = 2 ORDER BY seq_num") == [
        ("0331",),
        ("E8120",),
        (None,),
    ]
    text = query(tmp_path, "SELECT text FROM raw.notes WHERE note_id = '1-DS-2'")
    assert text == [('report, with "quotes"\nand lines',)]


def test_an_unchanged_file_is_skipped_and_drop_existing_reloads(version: MimicVersion, tmp_path: Path) -> None:
    assert not load(tmp_path, version, "patients").skipped
    assert load(tmp_path, version, "patients").skipped
    assert not load(tmp_path, version, "patients", drop_existing=True).skipped
    file = Path(version.directory) / "hosp" / "patients.csv.gz"
    content = gzip.decompress(file.read_bytes()) + b"99,F,50,2180,2011 - 2013,\n"
    file.write_bytes(gzip.compress(content))
    changed = load(tmp_path, version, "patients")
    assert (changed.rows, changed.skipped) == (13, False)


def test_plain_csv_is_read_like_gzip(version: MimicVersion, tmp_path: Path) -> None:
    file = Path(version.directory) / "hosp" / "patients.csv.gz"
    file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
    file.unlink()
    assert load(tmp_path, version, "patients").rows == 12


def test_a_touched_file_is_hashed_once(version: MimicVersion, tmp_path: Path) -> None:
    load(tmp_path, version, "patients")
    os.utime(Path(version.directory) / "hosp" / "patients.csv.gz", (1, 1))
    assert load(tmp_path, version, "patients").skipped
    with open_warehouse(tmp_path / "w.duckdb", read_only=True) as con:
        assert record_of(con, "raw.patients")["stat"].endswith(":1000000000")


def test_a_file_that_changes_while_it_is_loaded_is_refused(
    version: MimicVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(version.directory) / "hosp" / "patients.csv.gz"
    whole = loading._refuse_empty

    def replaced(*arguments: Any) -> None:
        os.utime(file, (1, 1))
        whole(*arguments)

    monkeypatch.setattr(loading, "_refuse_empty", replaced)  # called when the rows are there
    with pytest.raises(MedcodeError, match="changed while it was loaded"):
        load(tmp_path, version, "patients")
    assert query(tmp_path, "SELECT count(*) FROM made") == [(0,)]


def broken(file: Path, problem: str) -> None:
    content = gzip.decompress(file.read_bytes())
    if problem == "truncated":
        long = content + b"".join(b'%d-DS-9,1,101,DS,9,,,"%s"\n' % (i, SECRET.encode()) for i in range(50_000))
        compressed = gzip.compress(long)
        file.write_bytes(compressed[: len(compressed) // 2])
    elif problem == "type":
        file.write_bytes(gzip.compress(content + f'x,{SECRET},101,DS,9,,,"{SECRET}"\n'.encode()))
    elif problem == "ragged":
        file.write_bytes(gzip.compress(content + f"x,1,101,DS,{SECRET}\n".encode()))
    elif problem == "zero notes":
        file.write_bytes(gzip.compress(content.splitlines(keepends=True)[0]))
    elif problem == "not gzip":
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("truncated", "cut off or broken"),
        ("type", "column subject_id: 1 values are not INTEGER"),
        ("ragged", "line 14 has not the columns of the header"),
        ("zero notes", "no rows for table notes"),
        ("not gzip", "broken gzip file"),
    ],
)
def test_a_broken_file_is_one_line_without_text_and_leaves_the_earlier_table(
    version: MimicVersion, tmp_path: Path, problem: str, message: str
) -> None:
    earlier = load(tmp_path, version, "notes")
    broken(Path(version.directory) / "note" / "discharge.csv.gz", problem)
    with pytest.raises(MedcodeError, match=message) as error:
        load(tmp_path, version, "notes")
    assert "discharge.csv.gz" in str(error.value)
    assert "\n" not in str(error.value)
    assert SECRET not in str(error.value)
    assert query(tmp_path, "SELECT count(*), (SELECT rows FROM made) FROM raw.notes") == [(earlier.rows, earlier.rows)]
