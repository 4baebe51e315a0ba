"""What `medcode data check` finds out about a file, as JSON: counts, codes and line numbers, never narrative text."""

from collections import Counter
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.recipes.reasoning.rules import Limits

EXAMPLES = 20
"""Lines that are told of a kind of problem."""
BINS = 24
"""Bars of a histogram, at most."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Example(_Part):
    """One place of a problem."""

    line: int = Field(description="From 1; 0: the file as a whole, or another file that the detail names.")
    detail: str


class ProblemCount(_Part):
    """A kind of problem that was found."""

    kind: str
    group: str
    severity: Literal["error", "warning"]
    count: int
    examples: tuple[Example, ...] = Field(max_length=EXAMPLES)


class CodeCount(_Part):
    """How many lines a code has."""

    system: str
    code: str
    lines: int


class SystemCounts(_Part):
    """The lines and codes of a system."""

    system: str
    lines: int
    codes: int
    rare: int = Field(description="Codes with fewer lines than `limits.least_examples`.")


class Bin(_Part):
    """A bar of a histogram."""

    start: int = Field(description="Least words; the largest are those before the next bar.")
    lines: int


class Lengths(_Part):
    """How many words texts have."""

    mean: float
    median: int
    p95: int
    largest: int
    width: int = Field(description="Words a bar.")
    bins: tuple[Bin, ...]


class OtherFile(_Part):
    """A file that the one checked was held against."""

    path: str
    lines: int = Field(description="Those that can be read.")


class QualityReport(_Part):
    """All that was found out about a file."""

    path: str
    stage: int
    against: tuple[OtherFile, ...]
    limits: Limits
    lines: int = Field(description="Without blank ones.")
    readable: int
    with_errors: int = Field(description="Lines with an error or more, unreadable ones among them.")
    with_warnings: int
    problems: tuple[ProblemCount, ...]
    systems: tuple[SystemCounts, ...]
    frequent_codes: tuple[CodeCount, ...]
    sources: dict[str, int]
    narrative_words: Lengths | None
    reasoning_words: Lengths | None
    passed: bool = Field(description="No errors.")


def lengths_of(words: Counter[int]) -> Lengths | None:
    """Return how texts' lengths are spread, None of no texts.

    Args:
        words: How many texts there are, by their number of words.
    """
    texts = words.total()
    if not texts:
        return None
    least, largest = min(words), max(words)
    width = _bar_width(largest - least + 1)
    first = least - least % width
    bars: Counter[int] = Counter()
    for length, count in words.items():
        bars[(length - first) // width] += count
    return Lengths(
        mean=sum(length * count for length, count in words.items()) / texts,
        median=_quantile(words, 0.5),
        p95=_quantile(words, 0.95),
        largest=largest,
        width=width,
        bins=tuple(Bin(start=first + bar * width, lines=bars[bar]) for bar in range(max(bars) + 1)),
    )


def _bar_width(spread: int) -> int:
    """Return the least of 1, 2, 5, 10, … words with which a spread takes few enough bars."""
    scale = 1
    while True:
        for step in (1, 2, 5):
            # One bar more: the first may begin before the least length.
            if spread / (step * scale) <= BINS - 1:
                return step * scale
        scale *= 10


def _quantile(words: Counter[int], share: float) -> int:
    """Return the least length that at least this share of the texts does not exceed."""
    needed, seen = share * words.total(), 0
    for length in sorted(words):
        seen += words[length]
        if seen >= needed:
            return length
    return max(words)
