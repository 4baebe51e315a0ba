"""Several MIMIC versions beside each other, and runs that are killed in the middle of writing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medcode_assets.corpora.synthetic_mimic import write_synthetic_mimic
from medcode_assets.warehouse import open_warehouse

from .conftest import medcode

TOKENIZE = ["--base-model=embedded", "--set=data.max_prompt_tokens=256"]
TABLES = (
    "raw.notes",
    "raw.diagnoses_icd",
    "cohort",
    "facts",
    "codes",
    "splits",
    "icd.labels",
    "icd.examples",
    "icd.tokens",
)


def start(*arguments: str | Path, home: Path) -> "subprocess.Popen[str]":
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DAGSTER_", "MEDCODE_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "medcode_assets", *map(str, arguments)],
        env={**environment, "MEDCODE_HOME": str(home), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(warehouse: Path) -> dict[str, tuple[object, ...]]:
    """Return rows and a checksum over all values of each table, whatever order its rows are in."""
    with open_warehouse(warehouse, read_only=True) as con:
        return {
            table: con.execute(f"SELECT count(*), sum(hash(t)::HUGEINT) FROM {table} AS t").fetchall()[0]
            for table in TABLES
        }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("releases")
    return {
        "one": write_synthetic_mimic(root / "one", admissions=250, seed=5),
        "two": write_synthetic_mimic(root / "two", admissions=250, seed=6),
    }


def test_two_runs_at_once_on_two_versions_and_two_on_one(folders: dict[str, Path], tmp_path: Path) -> None:
    runs = [
        start("tokenize", "--mimic-dir", folders[name], "--dataset-version", "mimic-iv", *TOKENIZE, home=tmp_path)
        for name in ("one", "two", "one")
    ]
    for run in runs:
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors
    tables = [contents(tmp_path / "warehouse" / f"{name}.duckdb") for name in ("one", "two")]
    assert tables[0] != tables[1]
    assert all(rows > 0 for found in tables for rows, _ in found.values())
    listed = medcode("versions", "list", home=tmp_path)
    assert [line.split()[:3] for line in listed.stdout.splitlines()[1:]] == [
        ["one", "mimic-iv", "15/19"],
        ["two", "mimic-iv", "15/19"],
    ]


# The line that is printed just before the part in which the run is killed.
MOMENTS = {"loading": "raw/diagnoses_icd", "writing": "mimic/cohort", "tokenizing": "icd/base_model"}


def test_a_run_killed_again_and_again_ends_with_the_tables_of_an_undisturbed_one(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    arguments = ["tokenize", "--mimic-dir", folders["one"], "--dataset-version", "mimic-iv", *TOKENIZE]
    undisturbed = medcode(*arguments, home=tmp_path / "undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stderr
    home = tmp_path / "killed"
    for line_before in MOMENTS.values():
        run = start(*arguments, home=home)
        assert run.stderr is not None
        for line in run.stderr:
            if line.strip().startswith(line_before):
                break
        run.send_signal(signal.SIGKILL)
        run.communicate()
        assert run.returncode == -signal.SIGKILL, "it had ended before it was killed"
    again = medcode(*arguments, home=home)
    assert again.returncode == 0, again.stderr
    assert contents(home / "warehouse" / "one.duckdb") == contents(
        tmp_path / "undisturbed" / "warehouse" / "one.duckdb"
    )


def test_versions_are_added_listed_and_removed(folders: dict[str, Path], tmp_path: Path) -> None:
    source = ["--mimic-dir", folders["one"], "--dataset-version", "mimic-iv"]
    assert medcode("versions", "add", *source, "--name", "first", home=tmp_path).returncode == 0
    listed = medcode("versions", "list", home=tmp_path).stdout
    assert listed.splitlines()[1].split() == ["first", "mimic-iv", "0/19", str(folders["one"])]
    removed = medcode("versions", "remove", "first", "--delete-data", home=tmp_path)
    assert removed.returncode == 0, removed.stderr
    assert "no MIMIC version is registered" in medcode("versions", "list", home=tmp_path).stdout
    again = medcode("versions", "remove", "first", home=tmp_path)
    assert again.returncode == 2
    assert "medcode: MIMIC version 'first' is not registered" in again.stderr
    assert "Traceback" not in again.stderr
