"""The progress bar of a conversion: rows done, and the share of replies that were lists."""

from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from medcode_assets.synthesis.tally import Tally


def moving(bar: "tqdm[Any]") -> Callable[[Tally], None]:
    """Return what moves a bar to the rows that are converted or given up, with the success rate beside it."""

    def move(tally: Tally) -> None:
        bar.set_postfix_str(tally.shown(), refresh=False)
        bar.update(tally.accepted + tally.given_up - bar.n)

    return move
