import threading
import time

import pytest

from medcode_assets.synthesis.asking import Asking
from medcode_assets.synthesis.client import Reply
from medcode_assets.synthesis.requests import Request
from medcode_assets.synthesis.tally import Tally


def request(number: int) -> Request:
    return Request(number, 0, None, None, (), 10, 0.0, 0)


def test_replies_that_come_with_an_unforeseen_error_are_taken_in() -> None:
    ended, together = threading.Barrier(5), threading.Event()
    wanted, taken = [request(number) for number in range(4)], []

    def ask(asked: Request) -> Reply:
        ended.wait(60)
        if asked.number in (0, 3):
            raise RuntimeError("unforeseen")
        return Reply(str(asked.number))

    def draw() -> Request | None:
        if wanted:
            return wanted.pop()
        if not together.is_set():
            together.set()
            ended.wait(60)
            time.sleep(0.1)  # until all are done: one look finds them together
        return None

    with pytest.raises(RuntimeError, match="unforeseen"):
        Asking(ask, workers=5, stop=threading.Event()).run(draw, taken.extend, set(), Tally())
    assert sorted(one.number for one, _ in taken) == [1, 2]
