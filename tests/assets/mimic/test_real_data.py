"""Rows in, rows out, and codes a system, on real tables; the numbers are those of the READMEs and of counting."""

import csv
import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from medcode_assets.config import DataSettings
from medcode_assets.mimic.checks import run_checks
from medcode_assets.mimic.load import load_table
from medcode_assets.mimic.sources import MimicVersion, find_files, published_sha256, table_specs
from medcode_assets.mimic.transform import build_cohort, build_facts, build_splits, split_hash
from medcode_assets.recipes.icd.examples import build_examples
from medcode_assets.warehouse import open_warehouse
from medcode_serving.bundle import file_sha256

if TYPE_CHECKING:
    import duckdb

DATA = Path(__file__).parents[4] / "shared" / "data"
DEMO = DATA / "mimic-iv-demo"
CODIESP = DATA / "codiesp-mimic-iv"

needs_demo = pytest.mark.skipif(not DEMO.exists(), reason="shared/data/mimic-iv-demo is not on this machine")
needs_codiesp = pytest.mark.skipif(not CODIESP.exists(), reason="shared/data/codiesp-mimic-iv is not on this machine")


@pytest.fixture
def demo_with_notes(tmp_path: Path) -> Path:
    """The demo's real tables, and a stand-in note for each of its admissions."""
    folder = tmp_path / "mimic-iv-demo"
    (folder / "note").mkdir(parents=True)
    (folder / "hosp").symlink_to(DEMO / "hosp")
    with (
        gzip.open(DEMO / "hosp" / "admissions.csv.gz", "rt") as admissions,
        gzip.open(folder / "note" / "discharge.csv.gz", "wt", newline="") as notes,
    ):
        writer = csv.writer(notes)
        writer.writerow(list(table_specs("mimic-iv")["notes"].columns))
        for number, row in enumerate(csv.DictReader(admissions)):
            patient, admission, time = row["subject_id"], row["hadm_id"], row["dischtime"]
            writer.writerow(
                [f"{patient}-DS-{number}", patient, admission, "DS", number, time, "", f"Note {admission}."]
            )
    return folder


@contextmanager
def prepared(folder: Path, home: Path, settings: DataSettings) -> "Iterator[duckdb.DuckDBPyConnection]":
    files = find_files(MimicVersion("v", "mimic-iv", str(folder)))
    with open_warehouse(home / "w.duckdb") as con:
        for name, spec in table_specs("mimic-iv").items():
            load_table(con, spec, files.get(name))
        build_cohort(con, "mimic-iv", settings)
        build_facts(con)
        build_splits(con, settings)
        build_examples(con, settings)
        yield con


def rows(con: "duckdb.DuckDBPyConnection", query: str) -> list[tuple[object, ...]]:
    return con.execute(query).fetchall()


def loaded(con: "duckdb.DuckDBPyConnection") -> dict[str, int]:
    return {
        table: con.execute(f"SELECT count(*) FROM raw.{table}").fetchall()[0][0] for table in table_specs("mimic-iv")
    }


CODES = "SELECT system, sum(admissions)::INTEGER, count(*) FROM code_counts GROUP BY system ORDER BY system"
SPLITS = "SELECT split, count(DISTINCT subject_id), count(*) FROM splits GROUP BY split ORDER BY split"


@needs_demo
def test_mimic_iv_demo(demo_with_notes: Path, tmp_path: Path) -> None:
    with prepared(demo_with_notes, tmp_path, DataSettings()) as con:
        assert loaded(con) == {
            "patients": 100,
            "admissions": 275,
            "diagnoses_icd": 4506,
            "procedures_icd": 722,
            "d_icd_diagnoses": 109775,
            "d_icd_procedures": 85257,
            "hcpcsevents": 61,
            "d_hcpcs": 89200,
            "notes": 275,
        }
        # 5,289 rows of codes less 56 that repeat a code of the same admission, one of them a billed one.
        assert rows(con, CODES) == [
            ("cpt", 29, 17),
            ("hcpcs", 31, 2),
            ("icd10cm", 2313, 734),
            ("icd10pcs", 297, 169),
            ("icd9cm", 2193, 740),
            ("icd9pcs", 370, 183),
        ]
        assert rows(con, SPLITS) == [("test", 10, 28), ("train", 80, 216), ("validation", 10, 31)]
        assert split_hash(con) == "e3b79798f9dd51dcd3bc5d6c8a7b058affba6c387d223c59b8b70ed94349cfa4"
        assert rows(con, "SELECT count(*), sum(len(gold))::INTEGER FROM icd.examples") == [(275, 5173)]
        wrong = {
            outcome.check.name: outcome.wrong
            for asset in ("mimic/cohort", "mimic/facts", "mimic/splits")
            for outcome in run_checks(con, asset, DataSettings())
        }
        assert {name: count for name, count in wrong.items() if count} == {"duplicate_codes": 55}


@needs_demo
def test_the_demos_files_are_physionets() -> None:
    for path in DEMO.glob("hosp/*.csv.gz"):
        assert published_sha256(path, DEMO) == file_sha256(path), path.name


@needs_demo
def test_twenty_patients_of_the_demo(demo_with_notes: Path, tmp_path: Path) -> None:
    with prepared(demo_with_notes, tmp_path, DataSettings(num_patients=20, seed=1)) as con:
        assert rows(con, "SELECT count(*) FROM cohort") == [(20,)]
        assert rows(con, "SELECT count(DISTINCT subject_id) FROM facts") == [(20,)]


@needs_codiesp
def test_codiesp_with_its_published_splits(tmp_path: Path) -> None:
    settings = DataSettings(split_method="file", split_file=str(CODIESP / "splits.csv"))
    files = find_files(MimicVersion("v", "mimic-iv", str(CODIESP)))
    with open_warehouse(tmp_path / "w.duckdb") as con:
        for name, spec in table_specs("mimic-iv").items():
            load_table(con, spec, files.get(name))
        build_cohort(con, "mimic-iv", settings)
        build_facts(con)
        build_splits(con, settings)
        assert rows(con, SPLITS) == [("train", 473, 473), ("validation", 245, 245)]
        assert rows(con, CODES) == [("icd10cm", 8060, 2161), ("icd10pcs", 2286, 712)]
        assert rows(con, "SELECT count(*), sum(notes)::INTEGER FROM facts") == [(718, 718)]


@needs_codiesp
def test_codiesp_with_splits_of_our_own(tmp_path: Path) -> None:
    with prepared(CODIESP, tmp_path, DataSettings()) as con:
        assert loaded(con)["diagnoses_icd"] == 8060
        assert loaded(con)["hcpcsevents"] == 0  # not in the folder
        assert rows(con, SPLITS) == [("test", 72, 72), ("train", 574, 574), ("validation", 72, 72)]
        assert split_hash(con) == "fa27f6dc5f12ca285b62c9770f72f268206d963b5073c3a6990f7ac43c6fce6c"
        assert rows(con, "SELECT count(*), count(*) FILTER (frequency = 0) FROM icd.labels") == [(2873, 322)]
        # Its README: headers, cut codes and 4-character PCS prefixes, which a billable-only filter would reject.
        malformed = next(
            o for o in run_checks(con, "mimic/facts", DataSettings()) if o.check.name == "codes_well_formed"
        )
        assert (malformed.wrong, malformed.of, malformed.passed, malformed.blocks) == (1204, 10346, False, False)
