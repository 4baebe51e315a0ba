"""The loop: many requests at a time, each answer into the journal, and acceptance in the order of requests.

Whether a narrative is a duplicate depends on those accepted before it. Answers come in any order, so that acceptance
waits for it: request 7 is settled when 0 to 6 are. The journal keeps every answer from the moment that it is there. A
run that is killed and one that is not so accept the same lines, if the model answers a request the same way again.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Literal

from pydantic import ValidationError

from medcode_assets.recipes.reasoning.corpus.duplicates import NearDuplicates
from medcode_assets.recipes.reasoning.formats import LINE_OF, Line
from medcode_assets.synthesis.asking import Asking
from medcode_assets.synthesis.client import Reply
from medcode_assets.synthesis.journal import Journal, Record
from medcode_assets.synthesis.replies import Standard, line_of
from medcode_assets.synthesis.requests import Inquiry, Request
from medcode_assets.synthesis.tally import Tally

ATTEMPTS = 3
"""Answers to a request, each to another draw, until it is given up."""

Ending = Literal["done", "interrupted", "max_cost"]
"""Why a run asks no more."""


@dataclass
class State:
    """What the journal says, and what became of it since."""

    count: int
    accepted: dict[int, int] = field(default_factory=dict)
    """Request number to the offset of its line in the journal."""
    given_up: set[int] = field(default_factory=set)
    attempts: dict[int, int] = field(default_factory=dict)
    """Request number to the attempt that is next."""
    answered: dict[int, int] = field(default_factory=dict)
    """Requests with a line that is not settled yet, and its offset."""
    failed: set[int] = field(default_factory=set)
    """Requests that got no answer in this run."""
    settled: int = 0
    """All requests below are accepted, given up or failed."""
    tally: Tally = field(default_factory=Tally)

    def add(self, offset: int, record: Record) -> None:
        """Take in one record of the journal."""
        number = record["request"]
        if "line" in record:
            self.answered[number] = offset
            self.attempts[number] = record["attempt"] + 1
        elif "kinds" in record:
            self.answered.pop(number, None)
            self.attempts[number] = record["attempt"] + 1
            if "given_up" in record:
                self.given_up.add(number)
        elif "accepted" in record:
            self.accepted[number] = self.answered.pop(number)
        self.tally.add(record)

    def is_open(self, number: int) -> bool:
        """Whether a request waits for an answer."""
        return number not in self.accepted and number not in self.given_up and number not in self.answered


def replayed(journal: Journal, count: int) -> State:
    """Return the state that a journal holds.

    Raises:
        MedcodeError: the journal is broken.
    """
    state = State(count)
    journal.replay(state.add)
    return state


class Generation:
    """One run: what is asked, of whom, and what its answers are held against."""

    def __init__(self, inquiry: Inquiry, standard: Standard, journal: Journal, state: State) -> None:
        self._inquiry = inquiry
        self._standard = standard
        self._journal = journal
        self.state = state
        # Those that are answered and not settled join only if they turn out to be duplicates.
        self._waiting = deque(filter(state.is_open, range(state.count)))
        self._known = NearDuplicates(standard.limits.near_duplicate)
        self._known_accepted: set[int] = set()
        for number in sorted(state.accepted):
            self._is_duplicate(state.accepted[number])

    def run(
        self,
        ask: Callable[[Request], Reply],
        *,
        concurrency: int,
        stop: Event,
        max_cost: float | None = None,
        on_progress: Callable[[Tally], None] | None = None,
    ) -> Ending:
        """Ask until every request is accepted, given up or failed.

        Args:
            ask: Asks the model; called by several threads.
            concurrency: Requests at a time.
            stop: Set from outside: what is under way is still taken in.
            max_cost: US dollars over all runs; when they are spent, what is under way is still taken in.
            on_progress: Told after each answer.

        Raises:
            MedcodeError: the server refuses for good, or is away.
        """
        ending: Ending = "done"

        def draw() -> Request | None:
            nonlocal ending
            ending = self._ending(stop, max_cost)
            if ending != "done" or not self._waiting:
                return None
            number = self._waiting.popleft()
            return self._inquiry.request(number, self.state.attempts.get(number, 0))

        self._settle()
        asking = Asking(ask, workers=concurrency, stop=stop)
        asking.run(draw, self._take_in, self.state.failed, self.state.tally, on_progress)
        return ending

    def _ending(self, stop: Event, max_cost: float | None) -> Ending:
        if stop.is_set():
            return "interrupted"
        return "max_cost" if max_cost is not None and (self.state.tally.cost or 0.0) >= max_cost else "done"

    def _take_in(self, replies: Sequence[tuple[Request, Reply]]) -> None:
        """Journal what came, and settle what can be."""
        self._record([self._answer(request, reply) for request, reply in replies])
        self._settle()

    def _answer(self, request: Request, reply: Reply) -> Record:
        """Return the record of an answer."""
        place = {"request": request.number, "attempt": request.attempt}
        spent = reply.spent()
        outcome = [reply.kind] if reply.kind else line_of(reply.text, request, self._standard)
        if not isinstance(outcome, list):
            return {**place, "line": outcome.model_dump(mode="json", by_alias=True, exclude_none=True), **spent}
        return {**place, "kinds": outcome, "answer": reply.text, **spent, **self._after_rejection(place)}

    def _after_rejection(self, place: Mapping[str, int], *, last: bool = False) -> dict[str, bool]:
        """Have a request asked again before others, or give it up; return what its record says of that."""
        if last or place["attempt"] + 1 >= ATTEMPTS:
            return {"given_up": True}
        self._waiting.appendleft(place["request"])
        return {}

    def _record(self, records: Sequence[Record]) -> None:
        if records:
            for offset, record in zip(self._journal.append(records), records, strict=True):
                self.state.add(offset, record)

    def _settle(self) -> None:
        """Accept, in the order of requests, the lines that are no duplicates of those before."""
        state = self.state
        records: list[Record] = []
        while state.settled < state.count:
            number = state.settled
            if number in state.answered:
                records.append(self._decision(number))
                if "accepted" not in records[-1] and "given_up" not in records[-1]:
                    break  # asked again
            elif state.is_open(number) and number not in state.failed:
                break
            state.settled += 1
        self._record(records)

    def _decision(self, number: int) -> Record:
        offset = self.state.answered[number]
        if not self._is_duplicate(offset):
            return {"request": number, "accepted": True}
        record = self._journal.at(offset)
        place = {"request": number, "attempt": record["attempt"]}
        answer = json.dumps(record["line"], ensure_ascii=False)
        # A narrative that was given is no other when it is asked about again.
        after = self._after_rejection(place, last=bool(self._inquiry.narratives))
        return {**place, "kinds": ["duplicate"], "answer": answer, **after}

    def _is_duplicate(self, offset: int) -> bool:
        """Whether the narrative of a line is near one accepted before; it counts as accepted if not."""
        narrative = _line_at(self._journal, offset, self._standard.stage).narrative
        # Rejected ones stay among the known texts, too, and are not counted.
        key = len(self._known)
        similar = not self._known_accepted.isdisjoint(self._known.add(key, narrative))
        if not similar:
            self._known_accepted.add(key)
        return similar


def accepted_lines(journal: Journal, state: State, stage: int) -> Iterator[Line]:
    """Yield the accepted lines in the order of requests."""
    return (_line_at(journal, state.accepted[number], stage) for number in sorted(state.accepted))


def rejected_answers(journal: Journal) -> Iterator[Mapping[str, Any]]:
    """Yield the rejected answers in the order of requests and attempts: request, attempt, kinds, answer."""
    offsets = [(record["request"], record["attempt"], at) for at, record in journal.records() if "kinds" in record]
    for _, _, offset in sorted(offsets):
        record = journal.at(offset)
        yield {name: record[name] for name in ("request", "attempt", "kinds", "answer")}


def _line_at(journal: Journal, offset: int, stage: int) -> Line:
    try:
        return LINE_OF[stage].model_validate(journal.at(offset)["line"])
    except (ValidationError, LookupError):
        raise journal.refuse_record(offset) from None
