import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest

from medcode_serving.engines.protocol import NoteOptions, Prediction, ScoredCode
from medcode_serving.errors import EngineTimeoutError, MedcodeError
from medcode_serving.note_queue import EngineFailedError, NoteQueue, QueueClosedError, QueueFullError


class Recorder:
    """Answers a note with itself as the code, as soon as the gate is open, and keeps the batches."""

    name = "recorder"

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.ended: list[str] = []

    def predict(self, notes: Sequence[str], *, options=None, on_progress=None) -> list[Prediction]:
        self.batches.append(list(notes))
        assert self.gate.wait(60)
        self.ended += [note for note, option in zip(notes, options, strict=True) if option.ended()]
        if "poison" in notes:
            raise RuntimeError("cannot read poison")
        if "wrong" in notes:
            raise MedcodeError("no answer")
        if "slow" in notes:
            raise EngineTimeoutError("too slow")
        return [Prediction((ScoredCode("icd10cm", note, None, 1.0),)) for note in notes]

    def close(self) -> None:
        pass


def run(work: Callable[[NoteQueue, Recorder], Awaitable[None]], **settings) -> tuple[NoteQueue, Recorder]:
    engine = Recorder()

    async def main() -> NoteQueue:
        queue = NoteQueue(**{"max_notes": 100, "batch_size": 16} | settings)
        try:
            await asyncio.wait_for(work(queue, engine), 60)
        finally:
            engine.gate.set()
            await asyncio.to_thread(queue.close)
        return queue

    return asyncio.run(main()), engine


def ask(queue: NoteQueue, engine: Recorder, note: str, **options) -> "asyncio.Task[Prediction]":
    return asyncio.create_task(queue.answer(engine, note, NoteOptions(**options)))


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.002)


def answered(prediction: Prediction) -> str:
    return prediction.codes[0].code


def test_notes_of_similar_length_share_a_batch_and_answers_find_their_way() -> None:
    shorts, longs = [f"short {number}" for number in range(5)], ["long" * 20, "LONG" * 21]

    async def work(queue: NoteQueue, engine: Recorder) -> None:
        tasks = [ask(queue, engine, "the first")]
        await until(lambda: engine.batches != [])
        mixed = [shorts[0], longs[0], *shorts[1:4], longs[1], shorts[4]]
        tasks += [ask(queue, engine, note) for note in mixed]
        tasks.append(ask(queue, engine, shorts[0], constrained=False))
        await until(lambda: len(queue) == 9)
        engine.gate.set()
        assert [answered(one) for one in await asyncio.gather(*tasks)] == ["the first", *mixed, shorts[0]]

    _, engine = run(work)
    assert engine.batches == [["the first"], shorts, longs, [shorts[0]]]


def test_a_batch_has_its_size_and_waits_for_company_only_where_there_was_some() -> None:
    async def work(queue: NoteQueue, engine: Recorder) -> None:
        first = ask(queue, engine, "note 0")
        await until(lambda: engine.batches != [])
        others = [ask(queue, engine, f"note {number}") for number in range(1, 6)]
        await until(lambda: len(queue) == 6)
        engine.gate.set()
        await asyncio.gather(first, *others)
        # Three ended together and two were left, which went at once; none were left by these: the next batch waits for
        # a second note, up to a minute.
        assert engine.batches[1:] == [[f"note {number}" for number in (1, 2, 3)], ["note 4", "note 5"]]
        late = ask(queue, engine, "note 6")
        await asyncio.sleep(0.05)
        assert engine.batches[3:] == []
        await asyncio.gather(late, ask(queue, engine, "note 7"))

    def linger(*_: float) -> None:  # as a busy machine would: who is answered asks on before the thread is back
        if threading.current_thread().name == "inference":
            time.sleep(0.02)

    _, engine = run(work, batch_size=3, gather_ms=60_000, on_batch=linger, on_change=linger)
    assert engine.batches[3:] == [["note 6", "note 7"]]


