"""Kill and resume: the command line in processes of its own, against a server that fails at random."""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.assets.resuming import Cli, answered, journalled, wait_for
from tests.assets.synthesis.failing_server import BROKEN, FailingServer

COUNT = 48
CODES = """system,code,description,weight
ICD10,J20.9,"Acute bronchitis, unspecified",3
ICD10,E11.9,Type 2 diabetes mellitus without complications,2
HCPCS,E0130,"Walker, rigid (pickup), adjustable or fixed height",1
CPT,99213,,1
"""


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    started = Cli(Path(__file__).with_name("forked_cli.py"), tmp_path_factory.mktemp("cli"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def server() -> Iterator[FailingServer]:
    with FailingServer(seed=94, broken=0.25, wrong=0.3, delay_s=0.01) as running:
        yield running


@pytest.fixture(scope="module")
def arguments(server: FailingServer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], list[str]]:
    codes = tmp_path_factory.mktemp("codes") / "codes.csv"
    codes.write_text(CODES)
    given = f"--stage 2 --seed 5 --count {COUNT} --codes {codes} --model m --api-base {server.api_base}"
    given += " --concurrency 16 --timeout 60"
    return lambda output: ["synth", *given.split(), "--output", str(output)]


@pytest.fixture(scope="module")
def undisturbed(
    cli: Cli, server: FailingServer, arguments: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "lines.jsonl"
    cli.start(arguments(output))
    assert cli.ended() in (0, 1), cli.log.read_text()
    return output


def journal_of(output: Path) -> Path:
    return output.with_suffix(".journal")


def test_an_undisturbed_run_gives_every_line_once(undisturbed: Path, server: FailingServer) -> None:
    summary = json.loads(undisturbed.with_suffix(".summary.json").read_text())
    records = journalled(journal_of(undisturbed))
    accepted = [record["request"] for record in records if "accepted" in record]
    given_up = [record["request"] for record in records if "given_up" in record]
    assert sorted(accepted + given_up) == list(range(COUNT))
    assert accepted == sorted(accepted)
    assert summary["accepted"] == len(accepted) == len(undisturbed.read_text().splitlines()) >= 0.9 * COUNT
    # The server did fail in each of its ways, and its wrong answers were seen.
    assert set(server.failures) == set(BROKEN)
    assert {"duplicate", "no_json", "other_code", "fields_missing"} <= set(summary["rejected_by_kind"])
    rejects = [json.loads(line) for line in undisturbed.with_suffix(".rejects.jsonl").read_text().splitlines()]
    assert len(rejects) == summary["rejected"] > 0
    assert summary["retries"] == sum(server.failures.values())


def test_killed_and_interrupted_runs_lose_and_repeat_nothing(
    cli: Cli, server: FailingServer, arguments: Callable[[Path], list[str]], undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "lines.jsonl"
    moments = random.Random(11)
    server.sent.clear()
    for sign in (signal.SIGKILL, signal.SIGKILL, signal.SIGINT):
        kept, before = answered(journal_of(output)), dict(server.sent)
        least = len(kept) + moments.randint(4, 7)
        # A few more, so that it is killed at work; 3 times 10, and 16 that are under way at the last: not all requests.
        server.let(least - len(kept) + 3)
        pid = cli.start(arguments(output))
        wait_for(lambda least=least: len(answered(journal_of(output))) >= least)
        time.sleep(moments.random() * 0.05)
        os.kill(pid, sign)
        if sign == signal.SIGINT:
            wait_for(lambda: "stopping: what is under way" in cli.log.read_text())
            server.let(None)
        assert cli.ended() == (130 if sign == signal.SIGINT else -sign)
        assert kept < answered(journal_of(output))
        assert all(server.sent[name] == before[name] for name in kept)
        if not kept:  # the power went in the middle of a line
            with output.with_suffix(".journal").open("r+b") as journal:
                journal.truncate(journal.seek(0, os.SEEK_END) - 9)

    told = cli.log.read_text()
    assert "the same command goes on from here" in told and "Traceback" not in told
    assert json.loads(output.with_suffix(".summary.json").read_text())["ending"] == "interrupted"
    whole, begun = undisturbed.read_text().splitlines(), output.read_text().splitlines()
    assert begun == whole[: len(begun)] != whole

    kept, before = answered(journal_of(output)), dict(server.sent)
    server.let(None)
    cli.start(arguments(output))
    assert cli.ended() in (0, 1), cli.log.read_text()
    assert output.read_bytes() == undisturbed.read_bytes()
    rejects = output.with_suffix(".rejects.jsonl")
    assert rejects.read_bytes() == undisturbed.with_suffix(".rejects.jsonl").read_bytes()
    assert all(server.sent[name] == before[name] for name in kept)
    records = journalled(journal_of(output))
    settled = [record["request"] for record in records if "accepted" in record or "given_up" in record]
    assert sorted(settled) == list(range(COUNT))

    # Once more: there is nothing left to ask.
    asked = sum(server.sent.values())
    cli.start(arguments(output))
    assert cli.ended() in (0, 1)
    assert sum(server.sent.values()) == asked
    assert output.read_bytes() == undisturbed.read_bytes()
