import shutil
from pathlib import Path

import pytest

from medcode_assets.mimic.sources import MimicVersion, find_files, table_specs
from medcode_assets.mimic.versions import register, registered, version_name
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
    with pytest.raises(MedcodeError, match="--dataset-version mimic-v: unknown; choose one of mimic-iii, mimic-iv"):
        table_specs("mimic-v")


def test_registering_remembers_and_refuses_another_folder(version: MimicVersion, tmp_path: Path) -> None:
    home = tmp_path / "home"
    register(home, version)
    register(home, version)
    assert registered(home, "v") == version
    other = MimicVersion("v", "mimic-iv", str(shutil.copytree(version.directory, tmp_path / "other")))
    with pytest.raises(MedcodeError, match="already; give this one another --name"):
        register(home, other)
    shutil.rmtree(version.directory)  # the folder moved: its name goes with it
    register(home, other)
    assert registered(home, "v") == other


def test_tables_of_another_database_beside_it_do_not_matter(mimic_dir: Path, version: MimicVersion) -> None:
    (mimic_dir / "ed").mkdir()
    shutil.copy(mimic_dir / "hosp" / "patients.csv.gz", mimic_dir / "ed" / "patients.csv.gz")
    assert find_files(version)["patients"].parent.name == "hosp"


@pytest.mark.parametrize("name", ["../x", "a/b", "A", ""])
def test_a_name_that_is_no_file_name_is_refused(version: MimicVersion, tmp_path: Path, name: str) -> None:
    with pytest.raises(MedcodeError, match="--name"):
        register(tmp_path / "home", MimicVersion(name, version.release, version.directory))


def test_nothing_is_registered_when_a_column_is_missing(version: MimicVersion, tmp_path: Path) -> None:
    file = Path(version.directory) / "hosp" / "patients.csv.gz"
    file.unlink()
    file.with_suffix("").write_text("subject_id,sex\n1,F\n")
    with pytest.raises(MedcodeError, match=r"patients\.csv: column gender, .* missing for table patients; found"):
        register(tmp_path / "home", version)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("codiesp-mimic-iv", "codiesp-mimic-iv"),
        ("physionet.org/files/mimiciv/3.1", "mimic-iv-3.1"),
        ("My MIMIC", "my-mimic"),
    ],
)
def test_version_names(folder: str, name: str) -> None:
    assert version_name(Path("/data") / folder, "mimic-iv") == name
