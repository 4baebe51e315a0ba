"""Several MIMIC versions beside each other, and runs that are killed in the middle of writing."""

import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from medcode_assets.corpora.synthetic_mimic import write_synthetic_mimic
from medcode_assets.warehouse import open_warehouse

from .background import in_background
from .conftest import TOKENIZE, Job, medcode, start

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


def contents(warehouse: Path) -> dict[str, tuple[object, ...]]:
    """Return rows and a checksum over all values of each table, whatever order its rows are in."""
    with open_warehouse(warehouse, read_only=True) as con:
        return {
            table: con.execute(f"SELECT count(*), sum(hash(t)::HUGEINT) FROM {table} AS t").fetchall()[0]
            for table in TABLES
        }


@dataclass(frozen=True)
class AtOnce:
    home: Path
    exits: list[tuple[int, str]]
    """Exit code and errors of each run."""


@in_background
def tokenized_at_once(home: Path) -> AtOnce:
    """Tokenize two versions, and one of them twice, in three processes that start together."""
    folders = {
        "one": write_synthetic_mimic(home / "one", admissions=200, seed=5),
        "two": write_synthetic_mimic(home / "two", admissions=200, seed=6),
    }
    runs = [
        start("tokenize", "--mimic-dir", folders[name], "--dataset-version", "mimic-iv", *TOKENIZE, home=home)
        for name in ("one", "two", "one")
    ]
    errors = [run.communicate(timeout=1200)[1] for run in runs]
    return AtOnce(home, [(run.returncode, text) for run, text in zip(runs, errors, strict=True)])


def test_two_runs_at_once_on_two_versions_and_two_on_one(tokenized_at_once: AtOnce) -> None:
    home = tokenized_at_once.home
    for code, errors in tokenized_at_once.exits:
        assert code == 0, errors
    tables = [contents(home / "warehouse" / f"{name}.duckdb") for name in ("one", "two")]
    assert tables[0] != tables[1]
    assert all(rows > 0 for found in tables for rows, _ in found.values())
    listed = medcode("versions", "list", home=home)
    assert [line.split()[:3] for line in listed.stdout.splitlines()[1:]] == [
        ["one", "mimic-iv", "15/24"],
        ["two", "mimic-iv", "15/24"],
    ]


# The line that is printed just before the part in which the run is killed.
MOMENTS = {"loading": "raw/diagnoses_icd", "writing": "mimic/cohort", "tokenizing": "icd/base_model"}


@dataclass(frozen=True)
class KilledThrice:
    home: Path
    exits: list[int]
    again: "subprocess.CompletedProcess[str]"


@in_background
def killed_thrice(folder: Path) -> KilledThrice:
    """Tokenize the main job's version, killed at each moment, until nothing kills it."""
    mimic_dir = write_synthetic_mimic(folder / "small", release="mimic-iv", admissions=300, seed=1)
    arguments = ["tokenize", "--mimic-dir", mimic_dir, "--dataset-version", "mimic-iv", *TOKENIZE]
    home = folder / "home"
    exits = []
    for line_before in MOMENTS.values():
        run = start(*arguments, home=home)
        assert run.stderr is not None
        for line in run.stderr:
            if line.strip().startswith(line_before):
                break
        run.send_signal(signal.SIGKILL)
        run.communicate()
        exits.append(run.returncode)
    return KilledThrice(home, exits, medcode(*arguments, home=home))


def test_a_run_killed_again_and_again_ends_with_the_tables_of_an_undisturbed_one(
    mimic_iv_job: Job, killed_thrice: KilledThrice
) -> None:
    assert mimic_iv_job.result.returncode == 0, mimic_iv_job.result.stderr
    assert killed_thrice.exits == [-signal.SIGKILL] * len(MOMENTS), "a run had ended before it was killed"
    assert killed_thrice.again.returncode == 0, killed_thrice.again.stderr
    undisturbed = contents(mimic_iv_job.home / "warehouse" / "small.duckdb")
    assert contents(killed_thrice.home / "warehouse" / "small.duckdb") == undisturbed


def test_versions_are_added_listed_and_removed(tmp_path: Path) -> None:
    folder = write_synthetic_mimic(tmp_path / "mimic", admissions=200, seed=5)
    source = ["--mimic-dir", folder, "--dataset-version", "mimic-iv"]
    assert medcode("versions", "add", *source, "--name", "first", home=tmp_path).returncode == 0
    listed = medcode("versions", "list", home=tmp_path).stdout
    assert listed.splitlines()[1].split() == ["first", "mimic-iv", "0/24", str(folder)]
    removed = medcode("versions", "remove", "first", "--delete-data", home=tmp_path)
    assert removed.returncode == 0, removed.stderr
    assert "no MIMIC version is registered" in medcode("versions", "list", home=tmp_path).stdout
    again = medcode("versions", "remove", "first", home=tmp_path)
    assert again.returncode == 2
    assert "medcode: MIMIC version 'first' is not registered" in again.stderr
    assert "Traceback" not in again.stderr
