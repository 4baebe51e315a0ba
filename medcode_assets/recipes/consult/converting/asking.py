"""Rows that a model converts: many requests at a time, every reply into a journal as soon as it is there.

The journal (`medcode_assets.synthesis.journal`) is on the disk before the run goes on. So a killed run has lost what
was under way and nothing else, and the next one asks for nothing twice: a row's next request follows from its records.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from medcode_assets.recipes.consult.converting.replies import Refused, read_reply, unreadable
from medcode_assets.recipes.consult.converting.requests import Earlier, conversion_request
from medcode_assets.recipes.consult.sources import Conversation
from medcode_assets.synthesis.asking import Asking
from medcode_assets.synthesis.client import Reply
from medcode_assets.synthesis.journal import Journal, Record
from medcode_assets.synthesis.requests import Request
from medcode_assets.synthesis.tally import Tally


@dataclass
class State:
    """What the journal says, and what became of it since."""

    converted: dict[int, int] = field(default_factory=dict)
    """Number of the row to the offset of its list in the journal."""
    given_up: set[int] = field(default_factory=set)
    refused: dict[int, int] = field(default_factory=dict)
    """Number of the row to the offset of its last refused reply."""
    failed: set[int] = field(default_factory=set)
    """Rows that got no reply in this run."""
    tally: Tally = field(default_factory=Tally)

    def add(self, offset: int, record: Record) -> None:
        """Take in one record of the journal. Raises ValueError, among others, if no run has written it."""
        number = record["request"]
        texts = [record["doctor"]] if "doctor" in record else [record["answer"], *record["problems"]]
        if not isinstance(number, int) or not isinstance(record["attempt"], int):
            raise TypeError
        if not all(isinstance(text, str) for text in texts):
            raise TypeError
        if "doctor" in record:
            self.converted[number] = offset
        else:
            self.refused[number] = offset
            if "given_up" in record:
                self.given_up.add(number)
        self.tally.add(record)

    def is_open(self, number: int) -> bool:
        """Whether a row waits for a reply."""
        return number not in self.converted and number not in self.given_up


def replayed(journal: Journal) -> State:
    """Return the state that a journal holds. Raises MedcodeError if it is broken."""
    state = State()
    journal.replay(state.add)
    return state


class Conversion:
    """One run over the rows of a source."""

    def __init__(self, rows: Sequence[Conversation], journal: Journal, state: State, *, attempts: int) -> None:
        self._rows = rows
        self._journal = journal
        self._attempts = attempts
        self.state = state
        self._waiting = deque(filter(state.is_open, range(len(rows))))

    def run(
        self,
        ask: Callable[[Request], Reply],
        *,
        workers: int,
        stop: Event,
        on_progress: Callable[[Tally], None] | None = None,
    ) -> bool:
        """Ask until every row is converted, given up or without a reply; return False if it was stopped before.

        Args:
            ask: Asks the model; called by several threads.
            workers: Requests at a time.
            stop: Set from outside: what is under way is still taken in.
            on_progress: Told after each reply.

        Raises:
            MedcodeError: the server refuses for good, or is away.
        """
        asking = Asking(ask, workers=workers, stop=stop)
        asking.run(lambda: self._draw(stop), self._take_in, self.state.failed, self.state.tally, on_progress)
        return not self._waiting and not stop.is_set()

    def _draw(self, stop: Event) -> Request | None:
        return None if stop.is_set() or not self._waiting else self._request(self._waiting.popleft())

    def _request(self, number: int) -> Request:
        attempt, earlier = 0, None
        if number in self.state.refused:
            record = self._journal.at(self.state.refused[number])
            attempt, earlier = record["attempt"] + 1, Earlier(record["answer"], record["problems"])
        return conversion_request(number, attempt, self._rows[number], earlier)

    def _take_in(self, replies: Sequence[tuple[Request, Reply]]) -> None:
        if not replies:
            return
        records = [self._record(request, reply) for request, reply in replies]
        for offset, record in zip(self._journal.append(records), records, strict=True):
            self.state.add(offset, record)
            if self.state.is_open(record["request"]):
                self._waiting.appendleft(record["request"])

    def _record(self, request: Request, reply: Reply) -> Record:
        row = self._rows[request.number]
        found = unreadable(reply.kind) if reply.kind else read_reply(reply.text, row.doctor, row.question)
        record: dict[str, Any] = {
            "request": request.number,
            "attempt": request.attempt,
            **reply.spent(),
        }
        if not isinstance(found, Refused):
            return {**record, "doctor": found, "accepted": True}
        record |= {"kinds": found.kinds, "problems": found.problems, "answer": reply.text}
        return {**record, "given_up": True} if request.attempt + 1 >= self._attempts else record
