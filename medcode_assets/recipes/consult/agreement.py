"""How far raters agree, and whether they prefer the tuned model: known statistics over small tables.

Cohen's kappa (1960; weighted: 1968) for two raters, Fleiss' kappa (1971) for more, and Krippendorff's alpha (2011),
which any number of raters and missing ratings allow. 1: all agree; 0: as chance would. None where there is nothing to
agree about: no item with two ratings, or a single value everywhere.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import permutations

Item = Sequence[Hashable | None]
"""The ratings of one item, a rater each, always in the same order; None: not rated."""
Distance = Callable[[Hashable, Hashable], float]


@dataclass(frozen=True)
class Preference:
    """How often one of two is preferred, over items with a majority."""

    wins: int
    losses: int
    ties: int
    """Items without a majority for either, ties of the raters among them."""
    share: float | None
    """Wins of wins and losses."""
    low: float | None
    """Lower end of Wilson's 95 % interval of the share."""
    high: float | None
    p_value: float | None
    """Exact two-sided sign test of a share of one half."""


def nominal(one: Hashable, other: Hashable) -> float:
    """Distance of values that are the same or not."""
    return float(one != other)


def interval(one: Hashable, other: Hashable) -> float:
    """Squared distance of numbers: quadratic weights."""
    return (float(one) - float(other)) ** 2  # type: ignore[arg-type]


def cohen_kappa(items: Sequence[Item], distance: Distance = nominal) -> float | None:
    """Return the kappa of two raters, weighted by the distance of their values, over items that both rated."""
    pairs = [(one, other) for one, other in items if one is not None and other is not None]
    if not pairs:
        return None
    firsts, seconds = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    observed = sum(distance(one, other) for one, other in pairs) / len(pairs)
    expected = (
        sum(count * others * distance(one, other) for one, count in firsts.items() for other, others in seconds.items())
        / len(pairs) ** 2
    )
    return 1 - observed / expected if expected else None


def fleiss_kappa(items: Sequence[Item]) -> float | None:
    """Return the kappa of any number of raters, over items that all of them rated."""
    complete = [Counter(item) for item in items if None not in item]
    if not complete:
        return None
    raters = len(items[0])
    if raters < 2:
        return None
    total = len(complete) * raters
    agreed = sum(
        sum(count * (count - 1) for count in item.values()) / (raters * (raters - 1)) for item in complete
    ) / len(complete)
    chance = sum((count / total) ** 2 for count in sum(complete, Counter()).values())
    return (agreed - chance) / (1 - chance) if chance < 1 else None


def krippendorff_alpha(items: Sequence[Item], distance: Distance = nominal) -> float | None:
    """Return the alpha of any number of raters, over items that two or more rated."""
    rated = [[value for value in item if value is not None] for item in items]
    rated = [item for item in rated if len(item) > 1]
    pairable = sum(map(len, rated))
    if not pairable:
        return None
    observed = (
        sum(sum(distance(one, other) for one, other in permutations(item, 2)) / (len(item) - 1) for item in rated)
        / pairable
    )
    counts = Counter(value for item in rated for value in item)
    expected = sum(
        count * others * distance(one, other) for one, count in counts.items() for other, others in counts.items()
    ) / (pairable * (pairable - 1))
    return 1 - observed / expected if expected else None


def preference(votes: Sequence[Sequence[int | None]]) -> Preference:
    """Return how often the tuned model is preferred: an item counts for the side with more votes.

    Args:
        votes: Of each item, a rater each: 1 for the tuned model, -1 for the other, 0 for neither, None: not rated.
    """
    from scipy.stats import binomtest

    sums = [sum(one for one in item if one is not None) for item in votes if any(one is not None for one in item)]
    wins, losses = sum(one > 0 for one in sums), sum(one < 0 for one in sums)
    ties = len(sums) - wins - losses
    if not wins + losses:
        return Preference(wins, losses, ties, None, None, None, None)
    test = binomtest(wins, wins + losses)
    ends = test.proportion_ci(method="wilson")
    return Preference(wins, losses, ties, wins / (wins + losses), float(ends.low), float(ends.high), float(test.pvalue))
