import shutil
from pathlib import Path

import pytest

from medcode_assets.mimic.sources import (
    MimicVersion,
    check_columns,
    find_files,
    header,
    known_version,
    published_sha256,
    stat_signature,
    table_specs,
)
from medcode_serving.errors import MedcodeError


def test_files_are_found_in_any_case_and_at_any_depth(mimic_dir: Path, tmp_path: Path) -> None:
    (mimic_dir / "note" / "discharge.csv.gz").rename(mimic_dir / "note" / "DISCHARGE.CSV.GZ")
    deep = tmp_path / "physionet.org" / "files"
    deep.mkdir(parents=True)
    mimic_dir.rename(deep / "2.2")
    files = find_files(MimicVersion("v", "mimic-iv", str(tmp_path / "physionet.org")))
    assert set(files) == set(table_specs("mimic-iv"))
    assert files["notes"].name == "DISCHARGE.CSV.GZ"


def test_all_missing_files_are_named_at_once(mimic_dir: Path, version: MimicVersion) -> None:
    (mimic_dir / "note" / "discharge.csv.gz").unlink()
    (mimic_dir / "hosp" / "patients.csv.gz").unlink()
    with pytest.raises(MedcodeError, match=r"hosp/patients\.csv\.gz.*note/discharge\.csv\.gz.*MIMIC-IV-Note"):
        find_files(version)


def test_two_files_for_one_table_are_refused(mimic_dir: Path, version: MimicVersion) -> None:
    (mimic_dir / "hosp" / "patients.csv").write_text("subject_id\n")
    with pytest.raises(MedcodeError, match="both claim table patients"):
        find_files(version)


def test_unknown_release() -> None:
    with pytest.raises(
        MedcodeError, match="--dataset-version mimic-v: unknown; choose one of mimic-iii, mimic-iii-1.4, mimic-iv, "
    ):
        table_specs("mimic-v")


def test_tables_of_another_database_beside_it_do_not_matter(mimic_dir: Path, version: MimicVersion) -> None:
    (mimic_dir / "ed").mkdir()
    shutil.copy(mimic_dir / "hosp" / "patients.csv.gz", mimic_dir / "ed" / "patients.csv.gz")
    assert find_files(version)["patients"].parent.name == "hosp"


def test_optional_files_may_be_missing(mimic_dir: Path, version: MimicVersion) -> None:
    (mimic_dir / "hosp" / "hcpcsevents.csv.gz").unlink()
    assert "hcpcsevents" not in find_files(version)
    assert "d_hcpcs" in find_files(version)


def test_physionets_layout_with_two_releases(mimic_dir: Path, tmp_path: Path) -> None:
    files = tmp_path / "physionet.org" / "files"
    for number in ("2.2", "3.1"):
        shutil.copytree(mimic_dir / "hosp", files / "mimiciv" / number / "hosp")
    shutil.copytree(mimic_dir / "note", files / "mimic-iv-note" / "2.2" / "note")
    with pytest.raises(MedcodeError, match=r"both claim table .*--dataset-version mimic-iv-2\.2 or mimic-iv-3\.1"):
        find_files(MimicVersion("v", "mimic-iv", str(files)))
    newest = MimicVersion("v", "mimic-iv-3.1", str(files))
    found = find_files(newest)
    assert found["patients"] == files / "mimiciv" / "3.1" / "hosp" / "patients.csv.gz"
    assert found["notes"] == files / "mimic-iv-note" / "2.2" / "note" / "discharge.csv.gz"
    assert known_version(newest, found["notes"]) == "3.1"


