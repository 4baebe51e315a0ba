import json
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from medcode_assets.cli import app
from medcode_assets.recipes.reasoning.formats import LINE_OF
from medcode_assets.synth_command import SynthOptions, synthesize
from medcode_assets.synthesis.client import Client
from medcode_serving.errors import MedcodeError
from tests.assets.synthesis.failing_server import FailingServer

CODES = "system,code,description\nICD10,I10,Essential (primary) hypertension\nHCPCS,E0130,\n"
NARRATIVE = "Woman in the fifties with home readings of 160 over 95 for three weeks and no chest pain."


@pytest.fixture
def server() -> Iterator[FailingServer]:
    with FailingServer() as running:
        yield running


@pytest.fixture
def options(server: FailingServer, tmp_path: Path) -> Callable[..., SynthOptions]:
    codes = tmp_path / "codes.csv"
    codes.write_text(CODES)

    def made(**changes) -> SynthOptions:
        given = {"stage": 1, "count": 6, "output": tmp_path / "out" / "lines.jsonl", "model": "m"}
        given |= {"api_base": server.api_base, "codes": codes, "retries": 0, "timeout_s": 60.0}
        return SynthOptions(**given | changes)

    return made


def summary_of(options: SynthOptions) -> dict:
    return json.loads(options.output.with_suffix(".summary.json").read_text())


def once(condition: Callable[[], bool], then: Callable[[], object]) -> None:
    """Do something as soon as something is so, beside the test."""

    def watch() -> None:
        give_up = time.monotonic() + 120
        while not condition() and time.monotonic() < give_up:
            time.sleep(0.01)
        then()

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_model_gives_exactly_the_lines_asked_for(
    options: Callable[..., SynthOptions], server: FailingServer, stage: int
) -> None:
    asked = options(stage=stage, count=12, codes=None) if stage == 1 else options(stage=stage, count=12)
    if stage == 3:
        server.wrong = 0.0
    assert synthesize(asked)
    lines = [LINE_OF[stage].model_validate_json(line) for line in asked.output.read_text().splitlines()]
    assert len(lines) == 12
    assert len({line.narrative for line in lines}) == 12
    assert summary_of(asked)["complete"] is True
    assert summary_of(asked)["prompt_tokens"] == 1200


