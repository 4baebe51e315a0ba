"""Iterations of a progressive training: their partition keys, and what each takes over from the one before."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcode_assets.artifacts import made
from medcode_assets.recipes.specialty.recommending import RECOMMENDATIONS, read_recommendations
from medcode_assets.recipes.specialty.sample_files import read_samples
from medcode_assets.recipes.specialty.sampling import Sample
from medcode_serving.errors import MedcodeError

_KEY = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]*)-(?P<number>\d\d)")
MOST = 99
UNFINISHED = "unfinished"
"""File in the folder of an iteration that a command is making, or was when it was killed."""

Folder = Callable[[str, str], Path]
"""Folder of an artifact of the recipe, from a partition and the artifact's name."""


@dataclass(frozen=True)
class Iteration:
    """One iteration."""

    name: str
    number: int

    @property
    def key(self) -> str:
        """Its partition."""
        return f"{self.name}-{self.number:02}"

    def at(self, number: int) -> "Iteration":
        """Return another iteration of the same name."""
        return Iteration(self.name, number)


@dataclass(frozen=True)
class Before:
    """What an iteration takes over."""

    iteration: Iteration
    samples: list[Sample]
    facts: dict[str, Any]
    """Of its artifact `samples`."""
    recommended: dict[str, float]
    """Factor by specialty."""


def iteration_of(partition: str) -> Iteration:
    """Return the iteration that a partition key names. Raises MedcodeError if it names none."""
    match = _KEY.fullmatch(partition)
    if not match or int(match["number"]) == 0:
        raise MedcodeError(
            f"partition {partition}: no iteration; keys are NAME-01, NAME-02, … (`medcode specialty run --name NAME`)"
        )
    return Iteration(match["name"], int(match["number"]))


def started(artifacts: Path, name: str) -> list[Iteration]:
    """Return the iterations of a name that have samples, in their order.

    Args:
        artifacts: Folder of the recipe's artifacts, with a folder a partition.
        name: Of the progressive training.
    """
    folders = (folder for folder in artifacts.glob(f"{name}-[0-9][0-9]") if made(folder / "samples"))
    return sorted((iteration_of(folder.name) for folder in folders), key=lambda iteration: iteration.number)


def begin(iteration: Iteration, folder: Folder) -> None:
    """Mark an iteration as one that a command is making; the mark outlives a killed command."""
    mark = folder(iteration.key, UNFINISHED)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def end(iteration: Iteration, folder: Folder) -> None:
    """Take the mark of `begin` away."""
    folder(iteration.key, UNFINISHED).unlink(missing_ok=True)


def finished(iteration: Iteration, folder: Folder) -> bool:
    """Whether no command was cut off while it made an iteration, and its recommendations are of its samples."""
    facts = made(folder(iteration.key, "samples"))
    recommended = made(folder(iteration.key, RECOMMENDATIONS))
    advised = facts is not None and recommended is not None and recommended["samples"] == facts["contents"]
    return advised and not folder(iteration.key, UNFINISHED).exists()


def taken_over(iteration: Iteration, folder: Folder) -> Before | None:
    """Return what an iteration takes over from the one before; None for the first.

    Raises:
        MedcodeError: the one before has no samples, or was not evaluated since they were drawn.
    """
    if iteration.number == 1:
        return None
    before = iteration.at(iteration.number - 1)
    facts = made(folder(before.key, "samples"))
    recommended = made(folder(before.key, RECOMMENDATIONS))
    if facts is None or recommended is None:
        lacks = "samples" if facts is None else "recommendations"
        raise MedcodeError(
            f"iteration {iteration.key}: {before.key} has no {lacks} yet; materialize specialty/recommendations of "
            f"{before.key} first, or run `medcode specialty run --name {iteration.name}`"
        )
    if recommended["samples"] != facts["contents"]:
        raise MedcodeError(
            f"iteration {iteration.key}: the recommendations of {before.key} are of other samples than it has now; "
            f"materialize specialty/recommendations of {before.key} again"
        )
    found = read_recommendations(folder(before.key, RECOMMENDATIONS))
    return Before(before, read_samples(folder(before.key, "samples")), facts, found.recommended_sample_increases)
