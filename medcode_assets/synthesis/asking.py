"""Many requests at a time to one server: what came of each, and when the server is away or refuses for good."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event

from medcode_assets.synthesis.client import Reply, StoppedError, UnansweredError
from medcode_assets.synthesis.requests import Request
from medcode_assets.synthesis.tally import Tally
from medcode_serving.errors import MedcodeError

POLL_SECONDS = 0.5
FAILURES_IN_A_ROW = 8
"""Requests one after the other that got no answer: the server is away, and asking on would only take time."""


class Asking:
    """One run's requests: how many are under way, and how the server fares."""

    def __init__(self, ask: Callable[[Request], Reply], *, workers: int, stop: Event) -> None:
        """Ask nothing yet.

        Args:
            ask: Asks the model; called by several threads.
            workers: Requests at a time.
            stop: Set from outside: what is under way is still taken in.
        """
        self._ask = ask
        self._workers = workers
        self._stop = stop
        self._unanswered_in_a_row = 0
        self._last_failure = ""
        self._refusal: MedcodeError | None = None
        self._unforeseen: Exception | None = None

    def run(
        self,
        draw: Callable[[], Request | None],
        take_in: Callable[[list[tuple[Request, Reply]]], None],
        failed: set[int],
        tally: Tally,
        on_progress: Callable[[Tally], None] | None = None,
    ) -> None:
        """Ask until nothing is drawn and nothing is under way.

        Args:
            draw: Returns the next request; None: there is none now.
            take_in: Gets the replies that came together; what it finds may be asked again is drawn later.
            failed: Gets the numbers of requests without a reply.
            tally: Counts those, too.
            on_progress: Told after replies were taken in.

        Raises:
            MedcodeError: the server refuses for good, or is away.
        """
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="medcode-ask")
        running: dict[Future[Reply], Request] = {}
        try:
            while True:
                while len(running) < self._workers and (request := draw()) is not None:
                    running[pool.submit(self._ask, request)] = request
                if not running:
                    break
                done, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                take_in(self._replies([(running.pop(future), future) for future in done], failed, tally))
                if self._unforeseen is not None:
                    raise self._unforeseen
                if self._is_hopeless():
                    self._stop.set()  # what is under way is paid for, and still taken in
                if done and on_progress:
                    on_progress(tally)
        finally:
            if running:
                self._stop.set()  # after an error or Ctrl-C, requests that are under way end soon
            pool.shutdown(wait=False, cancel_futures=True)
        if self._refusal is not None:
            raise self._refusal

    def _replies(
        self, done: Iterable[tuple[Request, "Future[Reply]"]], failed: set[int], tally: Tally
    ) -> list[tuple[Request, Reply]]:
        replies = []
        for request, future in done:
            try:
                reply = future.result()
            except StoppedError:
                continue
            except MedcodeError as refusal:
                self._refusal = refusal
            except UnansweredError as error:
                failed.add(request.number)
                tally.failed += 1
                tally.failures[str(error)] += 1
                tally.retries += error.retries
                self._unanswered_in_a_row += 1
                self._last_failure = str(error)
            except Exception as error:  # noqa: BLE001 - raised once the replies that came with it are taken in
                self._unforeseen = error
            else:
                self._unanswered_in_a_row = 0
                replies.append((request, reply))
        return replies

    def _is_hopeless(self) -> bool:
        if self._refusal is None and self._unanswered_in_a_row >= max(FAILURES_IN_A_ROW, self._workers):
            self._refusal = MedcodeError(
                f"{self._unanswered_in_a_row} requests in a row got no answer (the last: {self._last_failure}); check "
                "that the server runs; the same command goes on from here"
            )
        return self._refusal is not None
