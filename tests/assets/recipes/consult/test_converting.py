"""Conversion by a model, against a local server that fails: nothing lost, nothing twice, errors asked about."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medcode_assets.recipes.consult.converted import (
    CHECKS,
    alike_share,
    check_converted,
    make_converted,
    measure_structure,
)
from medcode_assets.recipes.consult.converting import convert as converting
from medcode_assets.recipes.consult.converting.convert import (
    Outcome,
    convert,
    publish_dataset,
    refuse_foreign_folder,
    refuse_loss,
)
from medcode_assets.recipes.consult.converting.prose import outline_prose
from medcode_assets.recipes.consult.converting.replies import Refused, read_reply
from medcode_assets.recipes.consult.questions import content_hash
from medcode_assets.recipes.consult.settings import ConsultSection
from medcode_assets.recipes.consult.sources import Conversation, read_conversations
from medcode_assets.recipes.consult.structure import check_structure
from medcode_assets.synthesis.tally import Tally
from medcode_serving.errors import MedcodeError
from tests.assets.recipes.consult.converting_server import MALFORMED, ConvertingServer, reply
from tests.assets.synthesis.failing_server import BROKEN

DOCTOR = (
    "This is a cold. A virus causes it. You should rest for 2 days. Take 500 mg paracetamol. Seek help if you faint."
)


@pytest.fixture
def server() -> Iterator[ConvertingServer]:
    with ConvertingServer(seed=0) as running:
        yield running


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Conversation, ...]:
    made = ConsultSection(source="synthetic", count=44, seed=2)
    return read_conversations(made, tmp_path_factory.mktemp("cache")).rows[:40]


@pytest.fixture
def run(
    server: ConvertingServer, rows: tuple[Conversation, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    monkeypatch.setattr("medcode_assets.synthesis.client.FIRST_PAUSE", 0.01)

    def go(count: int = 40, anew: bool = False, on_progress: Any = None, **change: Any) -> Outcome:
        given = {
            "converter": "llm",
            "converter_model": "m",
            "api_base": server.api_base,
            "workers": 8,
            "timeout_s": 60.0,
        }
        section = ConsultSection(**{**given, **change})
        content = content_hash(rows)
        return convert(
            rows[:count], section, tmp_path / "j.journal", content=content, anew=anew, on_progress=on_progress
        )

    return go


def journalled(folder: Path) -> list[dict[str, Any]]:
    records = map(json.loads, (folder / "j.journal").read_text().splitlines())
    return [record for record in records if "arguments" not in record]


def test_a_failing_server_loses_and_repeats_nothing(
    run: Callable[..., Outcome], server: ConvertingServer, rows: tuple[Conversation, ...], tmp_path: Path
) -> None:
    server.broken, server.wrong, server.hang_s = 0.3, 0.4, 0.6
    told: list[str] = []
    found = run(30, on_progress=lambda tally: told.append(tally.shown()), attempts=6)
    assert set(server.failures) == set(BROKEN)
    assert len(found.rows) == 30 and found.unanswered == 0 and found.complete
    assert [row.original for row in found.rows] == [row.doctor for row in rows[:30]]
    assert found.converted == sum(check_structure(row.doctor).valid for row in found.rows) >= 28
    assert all(row.doctor == row.original for row in found.rows if not row.success)
    answered = [(record["request"], record["attempt"]) for record in journalled(tmp_path)]
    assert len(answered) == len(set(answered))
    assert sum(server.sent.values()) == len(answered) + sum(server.failures.values())
    kinds = {kind for record in journalled(tmp_path) for kind in record.get("kinds", ())}
    assert {"structure", "no_list", "empty", "new_numbers"} == kinds
    assert told and told[-1].startswith("success ")


def test_a_second_run_asks_for_nothing_again_and_more_rows_go_on(
    run: Callable[..., Outcome], server: ConvertingServer
) -> None:
    first = run(16)
    asked = dict(server.sent)
    assert len(asked) == 16
    assert run(16).rows == first.rows
    assert dict(server.sent) == asked
    assert run(40).rows[:16] == first.rows
    assert all(server.sent[name] == count for name, count in asked.items())
    assert sum(server.sent.values()) == 40


def test_what_was_wrong_is_told_and_asked_again(
    run: Callable[..., Outcome], server: ConvertingServer, tmp_path: Path
) -> None:
    server.content = json.dumps({"answer": "You have a cold.", "points": [{"point": "Rest"}, {"point": "Tea"}]})
    found = run(1, attempts=3)
    assert found.converted == 0 and found.unanswered == 0
    assert found.rows[0].doctor == found.rows[0].original
    assert sorted(server.sent) == ["0.0", "0.1", "0.2"]
    first, second, _ = (body["messages"] for body in server.bodies)
    assert len(first) == 2 and second[:2] == first
    assert second[2] == {"role": "assistant", "content": server.content}
    assert "has 2 of at least 3 levels" in second[3]["content"]
    assert [record.get("given_up") for record in journalled(tmp_path)] == [None, None, True]
    server.content = None
    assert run(1, attempts=3).converted == 0  # it was given up, and is not paid for again
    assert sum(server.sent.values()) == 3


def test_rows_without_a_reply_keep_their_answer_and_are_asked_by_the_next_run(
    run: Callable[..., Outcome], server: ConvertingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "failure", lambda name, _tries: "500" if name in {"2.0", "5.0"} else None)
    found = run(10, retries=1)
    assert (found.unanswered, found.converted) == (2, 8)
    assert [place for place, row in enumerate(found.rows) if not row.success] == [2, 5]
    monkeypatch.undo()
    assert (again := run(10, retries=1)).unanswered == 0
    assert again.converted == 10
    assert server.sent["0.0"] == 1 and server.sent["2.0"] == 3


def test_one_list_for_all_is_refused(
    run: Callable[..., Outcome], server: ConvertingServer, rows: tuple[Conversation, ...], tmp_path: Path
) -> None:
    canned = outline_prose(rows[0].doctor)
    assert canned is not None
    server.content = canned
    found = run(16, attempts=2)
    assert found.rows[0].success
    assert found.converted <= 2  # the row that it is for, and at most one of the same complaint
    kinds = {kind for record in journalled(tmp_path) for kind in record.get("kinds", ())}
    assert {"lost_words", "new_words"} <= kinds
    second = next(body["messages"] for body in server.bodies if len(body["messages"]) > 2)
    assert "is missing" in second[3]["content"] or "did not say" in second[3]["content"]


def test_why_there_was_no_reply_is_told_once(run: Callable[..., Outcome], server: ConvertingServer) -> None:
    told: list[str] = []
    found = run(3, retries=0, api_base="http://127.0.0.1:9/v1", on_progress=lambda tally: told.append(tally.shown()))
    assert (found.unanswered, found.why) == (3, "connection refused by 127.0.0.1:9 (3)")
    assert told[-1].startswith("success 0%")


def test_a_server_that_is_silent_is_not_waited_for(
    run: Callable[..., Outcome], server: ConvertingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "failure", lambda _name, _tries: "hang")
    server.hang_s = 3600
    found = run(2, retries=0, timeout_s=0.5)
    assert found.unanswered == 2
    assert "was silent for 0.5 s (2)" in found.why


def test_a_server_that_is_away_or_refuses_ends_the_run(run: Callable[..., Outcome], server: ConvertingServer) -> None:
    server.status = 503
    with pytest.raises(MedcodeError, match="in a row got no answer .*; the same command goes on from here"):
        run(retries=0, workers=2)
    server.status = 401
    with pytest.raises(MedcodeError, match=r"refuses \(401"):
        run()
    server.status = None
    assert run().converted == 40


@pytest.mark.parametrize(
    "changed",
    [
        {"request": "0"},
        {"doctor": 5},
        {"kinds": ["structure"], "problems": []},
        {"kinds": ["structure"], "problems": None, "answer": "x"},
        {"kinds": ["structure"], "problems": [], "answer": "x", "attempt": "0"},
    ],
)
def test_a_journal_that_was_changed_is_refused(
    run: Callable[..., Outcome], tmp_path: Path, changed: dict[str, object]
) -> None:
    run(count=1)
    (journal,) = tmp_path.glob("*.journal")
    told = {"request": 0, "attempt": 0, "prompt_tokens": 1, "completion_tokens": 1, "cost": 0.0, "retries": 0}
    with journal.open("a") as stream:
        stream.write(json.dumps({**told, **changed}) + "\n")
    with pytest.raises(MedcodeError, match="a record that medcode has not written"):
        run(count=1)


def test_conversations_go_only_where_they_may(run: Callable[..., Outcome], server: ConvertingServer) -> None:
    with pytest.raises(MedcodeError, match="add to consult.allowed_hosts models.example.org"):
        run(api_base="https://models.example.org/v1")
    with pytest.raises(MedcodeError, match=r"add to consult.allowed_hosts api\.deepseek\.com"):
        run(api_base=None, converter_model="deepseek/deepseek-chat")
    assert not server.sent


def test_another_model_over_a_journal_is_refused(run: Callable[..., Outcome], server: ConvertingServer) -> None:
    run(2)
    with pytest.raises(MedcodeError, match="begun with model m"):
        run(2, converter_model="n")
    assert run(2, converter_model="n", anew=True).converted == 2


@pytest.mark.parametrize("wrong", [None, *MALFORMED])
def test_replies(wrong: str | None) -> None:
    for seed in range(4):
        found = read_reply(reply(DOCTOR, wrong, random.Random(seed)), DOCTOR, "What is it?")
        assert isinstance(found, Refused) == (wrong is not None)
        if isinstance(found, str):
            assert check_structure(found).valid
            assert "500 mg" in found and "2 days" in found
        else:
            assert found.problems and not any("paracetamol" in problem for problem in found.problems)


@pytest.mark.parametrize(
    "text",
    [
        '{"points": 7}',
        '{"points": {"a": 1}, "answer": ["x"]}',
        '{"points": [{"point": 3, "details": "x"}], "answer": null}',
        '{"points": [[[["x"]]]], "answer": "You have it now."}',
        '{"a":' * 2_000,
        "\x00\ud800"[:1],
        "1. " * 5_000,
    ],
)
def test_no_reply_breaks_the_reader(text: str) -> None:
    assert isinstance(read_reply(text, DOCTOR, ""), Refused)


def test_the_artifact_and_its_checks(tmp_path: Path, rows: tuple[Conversation, ...]) -> None:
    from datasets import load_from_disk

    section = ConsultSection(converter="outline")
    told: list[Tally] = []
    outcome = convert(rows, section, tmp_path / "none", content="", on_progress=told.append)
    make_converted(outcome, tmp_path / "converted", "f" * 64)
    found = load_from_disk(str(tmp_path / "converted" / "dataset"))
    assert found.column_names == [
        "Description",
        "Patient",
        "Doctor",
        "Status",
        "_original_doctor",
        "_conversion_success",
    ]
    assert found["_original_doctor"] == [row.doctor for row in rows]
    assert all(found["_conversion_success"])
    assert told[-1].accepted == len(rows)
    measured = measure_structure(outcome)
    assert (measured["valid"], measured["levels"]) == (1.0, {"3": 40})
    checks = check_converted(rows, outcome.rows, measured, section)
    assert [name for name, _, _ in checks] == list(CHECKS)
    assert all(passed for _, passed, _ in checks)
    # What is already converted stays as it is, whoever converts.
    assert convert(outcome.rows, section, tmp_path / "none", content="").rows == outcome.rows


def test_checks_fail_on_what_they_are_for(rows: tuple[Conversation, ...], tmp_path: Path) -> None:
    section = ConsultSection(converter="outline")
    outcome = convert(rows, section, tmp_path / "none", content="")

    def failed(changed: tuple[Conversation, ...]) -> list[str]:
        now = Outcome(changed, 0)
        return [name for name, ok, _ in check_converted(rows, changed, measure_structure(now), section) if not ok]

    assert failed(outcome.rows[:-1]) == ["nothing_lost"]
    assert failed((*outcome.rows[1:], outcome.rows[0])) == ["nothing_lost"]
    flat = tuple(Conversation(**{**vars(row), "doctor": f"No list {row.row}."}) for row in outcome.rows)
    assert failed(flat) == ["structure_valid"]
    alike = tuple(Conversation(**{**vars(row), "doctor": outcome.rows[0].doctor}) for row in outcome.rows)
    assert failed(alike) == ["answers_differ"]
    assert alike_share((alike[0], alike[1], *outcome.rows[2:])) == pytest.approx(2 / 40)
    none = tuple(Conversation(**{**vars(row), "success": False}) for row in outcome.rows)
    assert failed(none) == ["structure_valid", "enough_converted"]


def test_a_data_set_replaces_its_earlier_self_and_nothing_else(
    tmp_path: Path, rows: tuple[Conversation, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import Dataset, load_from_disk

    target = tmp_path / "out"
    publish_dataset(rows[:3], target)
    publish_dataset(rows[:5], target)
    assert len(load_from_disk(str(target))) == 5

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(converting, "write_dataset", full)
    with pytest.raises(MedcodeError, match="No space left on device"):
        publish_dataset(rows, target)
    assert len(load_from_disk(str(target))) == 5
    refuse_loss(target, rows, "x.csv")
    with pytest.raises(MedcodeError, match=r"data set of 5 rows, and 2 of them are not among the 3 of x\.csv"):
        refuse_loss(target, rows[:3], "x.csv")
    refuse_loss(tmp_path / "none", rows[:3], "x.csv")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(MedcodeError, match="is there and no data set"):
        publish_dataset(rows, tmp_path / "mine")
    Dataset.from_dict({"Patient": ["p"], "Doctor": ["d"]}).save_to_disk(str(tmp_path / "source"))
    with pytest.raises(MedcodeError, match="no data set that was converted"):
        publish_dataset(rows, tmp_path / "source")
    with pytest.raises(MedcodeError, match="is the source itself"):
        refuse_foreign_folder(target, f"{tmp_path}/source/../out")
