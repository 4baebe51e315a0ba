"""Long work of the `medcode` command beside other such work: most of it is one thread's imports and waiting."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

AT_ONCE = 2
WORK: dict[str, Callable[[Path], Any]] = {}


def in_background(work: Callable[[Path], Any]) -> Any:
    """Make a session fixture of a function that gets an empty folder; whatever it raises fails the tests that ask."""
    WORK[work.__name__] = work

    @pytest.fixture(scope="session", name=work.__name__)
    def result(background: dict[str, "Future[Any]"]) -> Any:
        return background[work.__name__].result()

    return result


@contextmanager
def started(wanted: set[str], folder: Callable[[str], Path]) -> Iterator[dict[str, "Future[Any]"]]:
    """Start the wanted work, in the order in which it was defined."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield {name: pool.submit(work, folder(name)) for name, work in WORK.items() if name in wanted}
    finally:
        pool.shutdown(cancel_futures=True)
