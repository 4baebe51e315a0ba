"""Which examples a step trains on, and how they are dealt to rows.

All of it follows from the seed and the number of the step: nothing has to be saved to go on after a kill, and any
number of processes comes to the same steps.
"""

import math
from collections.abc import Sequence

import numpy as np


def steps_an_epoch(examples: int, per_step: int) -> int:
    """Return the number of optimizer steps that see every example once; the last may have fewer."""
    return math.ceil(examples / per_step)


def step_examples(examples: int, per_step: int, seed: int, step: int) -> list[int]:
    """Return the examples of an optimizer step: a slice of its epoch's own shuffle.

    Args:
        examples: Number of examples in all.
        per_step: Examples a step.
        seed: Of the training.
        step: 0-based, over all epochs.
    """
    epoch, place = divmod(step, steps_an_epoch(examples, per_step))
    order = np.random.default_rng([seed, epoch]).permutation(examples)
    return [int(index) for index in order[place * per_step : (place + 1) * per_step]]


def balanced_rows(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Deal examples to at most `rows` rows of about equally many tokens: the longest first, each to the emptiest row.

    Returns the places of the examples in each row; no row is empty.
    """
    dealt: list[list[int]] = [[] for _ in range(min(rows, len(lengths)))]
    tokens = [0] * len(dealt)
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        emptiest = tokens.index(min(tokens))
        dealt[emptiest].append(place)
        tokens[emptiest] += lengths[place]
    return dealt


def grouped_rows(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Deal examples to at most `rows` padded rows of similar lengths, so that little is padding; no row is empty."""
    by_length = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    parts = np.array_split(np.array(by_length), min(rows, len(lengths)))
    return [[int(place) for place in part] for part in parts]
