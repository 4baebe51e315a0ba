"""The far side: checks what came, trains, and says how it ended.

    python -m medcode_assets.training.remote.runner FOLDER ATTEMPT HOURS

    attempt-1/pid         this process
    attempt-1/messages    Dagster Pipes messages of the first worker, one a line
    attempt-1/log.txt     all that the workers wrote
    attempt-1/ended.json  how it ended, and the sha256 of what came out; written last

Nothing is looked up on the network, and nothing but the folder is read.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel

from medcode_assets.training.job import ERROR, RESULT, WEIGHTS, TrainingJob, forget_outcome, read_result
from medcode_assets.training.launch import WORKER, torchrun_command, torchrun_environment
from medcode_assets.training.remote.shipping import unpack
from medcode_assets.training.worker import PIPES_VARIABLE, USER_MISTAKE
from medcode_serving.bundle import checksums, file_sha256
from medcode_serving.errors import MedcodeError

PID, MESSAGES, LOG, ENDED = "pid", "messages", "log.txt", "ended.json"
TIME_IS_UP = 124
"""Exit status, as timeout(1)'s."""
SECONDS_TO_END = 15
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
LOG_END = 8192
"""Bytes."""
TELLING = re.compile(
    r"(torch\.\S*(OutOfMemoryError|AcceleratorError)|(RuntimeError|torch\.\S+): (CUDA|NCCL|cuDNN)|MemoryError"
    r"|ImportError|ModuleNotFoundError|OSError: \[Errno)"
)
"""Errors that are about the machine. Any other is named by its kind alone: it might quote a note."""


class Ending(BaseModel):
    """How an attempt ended."""

    status: int
    error: str | None = None
    """What the user can mend."""
    reason: str = ""
    """The last words of the log, as far as they may be shown."""
    files: dict[str, str] = {}
    """sha256 of what came out, by name."""


def main(folder: Path, attempt: int, hours: float) -> int:
    """Run an attempt in a folder of its own; returns the exit status."""
    out = folder / f"attempt-{attempt}"
    out.mkdir(exist_ok=True)
    (out / PID).write_text(str(os.getpid()))
    ending = _run(folder, out, hours)
    aside = out / f"{ENDED}.part"
    aside.write_text(ending.model_dump_json())
    aside.replace(out / ENDED)
    return ending.status


def _run(folder: Path, out: Path, hours: float) -> Ending:
    forget_outcome(folder)
    try:
        job = unpack(folder)
        status = _train(folder, out, job, hours)
        if status == 0:
            read_result(folder)
            weights = {f"{WEIGHTS}/{name}": digest for name, digest in checksums(folder / WEIGHTS).items()}
            return Ending(status=0, files={**weights, RESULT: file_sha256(folder / RESULT)})
    except MedcodeError as error:
        return Ending(status=USER_MISTAKE, error=str(error))
    if (folder / ERROR).exists():
        return Ending(status=status, error=(folder / ERROR).read_text().strip())
    return Ending(status=status, reason=last_words(status, out / LOG))


def _train(folder: Path, out: Path, job: TrainingJob, hours: float) -> int:
    """Run the workers until they end, or until the time is up."""
    environment = {**os.environ, **OFFLINE, **_pipes_environment(out / MESSAGES)}
    command = [sys.executable, "-m", WORKER, str(folder.resolve())]
    if job.compute.launched:
        command = torchrun_command(folder, job.compute)
        environment |= torchrun_environment(job.compute)
    with (out / LOG).open("wb") as log:
        workers = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            return workers.wait(timeout=hours * 3600)
        except subprocess.TimeoutExpired:
            workers.terminate()
            try:
                workers.wait(timeout=SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                workers.kill()
                workers.wait()
            return TIME_IS_UP


def _pipes_environment(messages: Path) -> dict[str, str]:
    """Let the first worker write Pipes messages to a file; of the Dagster run itself it learns nothing."""
    from dagster_pipes import (
        DAGSTER_PIPES_MESSAGES_ENV_VAR,
        PipesContextData,
        PipesDefaultContextLoader,
        PipesDefaultMessageWriter,
        encode_param,
    )

    nothing = PipesContextData(
        asset_keys=None,
        code_version_by_asset_key=None,
        provenance_by_asset_key=None,
        partition_key=None,
        partition_key_range=None,
        partition_time_window=None,
        run_id="",
        job_name=None,
        retry_number=0,
        extras={},
    )
    return {
        PIPES_VARIABLE: encode_param({PipesDefaultContextLoader.DIRECT_KEY: nothing}),
        DAGSTER_PIPES_MESSAGES_ENV_VAR: encode_param(
            {PipesDefaultMessageWriter.FILE_PATH_KEY: str(messages.resolve())}
        ),
    }


def last_words(status: int, log: Path) -> str:
    """Return why workers ended: a signal's name, or the log's last error as far as it can hold no text."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - LOG_END))
        lines = re.split(r"[\r\n]+", stream.read().decode(errors="replace").strip())
    for line in reversed(lines):
        if TELLING.match(line):
            return line[:300]
        if kind := re.match(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt)\b", line):
            return f"{kind[0]}, its message left out: it might quote a note"
    return "no known error in its log"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
