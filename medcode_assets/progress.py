"""Progress bars: everything that takes over ten seconds shows one on stderr."""

from typing import Any

from tqdm import tqdm


def advance(bar: "tqdm[Any]", done: int, total: int) -> None:
    """Move a bar to `done` of `total`; work reports through a callback and knows nothing of bars."""
    bar.total = total
    bar.update(done - bar.n)


def step(bar: "tqdm[Any]", more: int) -> None:
    """Move a bar on by `more`, for work that tells no total."""
    bar.update(more)
