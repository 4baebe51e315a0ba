"""A MIMIC-IV folder of a few rows written by hand, so that every expected value can be worked out on paper."""

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from medcode_assets.mimic.load import load_table
from medcode_assets.mimic.sources import MimicVersion, find_files, table_specs
from medcode_assets.warehouse import open_warehouse

if TYPE_CHECKING:
    import duckdb

Rows = list[list[object]]

TABLES: dict[str, Rows] = {
    "hosp/patients": [["subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"]]
    + [[patient, "F" if patient % 2 else "M", 60, 2180, "2011 - 2013", ""] for patient in range(1, 13)],
    "hosp/admissions": [
        ["subject_id", "hadm_id", "admittime", "dischtime", "deathtime", "admission_type", "hospital_expire_flag"]
    ]
    + [[p, 100 + p, "2180-05-06 22:23:00", "2180-05-07 17:15:00", "", "URGENT", 0] for p in range(1, 13)],
    "hosp/diagnoses_icd": [
        ["subject_id", "hadm_id", "seq_num", "icd_code", "icd_version"],
        [1, 101, 2, "E119", 10],
        [1, 101, 1, "I10", 10],
        [1, 101, 3, "I10", 10],  # a duplicate: counts once, at its first rank
        [2, 102, 1, "0331", 9],  # its leading zero must survive
        [2, 102, 2, "E8120", 9],
        [2, 102, 3, "", 9],  # a null code
        *[[p, 100 + p, 1, "I10", 10] for p in range(3, 12)],
    ],
    "hosp/procedures_icd": [
        ["subject_id", "hadm_id", "seq_num", "chartdate", "icd_code", "icd_version"],
        [1, 101, 1, "2180-05-07", "0DTJ4ZZ", 10],
        [2, 102, 1, "2180-05-07", "0331", 9],  # the same digits as the diagnosis, another code
    ],
    "hosp/d_icd_diagnoses": [
        ["icd_code", "icd_version", "long_title"],
        ["I10", 10, "Essential (primary) hypertension"],
        ["E119", 10, "Type 2 diabetes mellitus without complications"],
        ["0331", 9, "Whooping cough due to bordetella parapertussis"],
    ],
    "hosp/d_icd_procedures": [
        ["icd_code", "icd_version", "long_title"],
        ["0DTJ4ZZ", 10, "Resection of Appendix, Percutaneous Endoscopic Approach"],
        ["0331", 9, "Spinal tap"],
    ],
    "hosp/hcpcsevents": [
        ["subject_id", "hadm_id", "chartdate", "hcpcs_cd", "seq_num", "short_description"],
        [3, 103, "2180-05-07", "99219", 1, "Hospital observation"],
        [3, 103, "2180-05-07", "A0428", 2, "Bls"],
    ],
    "hosp/d_hcpcs": [
        ["code", "category", "long_description", "short_description"],
        ["A0428", "", "Ambulance service, basic life support", "Bls"],
        ["TD   ", "", "Rn", "Rn"],
    ],
    "note/discharge": [
        ["note_id", "subject_id", "hadm_id", "note_type", "note_seq", "charttime", "storetime", "text"],
        ["1-AD-3", 1, 101, "AD", 3, "2180-05-07 00:00:00", "", "addendum"],
        ["1-DS-2", 1, 101, "DS", 2, "2180-05-07 00:00:00", "", 'report, with "quotes"\nand lines'],
        *[[f"{p}-DS-1", p, 100 + p, "DS", 1, "2180-05-07 00:00:00", "", f"note {p}"] for p in range(2, 12)],
    ],
}


def write_mimic(folder: Path, tables: dict[str, Rows]) -> Path:
    for name, rows in tables.items():
        file = folder / f"{name}.csv.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(file, "wt", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows(rows)
    return folder


@pytest.fixture
def mimic_dir(tmp_path: Path) -> Path:
    return write_mimic(tmp_path / "mimic", TABLES)


@pytest.fixture
def version(mimic_dir: Path) -> MimicVersion:
    return MimicVersion("v", "mimic-iv", str(mimic_dir))


@pytest.fixture
def con(version: MimicVersion, tmp_path: Path) -> "Iterator[duckdb.DuckDBPyConnection]":
    """A warehouse with all raw tables."""
    with open_warehouse(tmp_path / "w.duckdb") as con:
        files = find_files(version)
        for name, spec in table_specs("mimic-iv").items():
            load_table(con, spec, files.get(name))
        yield con
