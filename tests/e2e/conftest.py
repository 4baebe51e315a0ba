"""One small main job, run as a user would, shared by the tests that look at what came of it."""

import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from medcode_assets.corpora.synthetic_mimic import write_synthetic_mimic

from .background import in_background, started

SECONDS_TO_HANG = 1800
TOKENIZE = ["--base-model=embedded", "--set=data.max_prompt_tokens=256"]
_TRAIN = [
    *TOKENIZE,
    "--set=training.epochs=0.5",
    "--set=training.gradient_checkpointing=false",
    "--set=training.learning_rate=3e-3",
    "--set=training.batch_size=16",
    "--set=training.gradient_accumulation=1",
    "--set=evaluation.max_documents=8",
    "--set=evaluation.resamples=100",
    "--set=export.prompts=3",
    # Half an epoch makes no good adapter; that a bad one is not published is a test of its own.
    "--set=gates.relax=[above_frequency_prior, above_untuned_base, not_collapsed]",
]
SMALL = [*_TRAIN, "--set=export.quantizations=[f16]", "--set=export.f1_notes=0"]
WHOLE = [*_TRAIN, "--set=export.quantizations=[q4_k_m]", "--set=export.f1_notes=8"]


def start(
    *arguments: str | Path, home: Path | None, more: dict[str, str] | None = None, **options: Any
) -> "subprocess.Popen[str]":
    """Start `medcode` as from a fresh shell, with MEDCODE_HOME unless `home` is None; errors are in `stderr`.

    One thread each: several run at once, and OpenMP's threads wait for each other by spinning.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DAGSTER_", "MEDCODE_"))}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **(more or {})}
    environment |= {} if home is None else {"MEDCODE_HOME": str(home)}
    return subprocess.Popen(
        [sys.executable, "-m", "medcode_assets", *map(str, arguments)],
        env=environment,
        **{"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, **options},
    )


def free_port() -> int:
    """Return a port that nobody has, for a process that listens later.

    None of those that Linux gives to whoever asks for any or connects (from 32768 on): it would soon be another's.
    """
    while True:
        port = random.randrange(20_000, 30_000)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def medcode(*arguments: str | Path, home: Path, timeout: int = 1200) -> "subprocess.CompletedProcess[str]":
    """Run `medcode` to its end."""
    with start(*arguments, home=home, stdout=subprocess.PIPE) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test waits for whole runs, and these for their turn; each has a limit of its own, which says more."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(SECONDS_TO_HANG))


@pytest.fixture(scope="session", autouse=True)
def background(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, "Future[Any]"]]:
    """The long work that the chosen tests ask for, under way from the first test on."""
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    with started(wanted, tmp_path_factory.mktemp) as work:
        yield work


@dataclass(frozen=True)
class Job:
    home: Path
    mimic_dir: Path
    result: "subprocess.CompletedProcess[str]"


@in_background
def mimic_iv_job(folder: Path) -> Job:
    mimic_dir = write_synthetic_mimic(folder / "small", release="mimic-iv", admissions=300, seed=1)
    arguments = ["--mimic-dir", mimic_dir, "--dataset-version", "mimic-iv", *WHOLE]
    return Job(folder, mimic_dir, medcode("run", *arguments, home=folder))
