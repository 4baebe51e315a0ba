"""The one thread that predicts, and the notes that wait for it.

Notes of concurrent requests are gathered into batches of similar length. A batch runs to its end; a note whose request
has gone away or is out of time leaves it at the next step (`NoteOptions.ended`).
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from medcode_serving.engines.protocol import Engine, NoteOptions, Prediction
from medcode_serving.errors import EngineTimeoutError, MedcodeError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

MOST_UNLIKE = 2.0
"""A note shares a batch with notes of up to so many times its length; more would be mostly padding."""
_MEMORY = 0.2
"""Weight of the newest batch in the running mean of seconds a note."""


class QueueFullError(Exception):
    """No room for another note."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("the queue is full")
        self.retry_after = retry_after
        """Seconds after which there should be room, by the time that notes took lately."""


class QueueClosedError(Exception):
    """The service is ending."""


class EngineFailedError(Exception):
    """The engine raised something that nobody foresaw; the text of that stays in the process: it may quote a note."""


@dataclass(eq=False)
class _Waiting:
    """One note, or one other piece of work for the thread."""

    future: "Future[Any]"
    engine: Engine | None = None
    note: str = ""
    options: NoteOptions = NoteOptions()
    job: Callable[[Callable[[], bool]], Any] | None = None
    given_up: threading.Event = field(default_factory=threading.Event)

    def shares_batch_with(self, other: "_Waiting") -> bool:
        if self.job or other.job or self.engine is not other.engine:
            return False
        short, long = sorted((len(self.note), len(other.note)))
        return self.options.constrained == other.options.constrained and long <= MOST_UNLIKE * max(short, 1)


