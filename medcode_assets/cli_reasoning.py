"""The commands `medcode reasoning ...`: recipe `reasoning`, from its sources to a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from medcode_assets.cli_options import DropExisting, Set
from medcode_assets.cli_serving import OutputDir
from medcode_serving.home import medcode_home

app = typer.Typer(no_args_is_help=True, help="Recipe `reasoning`: narratives to reasoning and billing codes.")

Configs = Annotated[
    Path | None,
    typer.Option("--config-dir", help="Folder of reasoning-stage-{1,2,3}.yaml; none: the checkout's config/."),
]
StageNumber = Annotated[int | None, typer.Option("--stage", min=1, max=3, help="Stop after this stage; none: do all.")]


@app.callback()
def reasoning() -> None:
    """Keep `medcode reasoning run` two words, whatever the number of commands."""


@app.command()
def run(
    name: Annotated[str, typer.Option("--name", help="Name of the corpus, its partition in Dagster.")] = "narratives",
    stage: StageNumber = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Load everything on a small part of the corpus, tell sizes, tokens, memory and time, and train one "
            "step; nothing is kept.",
        ),
    ] = False,
    config_dir: Configs = None,
    output_dir: OutputDir = None,
    set_: Set = None,
    drop_existing: DropExisting = False,
) -> None:
    """The whole recipe: corpus, three stages, their comparison, evaluation, a published bundle and its GGUF files.

    --set stage_2.training.epochs=3 sets one stage's, --set lora.r=32 all stages'.
    """
    from medcode_assets.reasoning_command import dry_run_reasoning, run_reasoning

    home = output_dir or medcode_home()
    if dry_run:
        dry_run_reasoning(home, stage, config_dir, set_ or [])
    else:
        run_reasoning(home, name, stage, config_dir, set_ or [], drop_existing=drop_existing)
