"""MIMIC's admissions as lines of stage 1."""

import re
from pathlib import Path

import pytest

from medcode_assets.config import DataSettings
from medcode_assets.corpora.synthetic_mimic import Release, write_synthetic_mimic
from medcode_assets.mimic.load import load_table
from medcode_assets.mimic.sources import MimicVersion, find_files, table_specs
from medcode_assets.mimic.transform import build_cohort, build_facts
from medcode_assets.recipes.reasoning.corpus.mimic import mimic_fingerprint, mimic_lines, presenting_narrative
from medcode_assets.warehouse import open_warehouse
from medcode_serving.codes.systems import dotted
from medcode_serving.errors import MedcodeError


def _warehouse(folder: Path, release: Release, admissions: int) -> Path:
    mimic_dir = write_synthetic_mimic(folder / "mimic", release=release, admissions=admissions, seed=5)
    version = MimicVersion("v", release, str(mimic_dir))
    files = find_files(version)
    with open_warehouse(folder / "v.duckdb") as con:
        for name, spec in table_specs(release).items():
            load_table(con, spec, files.get(name))
        build_cohort(con, release, DataSettings())
        build_facts(con)
    return folder / "v.duckdb"


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _warehouse(tmp_path_factory.mktemp("iv"), "mimic-iv", 150)


def test_a_narrative_is_what_the_patient_came_with() -> None:
    note = (
        "Name: ___\n\nChief Complaint:\ncough\n\nHistory of Present Illness:\nFour days of [**Known**] fever.\n\n"
        "Past Medical History:\nasthma\n\nDischarge Diagnosis:\npneumonia\n"
    )
    assert presenting_narrative(note) == (
        "Chief Complaint:\ncough\n\nHistory of Present Illness:\nFour days of [**Known**] fever."
    )
    assert presenting_narrative("Brief Hospital Course:\nwell\n") == ""


def test_lines_have_the_principal_diagnosis_and_the_presentation_of_each_admission(warehouse: Path) -> None:
    with open_warehouse(warehouse) as con:
        coded = con.execute("SELECT hadm_id, seq_num, bare, system FROM diagnoses WHERE bare <> ''").fetchall()
        notes = con.execute("SELECT hadm_id, subject_id, text FROM documents").fetchall()
    # What comes first, once more in Python.
    admissions = {row[0] for row in coded}
    principal = {admission: min(row[1:] for row in coded if row[0] == admission) for admission in admissions}
    expected = [
        (f"subject-{subject}", dotted("icd10cm", principal[admission][1]), presenting_narrative(text))
        for admission, subject, text in notes
        if admission in principal and principal[admission][2] == "icd10cm" and presenting_narrative(text)
    ]
    lines = list(mimic_lines(warehouse))
    assert len(lines) > 100
    assert sorted(expected) == sorted((line.metadata.group, line.metadata.code, line.narrative) for line in lines)
    for line in lines:
        assert (line.answer.well_formed, line.answer.system, line.metadata.source) == (True, "icd10cm", "mimic")
        assert line.answer.code == line.metadata.code
        assert line.answer.description
        assert not re.search("^discharge diagnos", line.narrative, re.IGNORECASE | re.MULTILINE)


def test_ties_and_missing_ranks_are_decided_the_same_way_always(tmp_path: Path) -> None:
    file = _warehouse(tmp_path, "mimic-iv", 20)
    with open_warehouse(file) as con:
        (one, other, third), *_ = [con.execute("SELECT list(hadm_id ORDER BY hadm_id) FROM facts").fetchall()[0][0][:3]]
        con.execute("DELETE FROM raw.diagnoses_icd")
        con.execute(
            "INSERT INTO raw.diagnoses_icd (subject_id, hadm_id, seq_num, icd_code, icd_version) SELECT subject_id, "
            "facts.hadm_id, rank, code, version FROM facts JOIN (VALUES "
            f"({one}, 2, 'A047', 10), ({one}, 1, 'J209', 10), ({one}, 1, 'I10', 10), ({one}, NULL, 'E119', 10), "
            f"({other}, 1, '4019', 9), ({other}, 2, 'I10', 10), ({third}, 1, '', 10), ({third}, 3, 'e11.9', 10)"
            ") AS coded(hadm_id, rank, code, version) ON coded.hadm_id = facts.hadm_id"
        )
    # `one`: I10 before J20.9 at the same rank; `other`: its principal diagnosis is ICD-9; `third`: rank 1 is empty.
    assert sorted(line.metadata.code for line in mimic_lines(file)) == ["E11.9", "I10"]


def test_every_run_gives_the_same_lines_and_is_not_in_the_order_of_patients(warehouse: Path) -> None:
    groups = [line.metadata.group for line in mimic_lines(warehouse)]
    assert groups == [line.metadata.group for line in mimic_lines(warehouse)]
    assert groups != sorted(groups)
    assert mimic_fingerprint(warehouse) == mimic_fingerprint(warehouse)


def test_a_reader_that_stops_early_lets_a_writer_in(warehouse: Path) -> None:
    lines = mimic_lines(warehouse)
    next(lines)
    lines.close()
    with open_warehouse(warehouse) as con:
        assert con.execute("SELECT 1").fetchall() == [(1,)]


def test_icd_9_gives_no_line(tmp_path: Path) -> None:
    assert list(mimic_lines(_warehouse(tmp_path, "mimic-iii", 20))) == []


def test_a_missing_warehouse_and_missing_facts_are_named(tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match=r"none\.duckdb: no such warehouse yet"):
        next(mimic_lines(tmp_path / "none.duckdb"))
    with open_warehouse(tmp_path / "empty.duckdb"):
        pass
    with pytest.raises(MedcodeError, match="table facts is not in the warehouse yet"):
        next(mimic_lines(tmp_path / "empty.duckdb"))
