"""The near side: start a training elsewhere, or find the one that was started, and follow it to its end.

Between two processes of this side, handle.json in the training's folder says what was started. It is written before
anything is sent and again once it runs, so a killed process loses no training and none is started twice.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcode_assets.training.job import ERROR, TRAIN, TrainingJob, read_job
from medcode_assets.training.progress import LogMetrics, reporting
from medcode_assets.training.remote.delivery import delivered, fetch_delivery, install_delivery
from medcode_assets.training.remote.launchers import (
    Handle,
    RemoteLauncher,
    UnreachableError,
    forget_handle,
    new_handle,
    read_handle,
    refuse_host,
    refuse_other_launcher,
    write_handle,
)
from medcode_assets.training.remote.runner import ENDED, MESSAGES, TIME_IS_UP, Ending
from medcode_assets.training.remote.shipping import SCRATCH, pack
from medcode_assets.training.settings import ComputeSettings
from medcode_assets.training.token_file import TokenFile
from medcode_assets.training.worker import METRICS_MESSAGE
from medcode_assets.training.world import World
from medcode_serving.errors import MedcodeError

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 600.0
"""How long the other machine may be out of reach before this side gives up waiting."""


@dataclass(frozen=True)
class RemoteRun:
    """Launcher (`medcode_assets.training.launch.Launcher`) of a training on another machine."""

    launcher: RemoteLauncher
    on_message: Callable[[dict[str, Any]], None] | None = None
    """Told each Dagster Pipes message of the training, from its first one."""
    on_metrics: LogMetrics | None = None
    """Told each entry of the progress, from its first one; may raise to end the training."""
    detach: bool = False
    """Interrupted, leave the training running; the next run goes on waiting for it."""

    def run(self, folder: Path, compute: ComputeSettings) -> int:
        """Start the training in a folder, or find the one that was started; wait, and fetch what came out.

        Returns:
            The exit status: 0, or that of a mistake which error.txt names.

        Raises:
            MedcodeError: notes may not be sent there, the other machine is out of reach, or the training ended in a
                way that it has no line of its own for.
        """
        refuse_host(self.launcher, compute)
        if delivered(folder):
            self._clean_up(folder, read_handle(folder))
            install_delivery(folder)
            return 0
        (folder / SCRATCH).mkdir(exist_ok=True)
        handle = self._waited_for(folder, read_job(folder))
        ending = self._ending(folder, handle)
        if ending is None or (ending.status and ending.error is None):
            # Its folder there stays, with the checkpoints: the next attempt goes on from them.
            again = {"attempt": handle.attempt + 1, "id": None, "told": 0}
            write_handle(folder, handle.model_copy(update=again))
            raise MedcodeError(_how_it_ended(handle, ending, compute))
        if ending.error is not None:
            self._clean_up(folder, handle)
            (folder / ERROR).write_text(ending.error)
            return ending.status
        fetch_delivery(folder, self.launcher, handle, ending.files)
        self._clean_up(folder, handle)
        install_delivery(folder)
        return 0

    def _waited_for(self, folder: Path, job: TrainingJob) -> Handle:
        """Return the handle of an attempt that has ended; one that is interrupted is ended, unless `detach`."""
        handle = self._known(folder, job) or new_handle(self.launcher, job)
        try:
            handle = self._started(folder, handle)
            return self._followed(folder, handle, job)
        except UnreachableError:
            raise  # it goes on there
        except Exception:
            self._clean_up(folder, handle)
            raise
        except BaseException:  # an interrupt, Dagster's too
            if self.detach and handle.id is not None:
                logger.warning("%s %s: left running; the next run goes on waiting for it", handle.launcher, handle.key)
            else:
                self._clean_up(folder, handle)
            raise

    def _known(self, folder: Path, job: TrainingJob) -> Handle | None:
        """Return the handle of an earlier run, if it is of this training."""
        handle = read_handle(folder)
        if handle is None:
            return None
        refuse_other_launcher(folder, handle, self.launcher.name)
        if handle.fingerprint != job.fingerprint:
            self.launcher.discard(handle)
            return None
        return handle

    def _started(self, folder: Path, handle: Handle) -> Handle:
        if handle.id is None:
            write_handle(folder, handle)
            shipment = pack(folder, with_checkpoints=handle.attempt == 1)
            handle = handle.model_copy(update={"id": self.launcher.submit(handle, shipment)})
            write_handle(folder, handle)
        return handle

    def _followed(self, folder: Path, handle: Handle, job: TrainingJob) -> Handle:
        """Tell of the progress until the attempt has ended."""
        from medcode_assets.training.loop import Schedule

        steps = Schedule.of(job.training, len(TokenFile(folder / TRAIN))).steps
        seen, reached = 0, time.monotonic()
        with reporting(job, steps, 0, World(), None) as report:
            while True:
                try:
                    # Asked first: what was written before the end is read after it.
                    running = self.launcher.running(handle)
                    lines = self._messages(folder, handle)
                    reached = time.monotonic()
                except UnreachableError:
                    if time.monotonic() - reached > PATIENCE_SECONDS:
                        raise
                    running, lines = True, []
                for index, message in enumerate(lines[seen:], start=seen):
                    self._tell(message, report if index >= handle.told else None)
                if len(lines) > max(seen, handle.told):
                    handle = handle.model_copy(update={"told": len(lines)})
                    write_handle(folder, handle)
                seen = max(seen, len(lines))
                if not running:
                    return handle
                time.sleep(self.launcher.poll_seconds)

    def _messages(self, folder: Path, handle: Handle) -> list[dict[str, Any]]:
        """Return the messages so far; a line that is being written is left for the next look."""
        copy = folder / SCRATCH / MESSAGES
        if not self.launcher.fetch(handle, handle.file(MESSAGES), copy):
            return []
        whole, _, _ = copy.read_text(errors="replace").rpartition("\n")
        return [message for line in whole.split("\n") if (message := _message(line)) is not None]

    def _tell(self, message: dict[str, Any], report: LogMetrics | None) -> None:
        if self.on_message:
            self.on_message(message)
        payload = (message.get("params") or {}).get("payload") or {}
        if message.get("method") != "report_custom_message" or METRICS_MESSAGE not in payload:
            return
        step, metrics = payload[METRICS_MESSAGE]
        if report:
            report(step, metrics)
        if self.on_metrics:
            self.on_metrics(step, metrics)

    def _ending(self, folder: Path, handle: Handle) -> Ending | None:
        """Return how an attempt ended; None if it left no word."""
        copy = folder / SCRATCH / ENDED
        give_up = time.monotonic() + self.launcher.settle_seconds
        while not self.launcher.fetch(handle, handle.file(ENDED), copy):
            if time.monotonic() >= give_up:
                return None
            time.sleep(self.launcher.poll_seconds)
        try:
            return Ending.model_validate_json(copy.read_text())
        except ValueError:
            return None  # damaged: it is not known how it ended

    def _clean_up(self, folder: Path, handle: Handle | None) -> None:
        """End what runs and delete its folder there; where that cannot be done, say what is left."""
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        if handle is None:
            return
        try:
            self.launcher.discard(handle)
        except MedcodeError as error:  # the handle stays: without it nobody would know what to end
            logger.warning("%s %s: not ended and deleted there; do it by hand (%s)", handle.launcher, handle.key, error)
        else:
            forget_handle(folder)


def _message(line: str) -> dict[str, Any] | None:
    """Return the Pipes message of a line; None of a damaged one, which is no reason to lose a training."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    told = isinstance(message, dict) and isinstance(message.get("method"), str)
    return message if told and isinstance(message.get("params") or {}, dict) else None


def _how_it_ended(handle: Handle, ending: Ending | None, compute: ComputeSettings) -> str:
    """Return the line of an attempt that neither succeeded nor named a mistake."""
    what = f"{handle.launcher} {handle.key}, attempt {handle.attempt}"
    then = "starting again goes on from the last checkpoint"
    if ending is None:
        return f"{what}: ended without a word, as when its machine is lost or out of memory; {then}"
    if ending.status == TIME_IS_UP:
        return f"{what}: not done after {compute.remote_hours:g} hours (compute.remote_hours); {then}"
    return f"{what}: failed with status {ending.status} ({ending.reason}); {then}"
