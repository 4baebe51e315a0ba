"""A release is dropped into the watched folder while the daemon runs, and is materialized without a hand on it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medcode_assets.corpora.synthetic_mimic import write_synthetic_mimic
from medcode_serving.bundle import latest_bundle

from .conftest import medcode

SECONDS = 300
SETTINGS = {
    "MODEL__BASE": "embedded",
    "DATA__MAX_PROMPT_TOKENS": "256",
    "TRAINING__EPOCHS": "0.2",
    "TRAINING__BATCH_SIZE": "16",
    "TRAINING__GRADIENT_ACCUMULATION": "1",
    "TRAINING__GRADIENT_CHECKPOINTING": "false",
    "EVALUATION__MAX_DOCUMENTS": "8",
    "EVALUATION__UNTUNED_BASE": "false",
    "AUTOMATION__WATCH_SECONDS": "5",
    "AUTOMATION__RETRAIN": "true",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def watched(tmp_path: Path) -> Path:
    folder = tmp_path / "watched"
    folder.mkdir()
    return folder


@pytest.fixture
def daemon(home: Path, watched: Path, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`medcode ui`, which runs the webserver and the daemon, with a setting that names the folder."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DAGSTER_", "MEDCODE_"))}
    environment |= {f"MEDCODE_TRAIN_{name}": value for name, value in SETTINGS.items()}
    environment |= {"MEDCODE_TRAIN_AUTOMATION__WATCH_FOLDER": str(watched), "HF_HUB_OFFLINE": "1"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (tmp_path / "ui.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "medcode_assets", "ui", "--port", str(port), "--output-dir", str(home)],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        yield process
        process.terminate()
        try:
            process.wait(60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_a_second_release_is_fully_materialized_by_itself(
    home: Path, watched: Path, daemon: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    first = write_synthetic_mimic(tmp_path / "first", admissions=200, seed=7)
    registered = medcode("versions", "add", "--mimic-dir", first, "--dataset-version", "mimic-iv", home=home)
    assert registered.returncode == 0, registered.stderr
    second = write_synthetic_mimic(tmp_path / "made", admissions=200, seed=8)
    # As a download arrives: table by table, the notes last.
    target = watched / "mimic-iv-new"
    shutil.copytree(second / "hosp", target / "hosp")
    time.sleep(6)
    shutil.copytree(second / "note", target / "note")

    give_up = time.monotonic() + SECONDS
    while not list(home.glob("bundles/icd/mimic-iv-new-*/gguf/manifest.json")):
        assert daemon.poll() is None, (tmp_path / "ui.log").read_text()[-3000:]
        assert time.monotonic() < give_up, (tmp_path / "ui.log").read_text()[-3000:]
        time.sleep(1)
    assert latest_bundle(home / "bundles", "icd").manifest.data.partition == "mimic-iv-new"
    listed = medcode("versions", "list", home=home)
    states = {line.split()[0]: line.split()[2] for line in listed.stdout.splitlines()[1:]}
    assert states == {"first": "0/19", "mimic-iv-new": "19/19"}
