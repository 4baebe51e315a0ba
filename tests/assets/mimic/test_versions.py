import gzip
import shutil
from pathlib import Path

import pytest

from medcode_assets.mimic.sources import MimicVersion
from medcode_assets.mimic.versions import (
    all_registered,
    discover,
    register,
    registered,
    unregister,
    version_name,
)
from medcode_serving.errors import MedcodeError


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


def test_versions_are_listed_and_forgotten(version: MimicVersion, tmp_path: Path) -> None:
    home = tmp_path / "home"
    register(home, version)
    assert all_registered(home) == [version]
    unregister(home, "v")
    assert all_registered(home) == []
    with pytest.raises(MedcodeError, match="'v' is not registered .*medcode versions add"):
        unregister(home, "v")


def test_releases_are_discovered_in_folders_of_their_own(mimic_dir: Path, tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    shutil.copytree(mimic_dir, watched / "codiesp")
    third = watched / "mimiciii" / "1.4"
    third.mkdir(parents=True)
    with gzip.open(third / "DIAGNOSES_ICD.csv.gz", "wt") as file:
        file.write("ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE\n")
    assert discover(watched) == {
        "codiesp": MimicVersion("codiesp", "mimic-iv", str(watched / "codiesp")),
        "mimic-iii-1.4": MimicVersion("mimic-iii-1.4", "mimic-iii-1.4", str(third)),
    }


def test_notes_of_a_download_of_their_own_are_found_beside(mimic_dir: Path, tmp_path: Path) -> None:
    files = tmp_path / "files"
    shutil.copytree(mimic_dir / "hosp", files / "mimiciv" / "3.1" / "hosp")
    own = files / "mimiciv" / "3.1"
    assert discover(files) == {"mimic-iv-3.1": MimicVersion("mimic-iv-3.1", "mimic-iv-3.1", str(own))}
    shutil.copytree(mimic_dir, files / "other")  # another release's notes are not taken for them
    assert discover(files)["mimic-iv-3.1"].directory == str(own)
    shutil.rmtree(files / "other")
    shutil.copytree(mimic_dir / "note", files / "mimic-iv-note" / "2.2" / "note")
    assert discover(files) == {"mimic-iv-3.1": MimicVersion("mimic-iv-3.1", "mimic-iv-3.1", str(files))}


def test_physionets_demo_does_not_hide_the_release(mimic_dir: Path, tmp_path: Path) -> None:
    files = tmp_path / "files"
    shutil.copytree(mimic_dir / "hosp", files / "mimiciv" / "2.2" / "hosp")
    shutil.copytree(mimic_dir / "hosp", files / "mimic-iv-demo" / "2.2" / "hosp")
    shutil.copytree(mimic_dir / "note", files / "mimic-iv-note" / "2.2" / "note")
    assert discover(files) == {"mimic-iv-2.2": MimicVersion("mimic-iv-2.2", "mimic-iv-2.2", str(files))}


def test_two_folders_of_one_name_are_two_versions(mimic_dir: Path, tmp_path: Path) -> None:
    for place in ("a", "b"):
        shutil.copytree(mimic_dir, tmp_path / "files" / place / "codiesp")
    found = discover(tmp_path / "files")
    assert {name: Path(version.directory).parent.name for name, version in found.items()} == {
        "codiesp": "a",
        "b-codiesp": "b",
    }


def test_what_is_no_mimic_is_not_discovered(tmp_path: Path) -> None:
    (tmp_path / "diagnoses_icd.csv").write_text("a,b\n")
    (tmp_path / "diagnoses_icd.csv.gz").write_bytes(b"half a download")
    assert discover(tmp_path) == {}