def test_keys_are_nowhere_in_the_files_or_on_the_terminal(
    options: Callable[..., SynthOptions],
    server: FailingServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MEDCODE_REMOTE_API_KEY", "secret-key")
    asked = options()
    assert synthesize(asked)
    assert set(server.keys) == {"Bearer secret-key"}
    captured = capfd.readouterr()
    files = "".join(file.read_text() for file in asked.output.parent.iterdir())
    assert "secret-key" not in captured.out + captured.err + files
    assert "only codes and descriptions are sent" in captured.err


def test_many_requests_at_a_time(options: Callable[..., SynthOptions], server: FailingServer) -> None:
    server.let(0)
    once(lambda: server.at_once == 5, lambda: (time.sleep(0.3), server.let(None)))  # a sixth would come meanwhile
    assert synthesize(options(count=10, concurrency=5))
    assert server.most_at_once == 5


def test_the_count_may_be_raised_and_nothing_is_asked_twice(
    options: Callable[..., SynthOptions], server: FailingServer
) -> None:
    assert synthesize(options(count=5))
    first = options().output.read_text()
    assert synthesize(options(count=8))
    assert options().output.read_text().startswith(first)
    assert set(server.sent.values()) == {1}
    assert len(server.sent) == 8


@pytest.mark.parametrize(
    ("change", "told"), [({"seed": 7}, "begun with seed 0, and this run has 7"), ({"model": "n"}, "begun with model m")]
)
def test_other_arguments_over_a_journal_are_refused(
    options: Callable[..., SynthOptions], server: FailingServer, change: dict, told: str
) -> None:
    assert synthesize(options())
    before, asked = options().output.read_bytes(), sum(server.sent.values())
    with pytest.raises(MedcodeError, match=told + r".*--drop-existing"):
        synthesize(options(**change))
    assert options().output.read_bytes() == before
    assert sum(server.sent.values()) == asked
    assert synthesize(options(**change, drop_existing=True))
    assert sum(server.sent.values()) == 2 * asked


def test_a_file_of_somebody_elses_is_not_written_over(options: Callable[..., SynthOptions]) -> None:
    asked = options(model="template", api_base=None, codes=None)
    asked.output.parent.mkdir()
    asked.output.write_text("mine\n")
    with pytest.raises(MedcodeError, match="may be somebody's"):
        synthesize(asked)
    assert asked.output.read_text() == "mine\n"


def test_a_journal_of_somebody_elses_is_not_touched(options: Callable[..., SynthOptions]) -> None:
    asked = options(model="template", api_base=None, codes=None)
    asked.output.parent.mkdir()
    journal = asked.output.with_suffix(".journal")
    for text in ("dear diary", "dear diary\n", '{"mine": 1}\n'):
        journal.write_text(text)
        for anew in (False, True):
            with pytest.raises(MedcodeError, match="no journal of medcode"):
                synthesize(options(model="template", api_base=None, codes=None, drop_existing=anew))
        assert journal.read_text() == text


@pytest.mark.parametrize("anew", [False, True])
def test_what_is_read_is_not_written_over(options: Callable[..., SynthOptions], tmp_path: Path, anew: bool) -> None:
    notes = tmp_path / "notes.rejects.jsonl"
    notes.write_text(json.dumps({"narrative": NARRATIVE}) + "\n")
    before = notes.read_bytes()
    for output in (notes, tmp_path / "notes.jsonl"):
        with pytest.raises(MedcodeError, match="would write over"):
            synthesize(options(narratives=notes, codes=None, output=output, drop_existing=anew))
    assert notes.read_bytes() == before


def test_a_folder_is_no_output(options: Callable[..., SynthOptions], server: FailingServer) -> None:
    options().output.with_suffix(".summary.json").mkdir(parents=True)
    with pytest.raises(MedcodeError, match="is a folder"):
        synthesize(options())
    assert not server.sent


@pytest.mark.parametrize("change", [{"max_cost": float("nan")}, {"timeout_s": float("nan")}])
def test_what_is_no_number_limits_nothing_and_is_refused(options: Callable[..., SynthOptions], change: dict) -> None:
    with pytest.raises(MedcodeError, match="nan: give a number"):
        synthesize(options(**change))


@pytest.mark.parametrize("record", [{"accepted": True}, {"request": 99, "accepted": True}, {"request": 0, "line": {}}])
def test_an_edited_journal_is_named(options: Callable[..., SynthOptions], record: dict) -> None:
    assert synthesize(options())
    with options().output.with_suffix(".journal").open("a") as file:
        file.write(json.dumps(record) + "\n")
    with pytest.raises(MedcodeError, match="a record that medcode has not written"):
        synthesize(options(count=7))


def test_an_address_holds_no_key(tmp_path: Path) -> None:
    arguments = ["synth", "--stage", "1", "--count", "1", "--output", str(tmp_path / "f.jsonl")]
    result = CliRunner().invoke(app, [*arguments, "--api-base", "http://127.0.0.1:1/v1?key=sk-1"])
    assert isinstance(result.exception, MedcodeError)
    assert "sk-1" not in str(result.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", ["half \ud800 of it", "your key is sk-secret-12345", "x" * 200_000, '{"a":' * 40_000]
)
def test_whatever_is_answered_is_kept_as_text_in_bounds_and_without_the_key(
    options: Callable[..., SynthOptions], server: FailingServer, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDCODE_REMOTE_API_KEY", "sk-secret-12345")
    server.content = content
    assert not synthesize(options(count=1))
    assert summary_of(options())["given_up"] == 1
    for file in options().output.parent.iterdir():
        assert "sk-secret" not in file.read_text()
        assert file.stat().st_size < 400_000


def test_a_refusal_ends_the_run_and_keeps_what_was_answered(
    options: Callable[..., SynthOptions], server: FailingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "failure", lambda name, _tries: "401" if int(name.split(".")[0]) >= 4 else None)
    with pytest.raises(MedcodeError, match=r"refuses \(401"):
        synthesize(options(concurrency=1))
    assert sum(server.sent.values()) == 5
    monkeypatch.undo()
    assert synthesize(options(concurrency=1))
    assert [server.sent[f"{number}.0"] for number in range(6)] == [1, 1, 1, 1, 2, 1]


def test_what_got_no_answer_is_counted_and_asked_by_the_next_run(
    options: Callable[..., SynthOptions], server: FailingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "failure", lambda name, _tries: "500" if name == "2.0" else None)
    assert not synthesize(options())
    assert summary_of(options())["failed"] == 1
    assert len(options().output.read_text().splitlines()) == 5
    monkeypatch.undo()
    assert synthesize(options())
    assert server.sent == Counter({f"{number}.0": 2 if number == 2 else 1 for number in range(6)})
    assert len(options().output.read_text().splitlines()) == 6


def test_a_server_that_is_away_ends_the_run(options: Callable[..., SynthOptions], server: FailingServer) -> None:
    server.status = 503
    with pytest.raises(
        MedcodeError, match=r"requests in a row got no answer \(the last: ServiceUnavailableError, status 503\)"
    ):
        synthesize(options(count=1000))
    assert sum(server.sent.values()) < 40


def test_after_three_rejected_answers_a_request_is_given_up(
    options: Callable[..., SynthOptions], server: FailingServer
) -> None:
    server.content = "I cannot."
    assert not synthesize(options(count=2))
    summary = summary_of(options())
    assert (summary["given_up"], summary["rejected_by_kind"]) == (2, {"no_json": 6})
    assert sorted(server.sent) == ["0.0", "0.1", "0.2", "1.0", "1.1", "1.2"]
    rejects = [json.loads(line) for line in options().output.with_suffix(".rejects.jsonl").read_text().splitlines()]
    assert rejects[0] == {"request": 0, "attempt": 0, "kinds": ["no_json"], "answer": "I cannot."}
    assert [(reject["request"], reject["attempt"]) for reject in rejects] == [(n, a) for n in (0, 1) for a in (0, 1, 2)]
    server.content = None
    assert not synthesize(options(count=2))
    assert len(server.sent) == 6


def test_a_narrative_that_was_accepted_before_is_rejected(
    options: Callable[..., SynthOptions], server: FailingServer
) -> None:
    codes = options().codes
    assert codes is not None
    codes.write_text("system,code,description\nICD10,I10,Essential (primary) hypertension\n")
    server.content = json.dumps({"narrative": NARRATIVE, "code": "I10"})
    assert not synthesize(options(count=2))
    assert summary_of(options())["rejected_by_kind"] == {"duplicate": 3}
    assert len(options().output.read_text().splitlines()) == 1


def test_the_cost_stops_the_run_and_a_higher_one_goes_on(
    options: Callable[..., SynthOptions], server: FailingServer
) -> None:
    server.usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0, "total_tokens": 1_000_000}
    hosted = {"model": "openai/gpt-4o-mini", "concurrency": 1}
    assert not synthesize(options(**hosted, max_cost=0.4))
    summary = summary_of(options())
    a_request = summary["cost_usd"] / summary["accepted"]
    assert summary["ending"] == "max_cost"
    assert summary["cost_usd"] - a_request < 0.4 <= summary["cost_usd"]
    assert synthesize(options(**hosted, max_cost=100.0))
    assert set(server.sent.values()) == {1}


def test_a_limit_without_a_price_is_refused(options: Callable[..., SynthOptions]) -> None:
    with pytest.raises(MedcodeError, match="no price is known for --model m"):
        synthesize(options(max_cost=1.0))


def test_narratives_go_only_where_they_may(
    options: Callable[..., SynthOptions], server: FailingServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.jsonl"
    others = NARRATIVE.replace("Woman", "Man").replace("weeks", "months").replace("chest pain", "other complaint")
    path.write_text("".join(json.dumps({"narrative": text}) + "\n" for text in (NARRATIVE, NARRATIVE, others)))
    given = {"codes": None, "narratives": path, "stage": 2, "count": 3}
    with pytest.raises(MedcodeError, match="--allow-host models.example.org"):
        synthesize(options(**given, api_base="https://models.example.org/v1"))
    server.content = json.dumps({"reasoning": ["readings of 160 over 95"], "code_type": "ICD10", "code": "I10"})
    assert not synthesize(options(**given))
    assert f"{path} is sent there" in capfd.readouterr().err
    assert NARRATIVE in server.bodies[0]["messages"][1]["content"]
    # The same narrative twice is taken once, and not asked about again.
    lines = [json.loads(line) for line in options().output.read_text().splitlines()]
    assert [line["messages"][1]["content"] for line in lines] == [NARRATIVE, others]
    assert {line["_metadata"]["source"] for line in lines} == {"mine"}
    assert len(server.sent) == 3
    with pytest.raises(MedcodeError, match="3 narratives for --count 4"):
        synthesize(options(**given | {"count": 4}))


def test_ctrl_c_ends_the_run_after_what_is_under_way(
    options: Callable[..., SynthOptions], server: FailingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)
    main, echo = threading.main_thread().ident or 0, typer.echo

    def told(message: str = "", **more: Any) -> None:
        if "stopping: what is under way" in message:
            server.let(None)  # not before: the order is to be certain
        echo(message, **more)

    monkeypatch.setattr(typer, "echo", told)
    server.let(0)
    once(lambda: len(server.sent) == 2, lambda: signal.pthread_kill(main, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        synthesize(options(count=50, concurrency=2))
    assert signal.getsignal(signal.SIGINT) is before
    assert len(options().output.read_text().splitlines()) == sum(server.sent.values()) == 2


def test_a_server_that_is_silent_is_not_waited_for(
    options: Callable[..., SynthOptions], server: FailingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "failure", lambda _name, _tries: "hang")
    server.hang_s = 3600
    assert not synthesize(options(count=2, timeout_s=0.5))
    assert summary_of(options())["failed"] == 2


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(Client, "ask", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_templates_give_exactly_the_lines_asked_for_without_a_network(tmp_path: Path, stage: int) -> None:
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        asked = SynthOptions(stage=stage, count=60, output=tmp_path / f"{name}.jsonl", seed=seed)
        assert synthesize(asked)
        lines = [LINE_OF[stage].model_validate_json(line) for line in asked.output.read_text().splitlines()]
        assert len(lines) == len({line.narrative for line in lines}) == 60
        files.append(asked.output.read_text())
    assert files[0] == files[1] != files[2]


@pytest.mark.usefixtures("no_network")
def test_templates_go_on_with_more_lines_and_refuse_other_arguments(tmp_path: Path) -> None:
    asked = {"stage": 1, "output": tmp_path / "a.jsonl"}
    assert synthesize(SynthOptions(**asked, count=20))
    first = asked["output"].read_text()
    assert synthesize(SynthOptions(**asked, count=30))
    assert asked["output"].read_text().startswith(first)
    with pytest.raises(MedcodeError, match="begun with seed 0, and this run has 1"):
        synthesize(SynthOptions(**asked, count=30, seed=1))


def test_the_command_line(tmp_path: Path) -> None:
    runner = CliRunner()
    told = re.sub(r"\s+", " ", runner.invoke(app, ["synth", "--help"], env={"COLUMNS": "200"}).output)
    assert "50,000 / 70,000 / 40,000" in told
    given = ["synth", "--stage", "1", "--count", "5", "--output"]
    done = runner.invoke(app, [*given, str(tmp_path / "a.jsonl")])
    assert done.exit_code == 0, done.output
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 5
    for arguments, problem in (
        ([*given, str(tmp_path / "b.txt")], r"name a file \*.jsonl"),
        ([*given, str(tmp_path / "b.jsonl"), "--codes", "c.csv"], "--codes is for a model"),
        ([*given, str(tmp_path / "b.jsonl"), "--api-base", "http://me:key@127.0.0.1/v1"], "no keys or passwords"),
    ):
        refused = runner.invoke(app, arguments)
        assert isinstance(refused.exception, MedcodeError)
        assert re.search(problem, str(refused.exception))
        assert "me:key" not in str(refused.exception)
