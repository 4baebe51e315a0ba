"""What `medcode specialty run`, `next` and `status` do, once their flags are read."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medcode_assets.commands import refuse_name, require_assets_extra
from medcode_assets.config import parse_assignments
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from medcode_assets.recipes.specialty.iterations import Iteration
    from medcode_assets.recipes.specialty.settings import SpecialtySettings

RECIPE = "specialty"
LAST = ("progress", "gguf")
"""Assets at which an iteration stops, one after the other: the loop goes on without what cannot be published."""


def run_specialty(
    home: Path,
    name: str,
    source: str | None,
    config: Path | None,
    assignments: list[str],
    *,
    drop_existing: bool = False,
) -> None:
    """Materialize the current iteration of a progressive training, or its first, and print what came of it.

    Raises:
        MedcodeError: as `load_specialty_settings` and the assets do, or the name is none for a partition.
    """
    require_assets_extra()
    from medcode_assets.recipes.specialty.iterations import Iteration
    from medcode_assets.recipes.specialty.settings import load_specialty_settings

    settings = load_specialty_settings(config, {"specialty.source": source, **parse_assignments(assignments)})
    iterations = started_iterations(home, name)
    materialize_iteration(
        home, iterations[-1] if iterations else Iteration(name, 1), settings, drop_existing=drop_existing
    )
    print_status(home, name)


def next_specialty(home: Path, name: str, config: Path | None, assignments: list[str]) -> None:
    """Materialize the iteration behind the last one and print what came of it.

    Raises:
        MedcodeError: there is no iteration yet, the last one has no recommendations, or nothing would be added.
    """
    require_assets_extra()
    from medcode_assets.recipes.specialty.drawing import next_iteration
    from medcode_assets.recipes.specialty.settings import load_specialty_settings

    settings = load_specialty_settings(config, parse_assignments(assignments))
    iterations = started_iterations(home, name)
    if not iterations:
        raise MedcodeError(
            f"--name {name}: no iteration yet; begin with `medcode specialty run --name {name} --source DIR`"
        )
    materialize_iteration(home, next_iteration(iterations[-1], settings.specialty, artifact_folder(home)), settings)
    print_status(home, name)


def print_status(home: Path, name: str) -> None:
    """Print a table of a training's iterations. Raises MedcodeError if there is none."""
    require_assets_extra()
    from medcode_assets.recipes.specialty.progress import read_step
    from medcode_assets.recipes.specialty.sample_files import read_statistics

    iterations, folder = started_iterations(home, name), artifact_folder(home)
    if not iterations:
        raise MedcodeError(f"--name {name}: no iteration in {home}; begin with `medcode specialty run --name {name}`")
    typer.echo(f"\n{'iteration':<24} {'train':>6} {'added':>6} {'pool':>6}  {'untuned':>7}  {'tuned':>6}  improvement")
    for iteration in iterations:
        told = read_statistics(folder(iteration.key, "samples"))
        step = read_step(iteration, folder)
        counted = f"{iteration.key:<24} " + " ".join(f"{told['all'][part]:>6}" for part in ("train", "added", "pool"))
        if step is None:
            typer.echo(f"{counted}  not evaluated yet")
            continue
        gain = step.improvement
        typer.echo(
            f"{counted}  {step.base.value:>7.3f}  {step.finetuned.value:>6.3f}  {gain.value:+.3f} "
            f"[{gain.low:+.3f}, {gain.high:+.3f}]  {step.measure}; weak: {', '.join(step.weak) or 'none'}"
        )
        for exhausted in told["pool_exhausted"]:
            typer.echo(f"{'':<24} {exhausted}: its pool had fewer samples than were wanted")
    last = folder(iterations[-1].key, "")
    typer.echo(f"\nFiles:      {last}: samples, results, recommendations, progress")


def started_iterations(home: Path, name: str) -> "list[Iteration]":
    """Return the iterations that have samples. Raises MedcodeError if the name is none for a partition."""
    from medcode_assets.recipes.specialty.iterations import started

    refuse_name(name)
    return started(home / "artifacts" / RECIPE, name)


def artifact_folder(home: Path) -> Callable[[str, str], Path]:
    """Return what tells the folder of the recipe's artifacts, as resource `home` does."""
    return lambda partition, artifact: home / "artifacts" / RECIPE / partition / artifact


def materialize_iteration(
    home: Path, iteration: "Iteration", settings: "SpecialtySettings", *, drop_existing: bool = False
) -> None:
    """Materialize an iteration to the end, a line an asset on stderr."""
    from medcode_assets.pipeline import materialize_words, open_instance

    with open_instance(home) as instance:
        typer.echo(f"{RECIPE}: iteration {iteration.key}, state in {home}", err=True)
        for number, last in enumerate(LAST):
            anew = drop_existing and number == 0  # what follows is made anew where this changed it
            materialize_words(instance, home, RECIPE, last, iteration.key, settings, drop_existing=anew)