class NoteQueue:
    """A bounded queue of notes and the thread that answers them. Made and used on one event loop."""

    def __init__(
        self,
        *,
        max_notes: int,
        batch_size: int,
        gather_ms: float = 0.0,
        on_change: Callable[[int, int], None] | None = None,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        """Start the thread.

        Args:
            max_notes: Notes that wait or are being answered, at most.
            batch_size: Notes of one batch, at most.
            gather_ms: How long a batch waits for more notes, while several clients are about.
            on_change: Is told how many notes wait and how many are being answered; from any thread.
            on_batch: Is told notes and seconds of each finished batch; from the inference thread.
        """
        self._max_notes = max_notes
        self._batch_size = batch_size
        self._gather_s = gather_ms / 1000
        self._on_change = on_change or (lambda waiting, running: None)
        self._on_batch = on_batch or (lambda notes, seconds: None)
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._running: list[_Waiting] = []
        self._expected = 0
        """Notes that the next batch waits for: as many as the last one had, none if some were left over."""
        self._seconds_a_note = 0.05
        self._batch_started: float | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    @property
    def busy_s(self) -> float:
        """Seconds that the batch in hand has been running; 0 between batches."""
        started = self._batch_started
        return 0.0 if started is None else time.monotonic() - started

    @property
    def full(self) -> bool:
        """Whether another note would be refused."""
        return len(self) >= self._max_notes

    def __len__(self) -> int:
        """Return the number of notes that wait or are being answered."""
        with self._changed:  # the thread moves notes from one list to the other
            return len(self._waiting) + len(self._running)

    async def answer(self, engine: Engine, note: str, options: NoteOptions) -> Prediction:
        """Return an engine's prediction for a note. If the awaiting task is cancelled, so is the note.

        Raises:
            QueueFullError: there is no room.
            QueueClosedError: the service is ending.
            EngineFailedError: the engine failed in a way that nobody foresaw.
            MedcodeError: the engine cannot answer.
        """
        waiting = _Waiting(Future(), engine, note, options)
        waiting.options = replace(options, ended=lambda: waiting.given_up.is_set() or options.ended())
        prediction: Prediction = await self._enqueue(waiting)
        return prediction

    async def run(self, job: Callable[[Callable[[], bool]], Result], *, next_: bool = False) -> Result:
        """Run something else on the inference thread, alone. It does not count as a note, and is never refused.

        Args:
            job: Is given a function that tells whether it was given up meanwhile.
            next_: Whether it goes before all that waits; else it waits its turn.

        Raises:
            QueueClosedError: the service is ending.
            EngineFailedError, MedcodeError: as `answer`.
        """
        result: Result = await self._enqueue(_Waiting(Future(), job=job), 0 if next_ else None)
        return result

    async def _enqueue(self, waiting: _Waiting, place: int | None = None) -> Any:
        with self._changed:
            if self._closing:
                raise QueueClosedError
            if waiting.job is None and self.full:
                raise QueueFullError(max(1.0, len(self) * self._seconds_a_note))
            self._waiting.insert(len(self._waiting) if place is None else place, waiting)
            self._changed.notify_all()
        self._tell()
        try:
            return await asyncio.wrap_future(waiting.future)
        finally:
            # Cancelled: leave the queue at once, or the running batch at its next step.
            waiting.given_up.set()
            with self._changed:
                if waiting in self._waiting:
                    self._waiting.remove(waiting)
            self._tell()

    def close(self) -> None:
        """Answer what is being answered, refuse what waits, and end the thread."""
        with self._changed:
            self._closing = True
            refused, self._waiting = self._waiting, []
            self._changed.notify_all()
        for waiting in refused:
            _settle(waiting, QueueClosedError())
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            self._tell()
            self._run(batch)
            del batch  # while the thread waits, it should hold no note
            self._tell()

    def _next_batch(self) -> list[_Waiting]:
        """Wait for work and take what goes together with the longest-waiting piece; nothing: the service is ending."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return []
                if self._gather_s:
                    self._changed.wait_for(
                        lambda: len(self._waiting) >= self._expected or self._closing, self._gather_s
                    )
                if self._waiting:  # whoever waited may have gone
                    break
            first = self._waiting[0]
            batch = [first, *(other for other in self._waiting[1:] if first.shares_batch_with(other))]
            self._running = batch[: self._batch_size]
            self._waiting = [other for other in self._waiting if other not in self._running]
            return self._running

    def _run(self, batch: list[_Waiting]) -> None:
        self._batch_started = started = time.monotonic()
        outcomes = _outcomes(batch)
        seconds = time.monotonic() - started
        self._batch_started = None
        if batch[0].job is None:
            self._seconds_a_note += _MEMORY * (seconds / len(batch) - self._seconds_a_note)
            self._on_batch(len(batch), seconds)
        with self._changed:
            self._running = []
            # Decided before anyone is answered: the next note of a client that asks on at once is not left over.
            self._expected = 0 if self._waiting else len(batch)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            _settle(waiting, outcome)

    def _tell(self) -> None:
        self._on_change(len(self._waiting), len(self._running))


def _outcomes(batch: list[_Waiting]) -> list[Any]:
    """Return the result of each piece of a batch, or the exception that its client shall get."""
    try:
        if batch[0].job is not None:
            return [batch[0].job(batch[0].given_up.is_set)]
        assert batch[0].engine is not None
        answers = batch[0].engine.predict([one.note for one in batch], options=[one.options for one in batch])
        return [answer for _, answer in zip(batch, answers, strict=True)]
    except BaseException as error:  # noqa: BLE001 - whatever it is, the thread must live on
        known = isinstance(error, MedcodeError)
        if not known:
            logger.error("the engine failed on %s notes: %s", len(batch), type(error).__name__)  # noqa: TRY400
        if len(batch) == 1 or isinstance(error, EngineTimeoutError):
            return [error if known else EngineFailedError()] * len(batch)
    # One note may have been too much: the others should not suffer from it.
    return [outcome for one in batch for outcome in _outcomes([one])]


def _settle(waiting: _Waiting, outcome: Any) -> None:
    """Hand a result or an exception to whoever awaits it, if anybody still does."""
    try:
        if isinstance(outcome, Exception):
            waiting.future.set_exception(outcome)
        else:
            waiting.future.set_result(outcome)
    except InvalidStateError:
        pass  # cancelled meanwhile
