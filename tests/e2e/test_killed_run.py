"""A run that is killed in the middle of training: the next one goes on, and Dagster shows what happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from medcode_assets.corpora.synthetic_mimic import write_synthetic_mimic
from medcode_serving.bundle import latest_bundle

from .conftest import SMALL, medcode


def test_the_next_run_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    home = tmp_path / "home"
    mimic_dir = write_synthetic_mimic(tmp_path / "mimic", release="mimic-iv", admissions=200, seed=4)
    arguments = ["run", "--mimic-dir", str(mimic_dir), "--dataset-version", "mimic-iv", *SMALL]
    arguments += ["--set=training.checkpoint_minutes=1e-6", "--set=evaluation.untuned_base=false"]
    environment = {**os.environ, "MEDCODE_HOME": str(home)}
    killed = subprocess.Popen(
        [sys.executable, "-m", "medcode_assets", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(home.glob("artifacts/icd/mimic/checkpoints/*/*/COMPLETE")):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (home / "bundles").exists()

    again = medcode(*arguments, home=home)
    assert again.returncode == 0, again.stderr
    assert latest_bundle(home / "bundles", "icd").manifest.data.partition == "mimic"
    made = (home / "artifacts/icd/mimic/adapter/made.json").read_text()
    assert '"resumed_from_step": 0' not in made
    statuses = subprocess.run(
        [sys.executable, "-c", STATUSES],
        env={**environment, "DAGSTER_HOME": str(home / "dagster")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert statuses.split() == ["SUCCESS", "FAILURE"]  # newest first; not STARTED for ever


STATUSES = """
import dagster as dg
with dg.DagsterInstance.get() as instance:
    print(*[run.status.value for run in instance.get_runs()])
"""
