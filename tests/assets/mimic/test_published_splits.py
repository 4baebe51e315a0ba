"""Splits as the literature makes them: stratified, and published files in each of their forms."""

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as parquet
import pytest

from medcode_assets.config import DataSettings
from medcode_assets.mimic.transform import build_cohort, build_facts, build_splits
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import duckdb

EXPECTED = {101: "train", 102: "validation", 103: "test", **dict.fromkeys(range(104, 112), "train")}


@pytest.fixture
def con(con: "duckdb.DuckDBPyConnection") -> "duckdb.DuckDBPyConnection":
    """The warehouse of conftest.py with its facts."""
    build_cohort(con, "mimic-iv", DataSettings())
    build_facts(con)
    return con


def split_by(con: "duckdb.DuckDBPyConnection", path: Path) -> dict[int, str]:
    build_splits(con, DataSettings(split_method="file", split_file=str(path)))
    return dict(con.execute("SELECT hadm_id, split FROM splits").fetchall())


def test_a_csv_of_admissions_with_other_names_for_the_splits(con: "duckdb.DuckDBPyConnection", tmp_path: Path) -> None:
    names = {"train": "TRAIN", "validation": "val", "test": "test"}
    file = tmp_path / "splits.csv"
    file.write_text("hadm_id,split\n" + "".join(f"{hadm}.0,{names[split]}\n" for hadm, split in EXPECTED.items()))
    assert split_by(con, file) == EXPECTED


def test_feather_and_parquet_with_an_anonymous_id(con: "duckdb.DuckDBPyConnection", tmp_path: Path) -> None:
    """As medical-coding-reproducibility publishes them; its ids may be admissions' or notes'."""
    by_admission = pa.table({"_id": list(EXPECTED), "split": list(EXPECTED.values())})
    feather.write_feather(by_admission, tmp_path / "a.feather")
    assert split_by(con, tmp_path / "a.feather") == EXPECTED
    notes = ["1-DS-2", *(f"{hadm - 100}-DS-1" for hadm in list(EXPECTED)[1:])]
    parquet.write_table(pa.table({"_id": notes, "split": list(EXPECTED.values())}), tmp_path / "b.parquet")
    assert split_by(con, tmp_path / "b.parquet") == EXPECTED


def test_camls_folder_leaves_out_whom_it_does_not_name(con: "duckdb.DuckDBPyConnection", tmp_path: Path) -> None:
    folder = tmp_path / "caml"
    folder.mkdir()
    for name, split in (("train", "train"), ("dev", "validation"), ("test", "test")):
        ids = [hadm for hadm, own in EXPECTED.items() if own == split and hadm != 111]
        (folder / f"{name}_full_hadm_ids.csv").write_text("".join(f"{hadm}\n" for hadm in ids))
    assert split_by(con, folder) == {hadm: split for hadm, split in EXPECTED.items() if hadm != 111}


def test_one_of_camls_files_names_its_set(con: "duckdb.DuckDBPyConnection", tmp_path: Path) -> None:
    for name, split in (("train", "train"), ("dev", "validation"), ("test", "test")):
        ids = [hadm for hadm, own in EXPECTED.items() if own == split]
        (tmp_path / f"{name}_full_hadm_ids.csv").write_text("".join(f"{hadm}\n" for hadm in ids))
        (tmp_path / f"{name}_50_hadm_ids.csv").write_text("".join(f"{hadm}\n" for hadm in ids if hadm != 111))
    with pytest.raises(MedcodeError, match="found 2; name one of its files"):
        split_by(con, tmp_path)
    assert len(split_by(con, tmp_path / "train_full_hadm_ids.csv")) == 11
    assert len(split_by(con, tmp_path / "dev_50_hadm_ids.csv")) == 10


def test_a_changed_file_makes_other_splits(con: "duckdb.DuckDBPyConnection", tmp_path: Path) -> None:
    file = tmp_path / "splits.csv"
    rows = "".join(f"{hadm - 100},train\n" for hadm in EXPECTED)
    file.write_text("subject_id,split\n" + rows)
    assert set(split_by(con, file).values()) == {"train"}
    file.write_text("subject_id,split\n" + rows.replace("5,train", "5,dev"))
    assert split_by(con, file)[105] == "validation"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hadm_id,fold\n101,1\n", "expected a column split and one of hadm_id, note_id, subject_id, _id"),
        ("hadm_id,split\n101,holdout\n", "split 'holdout' is none of train"),
        ("hadm_id,split\n999999,train\n", "names no admission of this version"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(
    con: "duckdb.DuckDBPyConnection", tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "splits.csv"
    file.write_text(content)
    with pytest.raises(MedcodeError, match=message) as error:
        split_by(con, file)
    assert str(file) in str(error.value)


def test_a_missing_file_and_half_a_setting(con: "duckdb.DuckDBPyConnection", tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match="no such file"):
        split_by(con, tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match="go together"):
        DataSettings(split_method="file")


def test_stratified_splits_share_out_the_carriers_of_rare_codes(con: "duckdb.DuckDBPyConnection") -> None:
    """600 patients with a common code; each tenth has one of 6 rare codes with 10 carriers: 8, 1 and 1 of each."""
    con.execute("DELETE FROM raw.diagnoses_icd; DELETE FROM raw.procedures_icd; DELETE FROM raw.hcpcsevents")
    con.execute("DELETE FROM raw.patients; DELETE FROM raw.notes")
    con.execute("INSERT INTO raw.patients SELECT i, 'F', 1, 1, '', NULL FROM range(600) AS t(i)")
    con.execute(
        "INSERT INTO raw.notes SELECT i || '-DS-1', i, i, 'DS', 1, NULL, NULL, 'note', 4, 0 FROM range(600) AS t(i)"
    )
    con.execute("INSERT INTO raw.diagnoses_icd SELECT i, i, 1, 'I10', 10 FROM range(600) AS t(i)")
    con.execute(
        "INSERT INTO raw.diagnoses_icd SELECT i, i, 2, 'A0' || (i % 60) // 10, 10 "
        "FROM range(600) AS t(i) WHERE i % 10 = 0"
    )
    build_cohort(con, "mimic-iv", DataSettings(), rebuild=True)
    build_facts(con, rebuild=True)
    for seed in (0, 1, 2):
        build_splits(con, DataSettings(split_method="stratified", seed=seed))
        counts = dict(con.execute("SELECT split, count(*) FROM splits GROUP BY split").fetchall())
        assert counts == {"train": 480, "validation": 60, "test": 60}
        shares = con.execute(
            "SELECT count(*) FILTER (split = 'train'), count(*) FILTER (split = 'validation'), "
            "count(*) FILTER (split = 'test') FROM splits JOIN raw.diagnoses_icd USING (hadm_id) "
            "WHERE icd_code <> 'I10' GROUP BY icd_code"
        ).fetchall()
        assert shares == [(8, 1, 1)] * 6
