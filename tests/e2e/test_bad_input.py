"""What a user can get wrong with files: one line, exit code 2, no traceback, nothing half-written."""

import gzip
from pathlib import Path

import pytest

from medcode_assets.corpora.synthetic_mimic import write_synthetic_mimic
from medcode_assets.warehouse import open_warehouse

from .conftest import medcode

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def mimic_dir(tmp_path: Path) -> Path:
    return write_synthetic_mimic(tmp_path / "mimic", release="mimic-iv", admissions=200, seed=3)


def missing_file(folder: Path) -> str:
    (folder / "hosp" / "diagnoses_icd.csv.gz").unlink()
    return "expected hosp/diagnoses_icd.csv.gz"


def truncated_gzip(folder: Path) -> str:
    file = folder / "note" / "discharge.csv.gz"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return "discharge.csv.gz: the gzip file is cut off or broken; download it again"


def missing_column(folder: Path) -> str:
    file = folder / "hosp" / "procedures_icd.csv.gz"
    header, rest = gzip.decompress(file.read_bytes()).split(b"\n", 1)
    file.write_bytes(gzip.compress(header.replace(b"icd_code", b"code") + b"\n" + rest))
    return "procedures_icd.csv.gz: column icd_code missing for table procedures_icd"


def zero_notes(folder: Path) -> str:
    file = folder / "note" / "discharge.csv.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()).split(b"\n", 1)[0] + b"\n"))
    return "discharge.csv.gz: no rows for table notes"


@pytest.mark.parametrize("spoil", [missing_file, truncated_gzip, missing_column, zero_notes])
def test_a_broken_folder(mimic_dir: Path, tmp_path: Path, spoil) -> None:
    message = spoil(mimic_dir)
    home = tmp_path / "home"
    result = medcode("prepare", "--mimic-dir", mimic_dir, "--dataset-version", "mimic-iv", home=home)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("medcode: ")]
    assert len(errors) == 1, result.stderr
    assert message in errors[0]
    for file in home.glob("warehouse/*.duckdb"):
        with open_warehouse(file, read_only=True) as con:
            tables = con.execute(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = 'raw'"
            ).fetchall()
            made = con.execute("SELECT replace(name, 'raw.', '') FROM made").fetchall()
        assert sorted(tables) == sorted(made)
        assert ("notes",) not in tables


@pytest.mark.skipif(not (DATA / "mimic-iv-demo").exists(), reason=f"{DATA / 'mimic-iv-demo'} is not there")
def test_the_real_demo_without_notes_says_what_is_missing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    result = medcode("run", "--mimic-dir", DATA / "mimic-iv-demo", "--dataset-version", "mimic-iv", home=home)
    assert result.returncode == 2
    assert "expected note/discharge.csv.gz (from MIMIC-IV-Note" in result.stderr
    assert not list(home.glob("warehouse/*"))
    assert not list(home.glob("sources/*"))


def test_a_folder_for_the_state_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    mimic_dir = write_synthetic_mimic(tmp_path / "mimic", release="mimic-iv", admissions=20, seed=3)
    home = tmp_path / "file" / "home"
    result = medcode("train", "--mimic-dir", mimic_dir, "--dataset-version", "mimic-iv", home=home)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"medcode: {home}: not written (Not a directory); make room there, or name another folder with --output-dir"
    ]
