"""Which questions measure, which train, and which wait in the pool until their specialty needs more.

Of each specialty, in the order of a hash of seed and question:

    holdout    the first `holdout`                       test split, the same in every iteration
    half       `train_share` of the rest
      eval     `eval_share` of that half                 validation split, the same in every iteration
      train    what is left of it                        train split, grows
    pool       all others                                not seen, until an iteration moves the first of them to train

So with 110 questions, 10 held out and the shares 0.5 and 0.2: eval 10, train 40, pool 50.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from medcode_assets.recipes.specialty.sources import Item, contents_hash
from medcode_serving.errors import MedcodeError

PARTS = ("holdout", "eval", "train", "pool")
CONSTANT = ("holdout", "eval")
SPLIT_OF = {"holdout": "test", "eval": "validation", "train": "train"}


@dataclass(frozen=True)
class Sampling:
    """How questions are drawn; the same for all iterations of a name."""

    holdout: int
    train_share: float
    eval_share: float
    seed: int


@dataclass(frozen=True)
class Sample:
    """A question and what it is for."""

    item: Item
    part: str
    iteration: int = 0
    """Since which it trains; 0: it does not."""


@dataclass(frozen=True)
class Growth:
    """What an iteration added to a specialty's training samples."""

    factor: float
    before: int
    wanted: int
    """Samples that the factor asks for, beyond those before."""
    added: int
    """As many of them as the pool had."""


@dataclass(frozen=True)
class Counts:
    """A specialty's questions by part."""

    holdout: int
    eval: int
    train: int
    pool: int


def first_samples(items: Iterable[Item], sampling: Sampling) -> list[Sample]:
    """Return what iteration 1 begins with, before anything is added; the order of `items` makes no difference.

    Raises:
        MedcodeError: a specialty has too few questions for each of holdout, eval and train.
    """
    by_specialty: dict[str, list[Item]] = {}
    for item in items:
        by_specialty.setdefault(item.specialty, []).append(item)
    _refuse_too_few({specialty: len(own) for specialty, own in by_specialty.items()}, sampling)
    samples: dict[str, list[Sample]] = {part: [] for part in PARTS}
    for _, own in sorted(by_specialty.items()):
        own.sort(key=lambda item: hashlib.sha256(f"{sampling.seed}:{item.key}".encode()).digest())
        sizes = asdict(part_sizes(len(own), sampling))
        rest = iter(own)
        for part in PARTS:
            since = 1 if part == "train" else 0
            samples[part] += [Sample(next(rest), part, since) for _ in range(sizes[part])]
    return [sample for part in PARTS for sample in samples[part]]


def part_sizes(questions: int, sampling: Sampling) -> Counts:
    """Return how many of a specialty's questions each part gets in iteration 1; at least one for eval and for train."""
    rest, half = _divided(questions, sampling)
    evaluation = min(max(_rounded(half * sampling.eval_share), 1), half - 1)
    return Counts(sampling.holdout, evaluation, half - evaluation, rest - half)


def _divided(questions: int, sampling: Sampling) -> tuple[int, int]:
    """Return what the holdout leaves, and the share of it that is for train and eval."""
    rest = questions - sampling.holdout
    return rest, _rounded(rest * sampling.train_share)


def _refuse_too_few(questions: Mapping[str, int], sampling: Sampling) -> None:
    """Raise MedcodeError naming every specialty that has too few questions for holdout, eval and train."""
    few = {name: number for name, number in sorted(questions.items()) if min(_divided(number, sampling)) < 2}
    if few:
        told = ", ".join(f"{name} ({number})" for name, number in few.items())
        raise MedcodeError(
            f"too few questions for a holdout of {sampling.holdout}, and train and eval out of "
            f"{sampling.train_share:g} of the rest: {told}; give these specialties more, lower specialty.holdout, or "
            "take their files out of the folder"
        )


def grow(
    samples: Sequence[Sample], factors: Mapping[str, float], iteration: int
) -> tuple[list[Sample], dict[str, Growth]]:
    """Move questions from the pool to train, each specialty's by its factor, the first of its pool first.

    Args:
        samples: Of the iteration before.
        factors: By specialty, 1 or more; a specialty that is not in it stays as it is.
        iteration: The new one.

    Returns:
        The samples with those added behind the earlier training samples, and what was added by specialty.

    Raises:
        MedcodeError: a factor is for a specialty that does not exist.
    """
    before = counts(samples)
    if unknown := sorted(set(factors) - set(before)):
        raise MedcodeError(f"no specialty {', '.join(unknown)} to get more samples; there are {', '.join(before)}")
    growth = {}
    for specialty, factor in sorted(factors.items()):
        own = before[specialty]
        wanted = _more(own.train, factor)
        growth[specialty] = Growth(factor, own.train, wanted, min(wanted, own.pool))
    left = {specialty: one.added for specialty, one in growth.items()}
    parts: dict[str, list[Sample]] = {part: [s for s in samples if s.part == part] for part in CONSTANT}
    parts |= {"train": [s for s in samples if s.part == "train"], "pool": []}
    for sample in (sample for sample in samples if sample.part == "pool"):
        takes = left.get(sample.item.specialty, 0) > 0
        if takes:
            left[sample.item.specialty] -= 1
        parts["train" if takes else "pool"].append(
            replace(sample, part="train", iteration=iteration) if takes else sample
        )
    return [sample for part in PARTS for sample in parts[part]], growth


def counts(samples: Iterable[Sample]) -> dict[str, Counts]:
    """Return each specialty's questions by part."""
    found = Counter((sample.item.specialty, sample.part) for sample in samples)
    specialties = sorted({specialty for specialty, _ in found})
    return {name: Counts(**{part: found[name, part] for part in PARTS}) for name in specialties}


def part_hashes(samples: Sequence[Sample]) -> dict[str, str]:
    """Return a sha256 over the sorted ids and contents of each part that never changes."""
    return {part: contents_hash(sample.item for sample in samples if sample.part == part) for part in CONSTANT}


def overlaps(samples: Iterable[Sample]) -> int:
    """Return how many questions are there more than once, in one part or several."""
    keys = Counter(sample.item.key for sample in samples)
    return sum(count > 1 for count in keys.values())


def _more(train: int, factor: float) -> int:
    """Return how many samples a factor adds; one at least, if it adds at all."""
    return 0 if factor <= 1 else max(_rounded(train * (factor - 1)), 1)


def _rounded(value: float) -> int:
    """Return the nearest whole number, halves up; products of shares may miss a half by a rounding error."""
    return math.floor(value + 0.5 + 1e-9)
