"""What tests of commands that are killed and go on share: processes of `medcode`, and what a journal holds of them.

A process takes seconds to import what a command needs, so one process does that once and forks (`serve_forks`).
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


class Cli:
    """Processes of `medcode`, one after the other."""

    def __init__(self, script: Path, folder: Path) -> None:
        """Start a script that ends in `serve_forks`; the folder gets the log of all its processes."""
        self.log = folder / "cli.log"
        self._forks = subprocess.Popen(
            [sys.executable, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        )
        assert self._told() == "ready"

    def start(self, argv: list[str]) -> int:
        assert self._forks.stdin is not None
        self._forks.stdin.write(json.dumps({"argv": argv, "log": str(self.log)}) + "\n")
        self._forks.stdin.flush()
        return int(self._told())

    def ended(self) -> int:
        return int(self._told())

    def close(self) -> None:
        self._forks.communicate(timeout=120)

    def _told(self) -> str:
        assert self._forks.stdout is not None
        return self._forks.stdout.readline().strip()


def serve_forks() -> None:
    """Run `medcode` for each line of JSON, {"argv": [...], "log": FILE}, as a process of its own.

    Writes its id and, when it has ended, its exit code (negative: the signal that ended it).
    """
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                _run(**json.loads(line))
            finally:
                os._exit(99)  # main() ends the process itself
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(argv: list[str], log: str) -> None:
    from medcode_assets.cli import main

    os.setpgid(0, 0)
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.argv = ["medcode", *argv]
    main()


def journalled(journal: Path) -> list[dict]:
    """The whole records of a journal, without those of arguments."""
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []  # what is torn is no line
    return [record for record in map(json.loads, lines) if "arguments" not in record]


def answered(journal: Path) -> set[str]:
    """The requests whose answer is kept, by name."""
    return {f"{record['request']}.{record['attempt']}" for record in journalled(journal) if "attempt" in record}


def wait_for(what: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 120
    while not what():
        assert time.monotonic() < give_up
        time.sleep(0.02)
