"""What `medcode specialty run`, `next` and `status` do, once their flags are read."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from medcode_assets.commands import refuse_name, require_assets_extra
from medcode_assets.config import parse_assignments
from medcode_serving.errors import MedcodeError
from medcode_serving.home import medcode_home

if TYPE_CHECKING:
    from medcode_assets.recipes.specialty.iterations import Iteration
    from medcode_assets.recipes.specialty.settings import SpecialtySettings

RECIPE = "specialty"
LAST = ("progress", "gguf")
"""Assets at which an iteration stops, one after the other: the loop goes on without what cannot be published."""
SHOWN = ("samples", "results", "recommendations", "progress")
"""Artifacts that people read."""


def run_specialty(
    home: Path,
    name: str,
    source: str | None,
    config: Path | None,
    assignments: list[str],
    *,
    base_model: str | None = None,
    drop_existing: bool = False,
) -> None:
    """Materialize the current iteration of a progressive training, or its first, and print what came of it.

    Raises:
        MedcodeError: as `load_specialty_settings` and the assets do, or the name is none for a partition.
    """
    require_assets_extra()
    from medcode_assets.recipes.specialty.iterations import Iteration

    flags = {"specialty.source": source, "model.base": base_model, **parse_assignments(assignments)}
    iterations = started_iterations(home, name)
    iteration = iterations[-1] if iterations else Iteration(name, 1)
    settings = settings_of(home, iteration, config, flags)
    materialize_iteration(home, iteration, settings, drop_existing=drop_existing)
    print_status(home, name)


def next_specialty(home: Path, name: str, config: Path | None, assignments: list[str]) -> None:
    """Materialize the iteration behind the last one, or the last one if it is not finished; print what came of it.

    Raises:
        MedcodeError: there is no iteration yet, the last one has no recommendations, or nothing would be added.
    """
    require_assets_extra()
    from medcode_assets.recipes.specialty.drawing import current_iteration

    flags = parse_assignments(assignments)
    iterations = started_iterations(home, name)
    if not iterations:
        raise MedcodeError(f"--name {name}: no iteration yet; begin with `{_begin(home, name)}`")
    iteration = current_iteration(iterations, artifact_folder(home))
    settings = settings_of(home, iteration, config, flags)
    if iteration == iterations[-1]:
        refuse_other_adjustments(home, iteration, settings.specialty.adjustments)
        typer.echo(f"{RECIPE}: iteration {iteration.key} is not finished; going on with it", err=True)
    materialize_iteration(home, iteration, settings)
    print_status(home, name)


def settings_of(home: Path, iteration: "Iteration", config: Path | None, flags: dict[str, Any]) -> "SpecialtySettings":
    """Return an iteration's settings: as given now, else as given under its name before; keep them for the next time.

    The source is looked at before anything else is made or fetched. Behind iteration 1 it is that of the iteration
    before, whatever a settings file says: only a flag names another place of the same questions.

    Raises:
        MedcodeError: a setting or the source is wrong, or the iteration cannot be drawn.
    """
    from medcode_assets.recipes.specialty.drawing import refuse_undrawable
    from medcode_assets.recipes.specialty.remembered import FILE, as_settings, given_now, remember

    file = artifact_folder(home)(iteration.at(1).key, FILE)
    given = given_now(file, config, flags)
    settings = as_settings(given, file, flags)
    if iteration.number > 1 and flags.get("specialty.source") is None:
        section = settings.specialty.model_copy(update={"source": None})
        settings = settings.model_copy(update={"specialty": section})
    planned = refuse_undrawable(iteration, settings.specialty, artifact_folder(home))
    remember(file, given, planned.source)
    return settings


def refuse_other_adjustments(home: Path, iteration: "Iteration", adjustments: Mapping[str, float]) -> None:
    """Raise MedcodeError if `next` is given adjustments for an iteration that was drawn without them."""
    from medcode_assets.artifacts import made

    drawn = made(artifact_folder(home)(iteration.key, "samples")) or {}
    if adjustments and adjustments != drawn.get("adjustments"):
        raise MedcodeError(
            f"iteration {iteration.key} is not finished, and was drawn with other adjustments; finish it with "
            f"`medcode specialty next --name {iteration.name}{_where(home)}`, then give these to the next one"
        )


def print_status(home: Path, name: str) -> None:
    """Print a table of a training's iterations. Raises MedcodeError if there is none."""
    require_assets_extra()
    from medcode_assets.artifacts import made
    from medcode_assets.recipes.specialty.iterations import finished
    from medcode_assets.recipes.specialty.progress import read_step
    from medcode_assets.recipes.specialty.sample_files import read_statistics

    iterations, folder = started_iterations(home, name), artifact_folder(home)
    if not iterations:
        raise MedcodeError(f"--name {name}: no iteration in {home}; begin with `{_begin(home, name)}`")
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
    last = iterations[-1]
    there = [artifact for artifact in SHOWN if made(folder(last.key, artifact))]
    typer.echo(f"\nFiles:      {folder(last.key, '')}: {', '.join(there)}")
    goes_on = "The next one" if finished(last, folder) else "Not finished"
    typer.echo(f"{goes_on}: medcode specialty next --name {name}{_where(home)}")


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
    """Materialize an iteration to the end, a line an asset on stderr.

    One that is killed on the way, or has no recommendations, is not finished (`iterations.finished`): `next` goes on
    with it. One that only cannot be published is.
    """
    from medcode_assets.pipeline import materialize_words, open_instance
    from medcode_assets.recipes.specialty.iterations import begin, end

    results, export = LAST
    with open_instance(home) as instance:
        typer.echo(f"{RECIPE}: iteration {iteration.key}, state in {home}", err=True)
        begin(iteration, artifact_folder(home))
        materialize_words(instance, home, RECIPE, results, iteration.key, settings, drop_existing=drop_existing)
        try:
            # What follows is made anew where this changed it.
            materialize_words(instance, home, RECIPE, export, iteration.key, settings)
        except Exception:
            end(iteration, artifact_folder(home))
            raise
        end(iteration, artifact_folder(home))


def _begin(home: Path, name: str) -> str:
    return f"medcode specialty run --name {name} --source DIR{_where(home)}"


def _where(home: Path) -> str:
    """Return the flag that names the state folder to the next command, where it does not find it by itself."""
    return "" if home == medcode_home() else f" --output-dir {home}"
