"""One small main job, run as a user would, shared by the tests that look at what came of it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from medcode_assets.corpora.synthetic_mimic import write_synthetic_mimic

SMALL = [
    "--base-model=embedded",
    "--set=training.epochs=0.5",
    "--set=training.gradient_checkpointing=false",
    "--set=training.learning_rate=3e-3",
    "--set=training.batch_size=16",
    "--set=training.gradient_accumulation=1",
    "--set=evaluation.max_documents=24",
    "--set=data.max_prompt_tokens=256",
]


def medcode(*arguments: str | Path, home: Path, timeout: int = 300) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DAGSTER_", "MEDCODE_"))}
    return subprocess.run(
        [sys.executable, "-m", "medcode_assets", *map(str, arguments)],
        env={**environment, "MEDCODE_HOME": str(home), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@dataclass(frozen=True)
class Job:
    home: Path
    mimic_dir: Path
    result: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def mimic_iv_job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    home = tmp_path_factory.mktemp("home")
    mimic_dir = write_synthetic_mimic(home / "small", release="mimic-iv", admissions=300, seed=1)
    result = medcode("run", "--mimic-dir", mimic_dir, "--dataset-version", "mimic-iv", *SMALL, home=home)
    return Job(home, mimic_dir, result)
