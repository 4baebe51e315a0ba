"""Launcher `subprocess`: a detached process on this machine, in a copy of all that it needs.

It sees what another machine would see: no file but those that were sent, and few variables. The process holds a lock
in its folder for as long as it lives, handed down to it, so no other process is ever taken for it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import medcode_assets
from medcode_assets.locks import try_lock
from medcode_assets.training.remote.launchers import Handle
from medcode_assets.training.remote.runner import PID
from medcode_assets.training.remote.shipping import Shipment
from medcode_serving.errors import MedcodeError

RUNNER = "medcode_assets.training.remote.runner"
LOCK = "running.lock"
PASSED_ON = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH"),
    *("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"),
)
SECONDS_TO_END, SECONDS_TO_DIE = 15.0, 15.0


class SubprocessLauncher:
    """Starts the runner in a session of its own, so that nothing that ends this process ends it."""

    name = "subprocess"
    host: str | None = None
    poll_seconds = 0.5
    settle_seconds = 0.0

    def __init__(self, root: Path, hours: float, environment: dict[str, str] | None = None) -> None:
        """Copy to folders below `root`; `environment` is added to the few variables that are passed on."""
        self.root, self.hours, self.environment = root, hours, environment or {}
        self._started: list[subprocess.Popen[bytes]] = []

    def submit(self, handle: Handle, shipment: Shipment) -> str:
        """Copy the files and start the runner; or return the id of the one that is at it.

        Raises:
            MedcodeError: the copy cannot be written.
        """
        place = self._place(handle)
        if self._begun(handle):
            return str(place)
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name, file in shipment.files.items():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place / name)
        except OSError as error:
            raise MedcodeError(f"{place}: not copied ({error.strerror}); make room there") from None
        source = str(Path(medcode_assets.__file__).parents[1])
        passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        with (place / LOCK).open("a") as lock:
            try_lock(lock.fileno())
            process = subprocess.Popen(
                [sys.executable, "-m", RUNNER, str(place), str(handle.attempt), str(self.hours)],
                cwd=place,
                env={**passed_on, **self.environment, "PYTHONPATH": source},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[lock.fileno()],
            )
        self._started.append(process)
        return str(place)

    def running(self, handle: Handle) -> bool:
        """Whether the runner holds its lock."""
        for process in self._started:
            process.poll()  # else its entry in the process table stays
        try:
            with (self._place(handle) / LOCK).open("a") as lock:
                return not try_lock(lock.fileno())
        except FileNotFoundError:
            return False

    def fetch(self, handle: Handle, name: str, target: Path) -> bool:
        """Copy a file back."""
        try:
            shutil.copyfile(self._place(handle) / name, target)
        except FileNotFoundError:
            return False
        return True

    def discard(self, handle: Handle) -> None:
        """End the runner with its workers, and delete the copy.

        Raises:
            MedcodeError: the process does not end, or the copy cannot be deleted.
        """
        give_up = time.monotonic() + SECONDS_TO_END + SECONDS_TO_DIE
        number: int = signal.SIGTERM
        while self.running(handle):
            if time.monotonic() > give_up:
                raise MedcodeError(f"{self._place(handle)}: its process does not end; end it by hand")
            if time.monotonic() > give_up - SECONDS_TO_DIE:
                number = signal.SIGKILL
            with suppress(OSError, ValueError):  # not begun to write its number, or just gone
                os.killpg(int((self._place(handle) / handle.file(PID)).read_text()), number)
            time.sleep(0.1)
        while self._place(handle).exists():
            shutil.rmtree(self._place(handle), ignore_errors=True)  # a worker may be writing its last
            if time.monotonic() > give_up + SECONDS_TO_DIE:
                raise MedcodeError(f"{self._place(handle)}: not deleted; delete it by hand: it holds notes as tokens")
        with suppress(OSError):  # there may be others
            self.root.rmdir()

    def _begun(self, handle: Handle) -> bool:
        """Whether the attempt runs, or ran."""
        return self.running(handle) or (self._place(handle) / handle.file(PID)).exists()

    def _place(self, handle: Handle) -> Path:
        return (self.root / handle.key).resolve()
