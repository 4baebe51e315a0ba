"""The commands `medcode specialty ...`: progressive training on questions of medical specialties."""

from pathlib import Path
from typing import Annotated

import typer

from medcode_assets.cli_options import BaseModel, DropExisting, Set
from medcode_assets.cli_serving import OutputDir
from medcode_serving.home import medcode_home

app = typer.Typer(
    no_args_is_help=True, help="Recipe `specialty`: specialty questions, the weak specialties get more of them."
)

ProgressName = Annotated[
    str, typer.Option("--name", help="Name of the progressive training; its iterations are partitions NAME-01, ….")
]
SpecialtyConfig = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Settings of the recipe; if not given, those given under this name before, else config/specialty.yaml.",
    ),
]
Source = Annotated[
    str | None,
    typer.Option(
        "--source",
        help="Folder of dataset_with_answers_{specialty}.json files, or `synthetic`; needed once, for iteration 1.",
    ),
]


@app.command()
def run(
    name: ProgressName = "specialties",
    source: Source = None,
    base_model: BaseModel = None,
    config: SpecialtyConfig = None,
    output_dir: OutputDir = None,
    set_: Set = None,
    drop_existing: DropExisting = False,
) -> None:
    """Make the current iteration, the first if there is none: samples to bundle, results, advice; skip what is made.

    What is given is remembered under the name: later commands need no --source, --base-model, --config or --set.
    """
    from medcode_assets.specialty_command import run_specialty

    run_specialty(
        output_dir or medcode_home(),
        name,
        source,
        config,
        set_ or [],
        base_model=base_model,
        drop_existing=drop_existing,
    )


@app.command(name="next")
def next_(
    name: ProgressName = "specialties",
    config: SpecialtyConfig = None,
    output_dir: OutputDir = None,
    set_: Set = None,
) -> None:
    """Make the next iteration: the weak specialties' training samples grow as recommended, or as --set says.

    If the last iteration is not finished, go on with it. Settings are those given under the name before.
    --set 'specialty.adjustments={cardiology: 1.5}' wins over the recommendation for cardiology.
    """
    from medcode_assets.specialty_command import next_specialty

    next_specialty(output_dir or medcode_home(), name, config, set_ or [])


@app.command()
def status(name: ProgressName = "specialties", output_dir: OutputDir = None) -> None:
    """Show the iterations: samples, the measure of both models, improvement, weak specialties."""
    from medcode_assets.specialty_command import print_status

    print_status(output_dir or medcode_home(), name)