def test_a_missing_file_is_not_taken_from_another_release(mimic_dir: Path, tmp_path: Path) -> None:
    files = tmp_path / "files"
    for number in ("2.2", "3.1"):
        shutil.copytree(mimic_dir / "hosp", files / "mimiciv" / number / "hosp")
    shutil.copytree(mimic_dir / "note", files / "mimic-iv-note" / "2.2" / "note")
    (files / "mimiciv" / "3.1" / "hosp" / "procedures_icd.csv.gz").unlink()
    (files / "mimiciv" / "3.1" / "hosp" / "hcpcsevents.csv.gz").unlink()
    with pytest.raises(MedcodeError, match=r"expected hosp/procedures_icd\.csv\.gz"):
        find_files(MimicVersion("v", "mimic-iv-3.1", str(files)))


def test_physionets_zips_beside_each_other_and_a_demo(mimic_dir: Path, tmp_path: Path) -> None:
    for folder in ("mimic-iv-2.2", "mimic-iv-3.1", "mimic-iv-clinical-database-demo-2.2"):
        shutil.copytree(mimic_dir / "hosp", tmp_path / "zips" / folder / "hosp")
    notes = tmp_path / "zips" / "mimic-iv-note-deidentified-free-text-clinical-notes-2.2" / "note"
    shutil.copytree(mimic_dir / "note", notes)
    version = MimicVersion("v", "mimic-iv-3.1", str(tmp_path / "zips"))
    found = find_files(version)
    assert found["patients"].parent.parent.name == "mimic-iv-3.1"
    assert found["notes"].parent == notes
    unnumbered = MimicVersion("v", "mimic-iv", str(tmp_path / "zips" / "mimic-iv-2.2"))
    assert known_version(unnumbered, found["patients"]) == "3.1"


def test_a_first_line_that_is_data_is_not_repeated(mimic_dir: Path, version: MimicVersion) -> None:
    file = mimic_dir / "hosp" / "patients.csv.gz"
    file.unlink()
    file.with_suffix("").write_text("1,F,private illness of somebody\n")
    with pytest.raises(MedcodeError, match="its first line is no header") as error:
        check_columns(file.with_suffix(""), table_specs("mimic-iv")["patients"])
    assert "private" not in str(error.value)
    file.with_suffix("").write_text("subject_id,gender,gender\n")
    with pytest.raises(MedcodeError, match="missing"):
        check_columns(file.with_suffix(""), table_specs("mimic-iv")["patients"])


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes("\ufeffsubject_id,gender\n".encode())
    assert header(file) == ["subject_id", "gender"]


def test_the_version_is_known_from_physionets_folder(mimic_dir: Path, tmp_path: Path) -> None:
    numbered = tmp_path / "mimiciv" / "2.2"
    numbered.parent.mkdir()
    mimic_dir.rename(numbered)
    version = MimicVersion("v", "mimic-iv", str(numbered))
    assert known_version(version, find_files(version)["patients"]) == "2.2"
    assert known_version(MimicVersion("v", "mimic-iv", "/data"), Path("/data/hosp/patients.csv")) is None


def test_linked_folders_are_followed_once(mimic_dir: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "hosp").symlink_to(mimic_dir / "hosp")
    (linked / "note").symlink_to(mimic_dir / "note")
    (linked / "again").symlink_to(linked)  # a circle
    assert set(find_files(MimicVersion("v", "mimic-iv", str(linked)))) == set(table_specs("mimic-iv"))


def test_published_checksums_are_found_above_the_file(mimic_dir: Path) -> None:
    (mimic_dir / "SHA256SUMS.txt").write_text("ABC1  hosp/patients.csv.gz\nffff  note/discharge.csv.gz\n")
    assert published_sha256(mimic_dir / "hosp" / "patients.csv.gz", mimic_dir) == "abc1"
    assert published_sha256(mimic_dir / "hosp" / "admissions.csv.gz", mimic_dir) is None


def test_the_signature_changes_with_any_file(mimic_dir: Path, version: MimicVersion) -> None:
    before = stat_signature(find_files(version))
    assert stat_signature(find_files(version)) == before
    with (mimic_dir / "hosp" / "d_icd_diagnoses.csv.gz").open("ab") as file:
        file.write(b"x")
    assert stat_signature(find_files(version)) != before
