"""Several sources to one stream, by weight."""

import random
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TypeVar

Item = TypeVar("Item")
_DRY = object()


def mix(sources: Mapping[str, Iterator[Item]], weights: Mapping[str, float], seed: int) -> Iterator[tuple[str, Item]]:
    """Draw from sources at random by weight, until all have run dry.

    A source is asked for one item at a time, when its turn comes, and never before: what it has beyond the last draw is
    not read. One that runs dry leaves the mix, and the weights of the others stay in proportion. The same seed and
    sources give the same stream, in whichever order the sources are named.

    Args:
        sources: Items by the source's name; a source may be endless.
        weights: How often each is drawn, in proportion; above 0.
        seed: Of the draws.

    Yields:
        (name of the source, item).
    """
    generator = random.Random(seed)
    names = sorted(sources)
    while names:
        cumulated = list(accumulate(weights[name] for name in names))
        while True:
            name = generator.choices(names, cum_weights=cumulated)[0]
            item = next(sources[name], _DRY)
            if item is _DRY:
                names.remove(name)
                break
            yield name, item  # type: ignore[misc]
