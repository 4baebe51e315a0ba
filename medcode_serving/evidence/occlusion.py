"""Evidence by leaving out: a part of the note supports a code if without it the model finds the code less likely.

It asks the very model that predicted, so it is as faithful as can be had without looking inside; and it costs as many
forward passes as there are parts.
"""

import re
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medcode_serving.evidence.sentences import sentences
from medcode_serving.evidence.spans import Span, trim, without_bullet

LEAST_DROP = 0.1
"""Of a log-probability, in nats; less is noise of the wording."""


AT_ONCE = 5
"""Variants of the note between two looks at whether anybody still waits for the evidence."""


class Scores(Protocol):
    """An engine that can tell how likely given codes are."""

    def log_probabilities(self, notes: Sequence[str], codes: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Return the log-probability of each code in each note: [notes, codes]."""
        ...


def occlusion(
    engine: Scores,
    note: str,
    codes: Sequence[tuple[str, str]],
    *,
    most: int = 3,
    parts: int = 24,
    ended: Callable[[], bool] = lambda: False,
) -> list[list[Span]]:
    """Return the spans that support each code, the strongest first, at most `most`; none where nothing does.

    Args:
        engine: Is asked for the note and for the note without each of its parts, a few at a time.
        note: The text as it was submitted.
        codes: System and code.
        most: Spans a code at most.
        parts: Stretches that the note is cut into at most.
        ended: Is asked now and then; from True on nothing more is looked for, and nothing is found.
    """
    stretches = cut_evenly(note, parts)
    if len(stretches) < 2 or not codes:
        return [[] for _ in codes]
    variants = [note, *(note[:start] + note[end:] for start, end in stretches)]
    scores = np.zeros((len(variants), len(codes)))
    for first in range(0, len(variants), AT_ONCE):
        if ended():
            return [[] for _ in codes]
        some = slice(first, first + AT_ONCE)
        scores[some] = engine.log_probabilities(variants[some], codes)
    with np.errstate(invalid="ignore"):  # impossible with and without: nothing dropped
        drops = np.nan_to_num(scores[0] - scores[1:], nan=0.0, posinf=np.inf)
    found = []
    for column in drops.T:
        strongest = [part for part in np.argsort(-column, kind="stable").tolist() if column[part] > LEAST_DROP]
        spans = (
            Span(*without_bullet(note, *trim(note, *stretches[part])), float(-np.expm1(-column[part])))
            for part in strongest
        )
        found.append([span for span in spans if span.start < span.end][:most])
    return found


def cut_evenly(note: str, parts: int) -> list[tuple[int, int]]:
    """Return consecutive stretches of about equal length that make up the note, at most `parts`.

    They are cut between sentences; a note of one sentence is cut between words.
    """
    starts = [start for start, _ in sentences(note)]
    if len(starts) == 1:
        starts = [match.start() for match in re.finditer(r"\S+", note)]
    cuts = {0, len(note)}
    if len(starts) > 1:
        wanted = np.arange(1, parts) * (len(note) / parts)
        place = np.searchsorted(starts, wanted)
        for target, after in zip(wanted.tolist(), place.tolist(), strict=True):
            near = starts[max(after - 1, 1) : after + 1] or starts[-1:]
            cuts.add(min(near, key=lambda start: abs(start - target)))
    bounds = sorted(cuts)
    return list(zip(bounds, bounds[1:], strict=False))
