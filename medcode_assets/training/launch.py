"""Trainings in processes of their own: what torchrun is asked, and who asks it.

A launcher starts the processes of a training, wherever that is, and waits for them; all that passes between it and
them is the training's folder. So one for Kubernetes or Slurm is one method (docs/scale-out.md).
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from medcode_assets.training.job import ERROR, TrainingResult, forget_outcome, read_result
from medcode_assets.training.settings import ComputeSettings
from medcode_serving.errors import MedcodeError

WORKER = "medcode_assets.training.worker"
LAUNCHER_PID = "MEDCODE_LAUNCHER_PID"
"""The process that waits for a training: its workers on the same machine end when it is gone."""
FRESH_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Else torch 2.13 keeps one store through all restarts, where restarted processes find the addresses of dead ones."""
SHUTDOWN_SECONDS = 10
"""For workers to end when torchrun is asked to; less than Dagster waits for torchrun."""
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Launcher(Protocol):
    """Starts the processes of trainings."""

    def run(self, folder: Path, compute: ComputeSettings) -> int:
        """Start the training in a job folder, wait until it ended, and return its exit status, 0 if it went well."""
        ...


def launched_training(folder: Path, compute: ComputeSettings, launcher: Launcher) -> TrainingResult:
    """Train what `<folder>/job.json` says in processes of their own.

    Raises:
        MedcodeError: the training failed; with the line that it left, if it is something that the user can mend.
    """
    forget_outcome(folder)
    status = launcher.run(folder, compute)
    if status and not (folder / ERROR).exists():
        raise MedcodeError(
            f"{folder}: the training's processes ended with status {status} after {compute.max_restarts} restarts "
            "(compute.max_restarts); their own words are in the log above, and starting again goes on from the last "
            "checkpoint"
        )
    return read_result(folder)


def torchrun_command(folder: Path, compute: ComputeSettings) -> list[str]:
    """Return the command that starts this machine's processes of a training; on several machines, each runs it."""
    if compute.machines == 1:
        # By its address: a container's own name often resolves to nothing, or slowly.
        meeting = ["--standalone", "--local-addr", "127.0.0.1"]
    else:
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", str(compute.rendezvous), "--rdzv-id", folder.name]
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", str(compute.machines), "--nproc-per-node", str(compute.processes)),
        *meeting,
        *("--max-restarts", str(compute.max_restarts), "--shutdown-timeout", str(SHUTDOWN_SECONDS)),
        *("-m", WORKER, str(folder.resolve())),
    ]


def torchrun_environment(compute: ComputeSettings) -> dict[str, str]:
    """Return the variables that a launcher on this machine adds to its own environment for torchrun."""
    quiet = dict.fromkeys(("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_DISABLE_PROGRESS_BARS"), "1")
    # torchrun would give each process one thread and say so.
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // compute.processes)))
    return {**quiet, FRESH_STORE: "1", "OMP_NUM_THREADS": threads, LAUNCHER_PID: str(os.getpid())}


class Subprocesses:
    """Launcher of this machine, without Dagster."""

    def run(self, folder: Path, compute: ComputeSettings) -> int:
        """Run torchrun; SIGINT, SIGTERM and SIGHUP end its processes before they end this one.

        Raises:
            KeyboardInterrupt: after SIGINT.
            SystemExit: after another of these signals.
        """
        # In a session of its own: Ctrl-C reaches torchrun once, through us, and not in the middle of its ending.
        with _passing_signals_on() as pass_on_to:
            process = subprocess.Popen(
                torchrun_command(folder, compute),
                env={**os.environ, **torchrun_environment(compute)},
                start_new_session=True,
            )
            pass_on_to(process)
            return process.wait()


@contextmanager
def _passing_signals_on() -> "Iterator[Callable[[subprocess.Popen[bytes]], None]]":
    """Pass ending signals on to the process that is named, those from before that too; obey them once it is gone."""
    if threading.current_thread() is not threading.main_thread():  # Python tells signals to the main thread alone
        yield lambda process: None
        return
    received: list[int] = []
    first: list[int] = []
    named: list[subprocess.Popen[bytes]] = []

    def deliver() -> None:
        if named:
            with suppress(IndexError):  # none, or the one that interrupted this very line was quicker
                named[0].send_signal(first.pop())

    def pass_on(number: int, _: object) -> None:
        if not received:
            first.append(number)
        received.append(number)
        deliver()

    def name(process: "subprocess.Popen[bytes]") -> None:
        named.append(process)
        deliver()

    before = {number: signal.signal(number, pass_on) for number in ENDING_SIGNALS}
    try:
        yield name
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt if received[0] == signal.SIGINT else SystemExit(128 + received[0])
