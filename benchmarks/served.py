"""A `medcode serve` process to measure: on a free port, asked through its API, weighed by its CPU and memory."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil


class Served:
    """A running server."""

    def __init__(self, process: psutil.Popen, address: str) -> None:
        self.process = process
        self.address = address

    def cpu_seconds(self) -> float:
        """Return what the process and its children have computed so far."""
        times = self.process.cpu_times()
        return times.user + times.system + times.children_user + times.children_system

    def megabytes(self) -> float:
        """Return the resident memory of the process, without its children."""
        return self.process.memory_info().rss / 1e6


@contextmanager
def served(home: Path, log: Path | None = None, **settings: str) -> Iterator[Served]:
    """Run a server until it is not needed any more.

    Args:
        home: MEDCODE_HOME with a published bundle.
        log: Where its log goes; None: nowhere.
        settings: As environment variables without their prefix: MODEL__ENGINE="linear".
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = {
        **os.environ,
        "MEDCODE_HOME": str(home.resolve()),
        **{f"MEDCODE_SERVE_{name}": value for name, value in settings.items()},
    }
    with log.open("w") if log else open(os.devnull, "w") as output:  # noqa: PTH123 - the null device
        process = psutil.Popen(
            [sys.executable, "-m", "medcode_assets", "serve", "--port", str(port)],
            env=environment,
            stdout=output,
            stderr=output,
        )
        try:
            server = Served(process, f"http://127.0.0.1:{port}")
            _wait(server)
            yield server
        finally:
            process.terminate()
            process.wait(60)


def _wait(server: Served) -> None:
    give_up = time.monotonic() + 180
    while time.monotonic() < give_up and server.process.is_running() and server.process.status() != "zombie":
        try:
            if httpx.get(f"{server.address}/health/startup", trust_env=False).status_code == 204:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit("the server did not load a model; run `medcode serve` by hand to see why")
