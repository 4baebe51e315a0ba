"""A release is dropped into the watched folder while the daemon runs, and is materialized without a hand on it."""

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from medcode_assets.corpora.synthetic_mimic import write_synthetic_mimic
from medcode_serving.bundle import latest_bundle

from .background import in_background
from .conftest import free_port, medcode, start

SECONDS = 1500
SETTINGS = {
    "MODEL__BASE": "embedded",
    "DATA__MAX_PROMPT_TOKENS": "256",
    "TRAINING__EPOCHS": "0.2",
    "TRAINING__BATCH_SIZE": "16",
    "TRAINING__GRADIENT_ACCUMULATION": "1",
    "TRAINING__GRADIENT_CHECKPOINTING": "false",
    "EVALUATION__MAX_DOCUMENTS": "8",
    "EVALUATION__UNTUNED_BASE": "false",
    "EVALUATION__RESAMPLES": "100",
    "EXPORT__QUANTIZATIONS": '["f16"]',
    "EXPORT__PROMPTS": "3",
    "EXPORT__F1_NOTES": "0",
    "GATES__RELAX": '["above_frequency_prior", "not_collapsed"]',
    "AUTOMATION__WATCH_SECONDS": "5",
    "AUTOMATION__RETRAIN": "true",
}


@contextmanager
def daemon(home: Path, watched: Path, log: Path) -> Iterator["subprocess.Popen[str]"]:
    """`medcode ui`, which runs the webserver and the daemon, with a setting that names the folder."""
    settings = {**SETTINGS, "AUTOMATION__WATCH_FOLDER": str(watched)}
    environment = {f"MEDCODE_TRAIN_{name}": value for name, value in settings.items()}
    with log.open("wb") as stream:
        process = start(
            *("ui", "--port", str(free_port()), "--output-dir", home),
            home=None,
            more=environment,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(180)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)


def run_statuses(home: Path) -> list[str]:
    """How the runs are: what the last asset leaves is there before Dagster knows that it is made."""
    runs = home / "dagster" / "history" / "runs.db"
    if not list(home.glob("bundles/icd/mimic-iv-new-*/gguf/manifest.json")):
        return []
    with closing(sqlite3.connect(runs)) as con:
        return [status for (status,) in con.execute("SELECT status FROM runs")]


@in_background
def dropped_release(folder: Path) -> Path:
    """Drop a release into the watched folder, wait until all is made of it, and return the home."""
    home, watched, log = folder / "home", folder / "watched", folder / "ui.log"
    watched.mkdir()
    first = write_synthetic_mimic(folder / "first", admissions=200, seed=7)
    second = write_synthetic_mimic(folder / "made", admissions=200, seed=8)
    target = watched / "mimic-iv-new"
    with daemon(home, watched, log) as process:
        # As a download arrives: table by table, the notes last.
        shutil.copytree(second / "hosp", target / "hosp")
        registered = medcode("versions", "add", "--mimic-dir", first, "--dataset-version", "mimic-iv", home=home)
        assert registered.returncode == 0, registered.stderr
        shutil.copytree(second / "note", target / "note")
        give_up = time.monotonic() + SECONDS
        while "SUCCESS" not in run_statuses(home):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < give_up, log.read_text()[-3000:]
            time.sleep(1)
    return home


def test_a_second_release_is_fully_materialized_by_itself(dropped_release: Path) -> None:
    home = dropped_release
    assert latest_bundle(home / "bundles", "icd").manifest.data.partition == "mimic-iv-new"
    listed = medcode("versions", "list", home=home)
    states = {line.split()[0]: line.split()[2] for line in listed.stdout.splitlines()[1:]}
    assert states == {"first": "0/24", "mimic-iv-new": "24/24"}
