"""A run that is killed in the middle of training: the next one goes on, and Dagster shows what happened."""

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from medcode_assets.corpora.synthetic_mimic import write_synthetic_mimic
from medcode_serving.bundle import latest_bundle

from .background import in_background
from .conftest import SMALL, medcode, start


@dataclass(frozen=True)
class KilledAndRunAgain:
    home: Path
    published_when_killed: bool
    again: "subprocess.CompletedProcess[str]"


@in_background
def killed_and_run_again(folder: Path) -> KilledAndRunAgain:
    """Kill a run as soon as training has left a checkpoint, and give the same command again."""
    home = folder / "home"
    mimic_dir = write_synthetic_mimic(folder / "mimic", release="mimic-iv", admissions=200, seed=4)
    arguments = ["run", "--mimic-dir", str(mimic_dir), "--dataset-version", "mimic-iv", *SMALL]
    arguments += ["--set=training.checkpoint_minutes=1e-6", "--set=evaluation.untuned_base=false"]
    killed = start(*arguments, home=home, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 1200
        while not list(home.glob("artifacts/icd/mimic/training/*/checkpoints/step-*")):
            assert killed.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        killed.kill()
        killed.wait()
    published = (home / "bundles").exists()
    return KilledAndRunAgain(home, published, medcode(*arguments, home=home))


def test_the_next_run_goes_on_from_the_checkpoint(killed_and_run_again: KilledAndRunAgain) -> None:
    home, again = killed_and_run_again.home, killed_and_run_again.again
    assert not killed_and_run_again.published_when_killed
    assert again.returncode == 0, again.stderr
    assert latest_bundle(home / "bundles", "icd").manifest.data.partition == "mimic"
    made = json.loads((home / "artifacts/icd/mimic/adapter/made.json").read_text())
    assert made["resumed_from"] > 0
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        statuses = [run.status.value for run in instance.get_runs()]
    assert statuses == ["SUCCESS", "FAILURE"]  # newest first; not STARTED for ever
