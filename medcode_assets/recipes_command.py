"""`medcode recipes`: what there is to learn, and what of it is made already."""

from collections.abc import Iterator
from pathlib import Path

import typer

from medcode_assets.artifacts import made
from medcode_assets.commands import require_assets_extra
from medcode_serving.bundle import bundle_versions, is_published, latest_version


def print_recipes(home: Path) -> None:
    """Print each recipe: what it learns, its stages and sources, and what is made of it in a home.

    Raises:
        MedcodeError: medcode is installed for serving only, or LATEST of a recipe cannot be read.
    """
    require_assets_extra()
    from medcode_assets.definitions import RECIPES

    for number, recipe in enumerate(RECIPES):
        if number:
            typer.echo()
        typer.echo(f"{recipe.name}: {recipe.learns}")
        for stage in recipe.stages:
            typer.echo(f"  stage {stage.number}: {stage.learns} ({stage.objective.upper()})")
        typer.echo(f"  sources: {', '.join(key.to_user_string() for key in recipe.sources) or 'its own'}")
        for line in made_of(home, recipe.name):
            typer.echo(f"  {line}")


def made_of(home: Path, recipe: str) -> Iterator[str]:
    """Yield lines on what is made of a recipe: the artifacts of each partition, then its bundles.

    Raises:
        MedcodeError: LATEST cannot be read.
    """
    partitions = {
        folder.name: names
        for folder in sorted((home / "artifacts" / recipe).glob("[!.]*/"))
        if (names := [artifact.name for artifact in sorted(folder.glob("[!.]*/")) if made(artifact) is not None])
    }
    yield from (f"made of {partition}: {', '.join(names)}" for partition, names in partitions.items())
    if not partitions:
        yield f"nothing made yet in {home}"
    versions = bundle_versions(home / "bundles", recipe)
    if versions:
        published = latest_version(home / "bundles", recipe) if is_published(home / "bundles", recipe) else "none"
        yield f"bundles: {', '.join(versions)}; LATEST: {published}"
