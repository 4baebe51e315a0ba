"""Which lines go together, and to which split.

Narratives that are nearly the same, over all stages, and lines of one group (of one patient) are one cluster; a cluster
goes to one split as a whole. Its split is drawn by a hash of the cluster's name: the smallest hash among the groups and
narratives in it. So adding data moves nothing, but for clusters that a new line joins: where it links two clusters,
they take the split of one of them; where its own hash is the smallest, the cluster is drawn anew.
"""

from array import array
from hashlib import blake2b

from medcode_assets.recipes.reasoning.corpus.duplicates import normalised

SPLITS = ("train", "validation", "test")
_BYTES = 16


class Clusters:
    """Lines, numbered from 0 in the order of adding, and which of them are in one cluster (union-find)."""

    def __init__(self) -> None:
        self._parents = array("q")
        self._names = bytearray()
        self._first: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._parents)

    def add(self, narrative: str, group: str | None) -> int:
        """Add a line and return its number; it joins the lines of its group, or of the same narrative."""
        number = len(self._parents)
        name = _digest(f"narrative:{normalised(narrative)}" if group is None else f"group:{group}")
        self._parents.append(number)
        self._names += name
        self.join(number, self._first.setdefault(name, number))
        return number

    def join(self, one: int, other: int) -> None:
        """Make the clusters of two lines one."""
        one, other = self.root(one), self.root(other)
        # A cluster's root is the member with the smallest hash, whatever the order of joining.
        if (self._name(other), other) < (self._name(one), one):
            one, other = other, one
        self._parents[other] = one

    def root(self, number: int) -> int:
        """Return the line that stands for a line's cluster."""
        parents = self._parents
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    def split(self, number: int, seed: int, validation_share: float, test_share: float) -> str:
        """Return the split of a line's cluster."""
        draw = int.from_bytes(_digest(f"{seed}:{self._name(self.root(number)).hex()}")[:8]) / 2**64
        if draw < test_share:
            return "test"
        return "validation" if draw < test_share + validation_share else "train"

    def sizes(self) -> list[int]:
        """Return the number of lines in each cluster, the largest first."""
        counts: dict[int, int] = {}
        for number in range(len(self)):
            root = self.root(number)
            counts[root] = counts.get(root, 0) + 1
        return sorted(counts.values(), reverse=True)

    def _name(self, number: int) -> bytes:
        return bytes(self._names[number * _BYTES : (number + 1) * _BYTES])


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=_BYTES).digest()
