"""Kill and resume: `medcode consult convert` in processes of its own, against a server that fails at random."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medcode_assets.recipes.consult.structure import check_structure
from tests.assets.recipes.consult.converting_server import ConvertingServer

ROWS = 50


class Cli:
    """Processes of `medcode consult`, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "cli.log"
        self._forks = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("forked_consult.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[4]), "OMP_NUM_THREADS": "1"},
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
        self._forks.communicate(timeout=30)

    def _told(self) -> str:
        assert self._forks.stdout is not None
        return self._forks.stdout.readline().strip()


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    started = Cli(tmp_path_factory.mktemp("cli"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def server() -> Iterator[ConvertingServer]:
    with ConvertingServer(seed=7, broken=0.15, wrong=0.3, delay_s=0.05) as running:
        running.hang_s = 0.6
        yield running


def arguments(server: ConvertingServer, output: Path, *more: str) -> list[str]:
    given = f"convert --source synthetic --set consult.count={ROWS} --converter llm --model m --workers 4"
    given += f" --api-base {server.api_base} --set consult.timeout_s=0.5 --output {output} --output-dir {output.parent}"
    return [*given.split(), *more]


def journalled(output: Path) -> list[dict]:
    journal = output.with_name(f"{output.name}.journal")
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []  # what is torn is no line
    return [record for record in map(json.loads, lines) if "arguments" not in record]


def answered(output: Path) -> set[str]:
    return {f"{record['request']}.{record['attempt']}" for record in journalled(output)}


def wait_for_answers(output: Path, least: int) -> None:
    give_up = time.monotonic() + 60
    while len(journalled(output)) < least:
        assert time.monotonic() < give_up
        time.sleep(0.02)


def converted(output: Path) -> list[dict]:
    from datasets import load_from_disk

    return list(load_from_disk(str(output)))


def test_killed_and_interrupted_conversions_lose_and_repeat_nothing(
    cli: Cli, server: ConvertingServer, tmp_path: Path
) -> None:
    undisturbed = tmp_path / "undisturbed"
    cli.start(arguments(server, undisturbed))
    assert cli.ended() == 0, cli.log.read_text()

    output = tmp_path / "killed"
    moments = random.Random(3)
    server.sent.clear()
    for sign in (signal.SIGKILL, signal.SIGKILL, signal.SIGINT):
        kept, before = answered(output), dict(server.sent)
        pid = cli.start(arguments(server, output))
        wait_for_answers(output, len(journalled(output)) + moments.randint(5, 9))
        os.kill(pid, sign)
        assert cli.ended() == (130 if sign == signal.SIGINT else -sign)
        assert kept < answered(output)
        assert all(server.sent[name] == before[name] for name in kept)
        if not kept:  # the power went in the middle of a line
            with output.with_name("killed.journal").open("r+b") as journal:
                journal.truncate(journal.seek(0, os.SEEK_END) - 9)
    kept, before = answered(output), dict(server.sent)
    cli.start(arguments(server, output))
    assert cli.ended() == 0, cli.log.read_text()
    assert all(server.sent[name] == before[name] for name in kept)

    names = [f"{record['request']}.{record['attempt']}" for record in journalled(output)]
    assert len(names) == len(set(names))
    rows = converted(output)
    assert [row["_original_doctor"] for row in rows] == [row["_original_doctor"] for row in converted(undisturbed)]
    # The replies of an undisturbed run, to the letter: a request follows from its row and what was wrong before.
    assert rows == converted(undisturbed)
    assert all(check_structure(row["Doctor"]).valid == row["_conversion_success"] for row in rows)
    assert not list(tmp_path.glob(".*.new"))
    assert "Traceback" not in cli.log.read_text()
    assert rows[0]["Patient"] not in cli.log.read_text()


def test_a_few_rows_first(cli: Cli, server: ConvertingServer, tmp_path: Path) -> None:
    cli.start(arguments(server, tmp_path / "few", "--limit", "16"))
    assert cli.ended() == 0
    assert len(converted(tmp_path / "few")) == 16
    assert "by llm" in cli.log.read_text() and "success " in cli.log.read_text()
