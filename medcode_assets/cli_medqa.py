"""The commands `medcode medqa ...`: recipe `medqa`, from its questions to a bundle."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medcode_assets.cli_options import BaseModel, DropExisting, Set
from medcode_assets.cli_serving import OutputDir
from medcode_serving.home import medcode_home

app = typer.Typer(no_args_is_help=True, help="Recipe `medqa`: questions of medical exams.")

MedqaConfig = Annotated[
    Path | None, typer.Option("--config", help="Settings of the recipe; config/medqa.yaml if not given.")
]
Name = Annotated[str, typer.Option("--name", help="Name of the questions, their partition in Dagster.")]

Source = Annotated[
    str | None,
    typer.Option(
        "--source", help="A hub id, a JSON, JSONL, parquet or arrow file, a folder named by splits, or `synthetic`."
    ),
]


class TaskName(StrEnum):
    """What the answers are to be."""

    choices = "choices"
    open = "open"
    reasoning = "reasoning"


class ModeName(StrEnum):
    """How a model is trained."""

    qlora = "qlora"
    lora = "lora"
    full = "full"


def _assigned(source: str | None, base_model: str | None) -> list[str]:
    """Return options that stand for settings as `--set` takes them."""
    given = {"medqa.source": source, "model.base": base_model}
    return [f"{setting}={json.dumps(value)}" for setting, value in given.items() if value is not None]


@app.command()
def run(
    name: Name = "exams",
    source: Source = None,
    base_model: BaseModel = None,
    config: MedqaConfig = None,
    output_dir: OutputDir = None,
    set_: Set = None,
    drop_existing: DropExisting = False,
) -> None:
    """The whole recipe: questions, adapter, evaluation, errors, brevity, a published bundle and its GGUF files."""
    from medcode_assets.medqa_command import run_medqa

    assignments = [*_assigned(source, base_model), *(set_ or [])]
    run_medqa(output_dir or medcode_home(), name, config, assignments, drop_existing=drop_existing)


@app.command()
def search(
    name: Name = "exams",
    source: Source = None,
    base_model: BaseModel = None,
    config: MedqaConfig = None,
    output_dir: OutputDir = None,
    set_: Set = None,
    drop_existing: DropExisting = False,
) -> None:
    """Short trainings that look for better settings of the adapter; go on, or add more with --set search.trials=N."""
    from medcode_assets.medqa_command import search_medqa

    assignments = [*_assigned(source, base_model), *(set_ or [])]
    search_medqa(output_dir or medcode_home(), name, config, assignments, drop_existing=drop_existing)


@app.command()
def models(
    memory_gb: Annotated[float, typer.Option("--memory-gb", min=0.1, help="Memory of the device, in GiB.")] = 24.0,
    task: Annotated[TaskName, typer.Option("--task", help="What the answers are to be.")] = TaskName.choices,
    mode: Annotated[ModeName, typer.Option("--mode", help="How the model is trained.")] = ModeName.qlora,
    tokens: Annotated[int, typer.Option("--tokens", min=32, help="Tokens of an example, answer included.")] = 512,
    commercial: Annotated[
        bool, typer.Option("--commercial", help="Leave out models whose licence forbids commercial use.")
    ] = False,
    config: MedqaConfig = None,
    set_: Set = None,
) -> None:
    """Rank base models: which fit the memory, and which of these promise most. Takes a minute or two."""
    from medcode_assets.medqa_command import print_models

    print_models(memory_gb, task.value, mode.value, tokens, config, set_ or [], commercial=commercial)


@app.command()
def check(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="File or folder of MedMCQA's shape, a hub id, or `synthetic`.")
    ],
    config: MedqaConfig = None,
    output_dir: OutputDir = None,
    set_: Set = None,
) -> None:
    """Read a source as a training would, and say what comes of it: splits, subjects, rows left out and why."""
    from medcode_assets.medqa_command import check_questions

    check_questions(output_dir or medcode_home(), file, config, set_ or [])
