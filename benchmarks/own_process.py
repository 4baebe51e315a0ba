"""Work in a process of its own, so that its memory and its CPU time are its alone."""

import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Taken:
    """What something took."""

    result: Any
    seconds: float
    """By the clock."""
    cpu_seconds: float
    """Of all cores, its children's included."""
    peak: float
    """MB that the process, or a child of it, held at most, libraries and mapped files included."""


def in_own_process(task: Callable[..., Any], *arguments: Any) -> Taken:
    """Run a function in a fresh process; what it imports counts."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_measured, task, *arguments).result()


class Held:
    """An object that lives in a process of its own and is asked from here; use it in a `with` statement.

    `loading` says what making it took; its result is None.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        self._process = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self.loading: Taken = self._process.submit(_measured, _hold, make, *arguments).result()

    def __enter__(self) -> "Held":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.shutdown()

    def ask(self, method: str, *arguments: Any) -> Taken:
        """Call one of its methods; `peak` is that of the process since it began."""
        taken: Taken = self._process.submit(_measured, _ask, method, *arguments).result()
        time.sleep(_SPINNING_SECONDS)
        return taken


_SPINNING_SECONDS = 0.5
"""So long OpenMP's and llama.cpp's threads may spin for more work before they sleep, beside the next in turn."""
_held: list[Any] = []


def _hold(make: Callable[..., Any], *arguments: Any) -> None:
    _held.append(make(*arguments))


def _ask(method: str, *arguments: Any) -> Any:
    return getattr(_held[0], method)(*arguments)


def _measured(task: Callable[..., Any], *arguments: Any) -> Taken:
    cpu, begun = _cpu_seconds(), time.perf_counter()
    result = task(*arguments)
    return Taken(result, time.perf_counter() - begun, _cpu_seconds() - cpu, peak_megabytes())


def _cpu_seconds() -> float:
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak_megabytes() -> float:
    """Return what this process held at most, or one of its finished children if that held more.

    Not its own `ru_maxrss`: Linux hands it on to a child, which then seems to be as large as its parent was.
    """
    return max(_status("VmHWM"), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6)


def resident_megabytes() -> float:
    """Return what this process holds."""
    return _status("VmRSS")


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{key}:"))
