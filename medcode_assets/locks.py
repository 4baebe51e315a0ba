"""Waiting for a file that other processes use: shared for readers, exclusive for a writer, and who holds it."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from medcode_serving.errors import MedcodeError

POLL_SECONDS = 0.1


@contextmanager
def waiting_lock(
    file: Path,
    *,
    what: str,
    exclusive: bool,
    purpose: str,
    wait_seconds: float,
    on_wait: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Hold a lock on `file`, which the system drops however the process ends.

    Args:
        file: Lock file, made if it is not there; beside it a folder says who holds it.
        what: What the lock stands for, in messages.
        exclusive: Alone; else together with other readers.
        purpose: Shown to whoever waits, with the process id and the time.
        wait_seconds: How long to wait for others.
        on_wait: Told once who holds the lock, if it is not free at once.

    Raises:
        MedcodeError: others held it for longer than `wait_seconds`; the message says who.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    with file.open("a") as lock:
        give_up = time.monotonic() + wait_seconds
        while not try_lock(lock.fileno(), kind):
            if on_wait is not None:
                on_wait(f"{what}: waiting for {holders(file)}")
                on_wait = None
            if time.monotonic() >= give_up:
                raise MedcodeError(
                    f"{what}: in use by {holders(file)}, waited {wait_seconds:.0f} s; wait for it or end that process"
                )
            time.sleep(POLL_SECONDS)
        sign = _sign(file, purpose)
        try:
            yield
        finally:
            sign.unlink(missing_ok=True)


def holders(file: Path) -> str:
    """Return who holds a lock, as far as they signed: `icd/tokens (process 12, since 14:03)`."""
    names = []
    for sign in sorted(_signs(file).glob("*.json")):
        try:
            holder = json.loads(sign.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            continue  # just released, or just being signed
        if alive(holder["pid"]):
            names.append(f"{holder['purpose']} (process {holder['pid']}, since {holder['since']})")
        else:
            sign.unlink(missing_ok=True)
    return ", ".join(names) or "another process"


def _sign(file: Path, purpose: str) -> Path:
    folder = _signs(file)
    folder.mkdir(exist_ok=True)
    sign = folder / f"{uuid4().hex}.json"
    holder = {"pid": os.getpid(), "purpose": purpose, "since": datetime.now().strftime("%H:%M:%S")}
    sign.write_text(json.dumps(holder))
    return sign


def _signs(file: Path) -> Path:
    return file.with_suffix(".held")


def try_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock an open file if nobody holds it otherwise; return whether it is locked."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def alive(pid: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's, but alive
    return True
