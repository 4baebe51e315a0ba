"""A process that is killed inside a step leaves the earlier table, and the next one makes the step whole."""

import gzip
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest

from medcode_assets.mimic import load
from medcode_assets.mimic.sources import MimicVersion, find_files, table_specs
from medcode_assets.warehouse import built, open_warehouse

SPEC = table_specs("mimic-iv")["notes"]


def write_notes(mimic_dir: Path, rows: int) -> None:
    text = "Patient admitted with chest pain. " * 20
    with gzip.open(mimic_dir / "note" / "discharge.csv.gz", "wt", compresslevel=1) as file:
        file.write(",".join(SPEC.columns) + "\n")
        file.writelines(f'{i}-DS-1,{i},{i},DS,1,,,"{text}{i}"\n' for i in range(rows))


def load_and_die(home: Path, directory: Path, moment: str, seconds: float) -> None:
    """Load the notes; die by SIGKILL some time into the statement, or when all is written but not committed."""
    files = find_files(MimicVersion("v", "mimic-iv", str(directory)))

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "before the commit":
        load._refuse_empty = die  # what looks at the finished table before it is committed
    else:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # its default ends the process at once, as SIGKILL does
        signal.setitimer(signal.ITIMER_REAL, seconds)
    with open_warehouse(home / "w.duckdb") as con:
        load.load_table(con, SPEC, files["notes"], drop_existing=True)
        die()  # too late: the signal tells, which is not the alarm's


def died(home: Path, directory: Path, moment: str, seconds: float) -> int | None:
    """Load over the earlier table in a process that dies; return its exit code."""
    shutil.copy(home / "earlier.duckdb", home / "w.duckdb")
    (home / "w.duckdb.wal").unlink(missing_ok=True)
    process = multiprocessing.get_context("spawn").Process(target=load_and_die, args=(home, directory, moment, seconds))
    process.start()
    process.join(300)
    return process.exitcode


@pytest.mark.parametrize(
    ("moment", "seconds"), [("loading", 0.3), ("loading", 0.6), ("loading", 0.9), ("before the commit", 0.0)]
)
def test_a_killed_load_leaves_the_earlier_table(mimic_dir: Path, tmp_path: Path, moment: str, seconds: float) -> None:
    write_notes(mimic_dir, 5)
    version = MimicVersion("v", "mimic-iv", str(mimic_dir))
    with open_warehouse(tmp_path / "earlier.duckdb") as con:
        earlier = load.load_table(con, SPEC, find_files(version)["notes"])
    write_notes(mimic_dir, 200_000)
    wanted = -signal.SIGALRM if seconds else -signal.SIGKILL
    while (died_of := died(tmp_path, mimic_dir, moment, seconds)) != wanted:
        assert died_of == -signal.SIGKILL and seconds > 0.001
        seconds /= 2  # a fast machine had loaded everything before
    with open_warehouse(tmp_path / "w.duckdb") as con:
        found = built(con, "raw.notes")
        assert found and (found.rows, found.fingerprint) == (5, earlier.fingerprint)
        assert con.execute("SELECT count(*), max(text_characters) FROM raw.notes").fetchall() == [(5, 681)]
        again = load.load_table(con, SPEC, find_files(version)["notes"])
        assert (again.rows, again.skipped) == (200_000, False)
        assert con.execute("SELECT count(DISTINCT text_hash) FROM raw.notes").fetchall() == [(200_000,)]
