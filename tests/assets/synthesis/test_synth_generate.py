"""The loop alone, over a journal, with a model that answers as each test says."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Lock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_assets.recipes.reasoning.rules import Limits
from medcode_assets.synthesis.client import Reply, StoppedError, UnansweredError
from medcode_assets.synthesis.generate import ATTEMPTS, Generation, accepted_lines, replayed
from medcode_assets.synthesis.journal import open_journal
from medcode_assets.synthesis.replies import Standard
from medcode_assets.synthesis.requests import Inquiry, ListedCode, Request
from medcode_serving.codes.tables import code_tables

STANDARD = Standard(1, Limits(), code_tables())
INQUIRY = Inquiry(1, 0, (ListedCode("icd10cm", "I10", "Essential (primary) hypertension"),))
TEXTS = (
    "Home readings of 160 over 95 for three weeks in a woman without chest pain.",
    "Routine check finds raised pressure twice; he takes no tablets and feels well.",
    "Morning headaches and a cuff value of 170 over 100 on the left arm today.",
    "Seen for a refill of lisinopril, readings at home have been near 130.",
    "Dizzy after standing, otherwise fine, long known high pressure under treatment.",
)


class Model:
    """Answers with the texts at the places that it is told; None is an answer without a line."""

    def __init__(self, places: Callable[[Request], int | None]) -> None:
        self.places = places
        self.asked: Counter[str] = Counter()
        self.killed_after: int | None = None
        self._lock = Lock()

    def __call__(self, request: Request) -> Reply:
        with self._lock:
            if self.killed_after is not None and sum(self.asked.values()) >= self.killed_after:
                raise StoppedError
            self.asked[request.name] += 1
        place = self.places(request)
        if place is None:
            return Reply("no")
        return Reply(json.dumps({"narrative": TEXTS[place], "code": "I10"}), prompt_tokens=1)


def run(path: Path, count: int, model: Callable[[Request], Reply], concurrency: int = 3) -> list[str]:
    with open_journal(path, {"count": count}, anew=False) as journal:
        generation = Generation(INQUIRY, STANDARD, journal, replayed(journal, count))
        assert generation.run(model, concurrency=concurrency, stop=Event()) == "done"
        return [line.narrative for line in accepted_lines(journal, generation.state, 1)]


def test_the_first_of_two_alike_is_accepted_however_late_it_comes(tmp_path: Path) -> None:
    waiting = Event()

    def places(request: Request) -> int:
        if request.name == "0.0":
            waiting.wait(60)
        elif request.name == "2.0":
            waiting.set()
        return {"0.0": 0, "1.0": 0, "2.0": 1, "1.1": 2}[request.name]

    model = Model(places)
    assert run(tmp_path / "j", 3, model) == [TEXTS[0], TEXTS[2], TEXTS[1]]
    assert set(model.asked.values()) == {1}


def test_an_answer_of_a_killed_run_that_is_a_duplicate_is_asked_for_again_once(tmp_path: Path) -> None:
    answers = {"0.0": 0, "1.0": 0, "2.0": 1, "1.1": 2}
    model = Model(lambda request: answers[request.name])

    def without_the_first(request: Request) -> Reply:
        if request.number == 0:
            raise StoppedError
        return model(request)

    assert run(tmp_path / "j", 3, without_the_first, concurrency=1) == []
    assert run(tmp_path / "j", 3, model, concurrency=1) == [TEXTS[0], TEXTS[2], TEXTS[1]]
    assert model.asked == Counter(dict.fromkeys(answers, 1))


def test_what_got_no_answer_does_not_hold_up_the_others(tmp_path: Path) -> None:
    model = Model(lambda request: request.number)

    def failing(request: Request) -> Reply:
        if request.number == 1:
            raise UnansweredError("away", 2)
        return model(request)

    assert run(tmp_path / "j", 4, failing) == [TEXTS[0], TEXTS[2], TEXTS[3]]
    assert run(tmp_path / "j", 4, model) == list(TEXTS[:4])
    assert set(model.asked.values()) == {1}


_Answers = st.lists(
    st.lists(st.one_of(st.none(), st.integers(0, len(TEXTS) - 1)), min_size=ATTEMPTS, max_size=ATTEMPTS),
    min_size=1,
    max_size=7,
)


@settings(max_examples=60, deadline=None)
@given(answers=_Answers, kills=st.lists(st.integers(0, 8), max_size=3), cut=st.integers(0, 60))
def test_ended_anywhere_and_cut_anywhere_it_comes_to_the_same(
    answers: Sequence[Sequence[int | None]],
    kills: Sequence[int],
    cut: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    undisturbed = run(folder / "a", len(answers), Model(lambda request: answers[request.number][request.attempt]))
    again = Model(lambda request: answers[request.number][request.attempt])
    torn = 0
    for kill in kills:
        again.killed_after = sum(again.asked.values()) + kill
        run(folder / "b", len(answers), again)
        if cut and not torn:  # a kill in the middle of writing: some bytes of the last record are not there
            torn = 1
            whole = (folder / "b").read_bytes()
            last = whole.rstrip(b"\n").rfind(b"\n") + 1
            (folder / "b").write_bytes(whole[: max(last, len(whole) - cut)])
    again.killed_after = None
    assert run(folder / "b", len(answers), again) == undisturbed
    assert sum(again.asked.values()) <= sum(Counter(again.asked.keys()).values()) + torn
    with open_journal(folder / "b", {"count": len(answers)}, anew=False) as journal:
        settled = [record for _, record in journal.records() if "accepted" in record or "given_up" in record]
    assert sorted(record["request"] for record in settled) == list(range(len(answers)))
