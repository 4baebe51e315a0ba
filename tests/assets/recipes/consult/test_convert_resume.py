"""Kill and resume: `medcode consult convert` in processes of its own, against a server that fails at random."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from medcode_assets.recipes.consult.structure import check_structure
from tests.assets.recipes.consult.converting_server import ConvertingServer
from tests.assets.resuming import Cli, answered, journalled, wait_for

ROWS = 50


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    started = Cli(Path(__file__).with_name("forked_consult.py"), tmp_path_factory.mktemp("cli"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def server() -> Iterator[ConvertingServer]:
    with ConvertingServer(seed=7, broken=0.15, wrong=0.3, delay_s=0.05) as running:
        running.hang_s = 0.6
        yield running


def arguments(server: ConvertingServer, output: Path, *more: str) -> list[str]:
    given = f"consult convert --source synthetic --set consult.count={ROWS} --converter llm --model m --workers 4"
    given += f" --api-base {server.api_base} --set consult.timeout_s=60 --output {output} --output-dir {output.parent}"
    return [*given.split(), *more]


def journal_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.journal")


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
        kept, before = answered(journal_of(output)), dict(server.sent)
        least = len(kept) + moments.randint(5, 9)
        # A few more, so that it is killed at work; 3 times 12, and 4 that are under way at the last: not all rows.
        server.let(least - len(kept) + 3)
        pid = cli.start(arguments(server, output))
        wait_for(lambda least=least: len(answered(journal_of(output))) >= least)
        os.kill(pid, sign)
        if sign == signal.SIGINT:
            wait_for(lambda: "stopping: what is under way" in cli.log.read_text())
            server.let(None)
        assert cli.ended() == (130 if sign == signal.SIGINT else -sign)
        assert kept < answered(journal_of(output))
        assert all(server.sent[name] == before[name] for name in kept)
        if not kept:  # the power went in the middle of a line
            with output.with_name("killed.journal").open("r+b") as journal:
                journal.truncate(journal.seek(0, os.SEEK_END) - 9)
    kept, before = answered(journal_of(output)), dict(server.sent)
    server.let(None)
    cli.start(arguments(server, output))
    assert cli.ended() == 0, cli.log.read_text()
    assert all(server.sent[name] == before[name] for name in kept)

    names = [f"{record['request']}.{record['attempt']}" for record in journalled(journal_of(output))]
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