def test_a_cancelled_note_leaves_the_queue_or_is_told_to_the_engine() -> None:
    async def work(queue: NoteQueue, engine: Recorder) -> None:
        running = ask(queue, engine, "running")
        await until(lambda: engine.batches != [])
        waiting, kept = ask(queue, engine, "waiting"), ask(queue, engine, "kept")
        await until(lambda: len(queue) == 3)
        for task in (running, waiting):
            task.cancel()
        await until(lambda: len(queue) == 2)
        engine.gate.set()
        assert answered(await kept) == "kept"

    _, engine = run(work)
    assert engine.batches == [["running"], ["kept"]]
    assert engine.ended == ["running"]


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async def work(queue: NoteQueue, engine: Recorder) -> None:
        tasks = [ask(queue, engine, f"note {number}") for number in range(3)]
        await until(lambda: len(queue) == 3)
        assert queue.full
        with pytest.raises(QueueFullError) as caught:
            await queue.answer(engine, "too many", NoteOptions())
        assert caught.value.retry_after >= 1
        engine.gate.set()
        assert await queue.run(lambda ended: 7) == 7  # other work is no note
        await asyncio.gather(*tasks)
        assert answered(await queue.answer(engine, "room again", NoteOptions())) == "room again"

    run(work, max_notes=3)


@pytest.mark.parametrize(("bad", "error"), [("poison", EngineFailedError), ("wrong", MedcodeError)])
def test_one_bad_note_harms_no_other_and_not_the_thread(bad: str, error: type[Exception], caplog) -> None:
    async def work(queue: NoteQueue, engine: Recorder) -> None:
        tasks = [ask(queue, engine, "head")]
        await until(lambda: engine.batches != [])
        tasks += [ask(queue, engine, note) for note in ("good 1", bad, "good 2")]
        await until(lambda: len(queue) == 4)
        engine.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [answered(result) for result in (results[0], results[1], results[3])] == ["head", "good 1", "good 2"]
        assert isinstance(results[2], error)
        assert queue.alive

    run(work)
    assert "cannot read" not in caplog.text


def test_a_slow_server_is_not_asked_again_note_by_note() -> None:
    async def work(queue: NoteQueue, engine: Recorder) -> None:
        tasks = [ask(queue, engine, "head")]
        await until(lambda: engine.batches != [])
        tasks += [ask(queue, engine, note) for note in ("slow", "also")]
        await until(lambda: len(queue) == 3)
        engine.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [Prediction, EngineTimeoutError, EngineTimeoutError]

    _, engine = run(work)
    assert len(engine.batches) == 2


def test_closing_finishes_what_runs_and_refuses_what_waits() -> None:
    async def work(queue: NoteQueue, engine: Recorder) -> None:
        running = ask(queue, engine, "running")
        await until(lambda: engine.batches != [])
        waiting = ask(queue, engine, "a note that waits")
        await until(lambda: len(queue) == 2)
        closing = asyncio.create_task(asyncio.to_thread(queue.close))
        with pytest.raises(QueueClosedError):
            await waiting
        engine.gate.set()
        assert answered(await running) == "running"
        await closing
        with pytest.raises(QueueClosedError):
            await queue.answer(engine, "late", NoteOptions())

    queue, _ = run(work)
    assert not queue.alive


def test_other_work_may_go_before_all_that_waits_and_hears_that_nobody_waits_for_it() -> None:
    done: list[str] = []

    async def work(queue: NoteQueue, engine: Recorder) -> None:
        tasks = [ask(queue, engine, "running")]
        await until(lambda: engine.batches != [])
        tasks.append(ask(queue, engine, "a note that waits"))
        await until(lambda: queue.full)
        soon = asyncio.create_task(queue.run(lambda ended: done.append(f"{len(engine.batches)} batches"), next_=True))
        await asyncio.sleep(0.01)
        engine.gate.set()
        await asyncio.gather(*tasks, soon)
        began, heard = threading.Event(), threading.Event()

        def wait(ended: Callable[[], bool]) -> None:
            began.set()
            while not ended():
                time.sleep(0.001)
            heard.set()

        dear = asyncio.create_task(queue.run(wait))
        await until(began.is_set)
        dear.cancel()
        await until(heard.is_set)

    run(work, max_notes=2)
    assert done == ["1 batches"]


def test_an_engine_that_answers_too_little_fails_and_the_thread_lives() -> None:
    class Short(Recorder):
        def predict(self, notes: Sequence[str], *, options=None, on_progress=None) -> list[Prediction]:
            return []

    async def work(queue: NoteQueue, engine: Recorder) -> None:
        with pytest.raises(EngineFailedError):
            await queue.answer(Short(), "note", NoteOptions())
        assert queue.alive

    run(work)


def test_what_happens_is_told() -> None:
    batches, changes = [], []

    async def work(queue: NoteQueue, engine: Recorder) -> None:
        engine.gate.set()
        await queue.answer(engine, "one", NoteOptions())
        await queue.run(lambda ended: None)

    run(work, on_batch=lambda notes, seconds: batches.append(notes), on_change=lambda *counts: changes.append(counts))
    assert batches == [1]
    assert (0, 1) in changes
    assert changes[-1] == (0, 0)
