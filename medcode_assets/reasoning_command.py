"""What `medcode reasoning run` does, once its flags are read."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medcode_assets.commands import print_evaluation, refuse_name, require_assets_extra
from medcode_assets.config import parse_assignments

if TYPE_CHECKING:
    from medcode_assets.recipes.reasoning.settings import StageSettings

RECIPE = "reasoning"


def run_reasoning(
    home: Path,
    name: str,
    stage: int | None,
    config_dir: Path | None,
    assignments: list[str],
    *,
    drop_existing: bool = False,
) -> None:
    """Materialize the recipe for a corpus, up to a stage or to the end, and print what came of it.

    Raises:
        MedcodeError: as `load_stage_settings` and `materialize_reasoning` do, or the name is none for a partition.
    """
    refuse_name(name)
    require_assets_extra()
    from medcode_assets.recipes.reasoning.settings import load_stage_settings

    settings = load_stage_settings(config_dir, parse_assignments(assignments))
    materialize_corpus(home, name, f"stage_{stage}" if stage else "gguf", settings, drop_existing=drop_existing)
    if not stage:
        print_stages(home, name)
        print_evaluation(home, name, RECIPE)


def materialize_corpus(
    home: Path, name: str, last: str, settings: "Mapping[int, StageSettings]", *, drop_existing: bool = False
) -> None:
    """Materialize the recipe up to an asset, a line an asset on stderr."""
    from medcode_assets.pipeline import materialize_reasoning, open_instance

    with open_instance(home) as instance:
        typer.echo(f"reasoning: corpus {name}, state in {home}", err=True)
        for wanted in dict.fromkeys(("stages", last)) if last == "gguf" else (last,):
            materialize_reasoning(instance, home, wanted, name, settings, drop_existing=drop_existing)


def print_stages(home: Path, name: str) -> None:
    """Print the comparison of a corpus's stages."""
    from medcode_assets.recipes.reasoning.comparing import COMPARISON, PAGE
    from medcode_assets.recipes.reasoning.comparison import comparison_table, read_comparison

    folder = home / "artifacts" / RECIPE / name / "stages"
    typer.echo("\n" + comparison_table(read_comparison(folder / COMPARISON)))
    typer.echo(f"\nStages:     {folder / PAGE}")


def dry_run_reasoning(home: Path, stage: int | None, config_dir: Path | None, assignments: list[str]) -> None:
    """Rehearse stages and print what each would take. Raises MedcodeError as `rehearse_stage` does."""
    require_assets_extra()
    from medcode_assets.recipes.reasoning.dry_run import rehearse_stage
    from medcode_assets.recipes.reasoning.recipe import STAGES
    from medcode_assets.recipes.reasoning.settings import load_stage_settings

    settings = load_stage_settings(config_dir, parse_assignments(assignments))
    for found in STAGES:
        if stage in (None, found.number):
            with tempfile.TemporaryDirectory(prefix="medcode-dry-run-") as folder:
                facts = rehearse_stage(found, settings[found.number], Path(folder), home)
            typer.echo(f"{found.name}: {found.learns}")
            for what, value in facts.items():
                typer.echo(f"  {what:<22} {value}")
