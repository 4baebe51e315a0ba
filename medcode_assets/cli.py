"""The `medcode` command. Heavy imports happen inside the commands: `medcode --help` answers at once."""

import atexit
import logging
import os
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medcode_assets import (
    cli_codes,
    cli_config,
    cli_consult,
    cli_data,
    cli_export,
    cli_medqa,
    cli_reasoning,
    cli_recipes,
    cli_serving,
    cli_specialty,
    cli_synth,
)
from medcode_assets.cli_options import (
    BaseModel,
    Config,
    DropExisting,
    MimicDir,
    MimicDirIfAny,
    Name,
    NumPatients,
    Release,
    ReleaseIfAny,
    Set,
)
from medcode_assets.cli_serving import Device, OutputDir
from medcode_serving.errors import MedcodeError
from medcode_serving.home import medcode_home

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fine-tune small language models that read clinical text and answer with medical codes, and serve them.",
)

USER_MISTAKE = 2
"""Exit code for whatever the user can mend."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def main() -> None:
    """Run the command line: a user's mistake is one line on stderr and exit code 2."""
    # Chosen before any library reads them: no telemetry, and no progress bars beside our own.
    for name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # Libraries warning their own authors: transformers of its own names, peft of a base model loaded from a folder.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="peft")
    # Of a faster kernel that it would fetch from the hub; whatever uses 4 bits works without.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        app()
    except MedcodeError as error:
        typer.echo(f"medcode: {error}", err=True)
        _leave(USER_MISTAKE)
    except SystemExit as leaving:
        _leave(leaving.code if isinstance(leaving.code, int) else 0)
    except BaseException as error:
        # Dagster turns Ctrl-C into an exception of its own, outside Exception.
        if not isinstance(error, KeyboardInterrupt) and type(error).__name__ != "DagsterExecutionInterruptedError":
            raise
        typer.echo("medcode: interrupted; the same command goes on from here", err=True)
        _leave(INTERRUPTED)


def _leave(code: int) -> None:
    """End the process after its exit handlers, without tearing the interpreter down.

    With torch and Dagster loaded, DuckDB's bindings outlive the teardown and print forty lines about leaks.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _materialize(
    stage: str,
    mimic_dir: Path,
    dataset_version: str,
    name: str | None,
    num_patients: int | None,
    config: Path | None,
    output_dir: Path | None,
    base_model: str | None,
    device: str | None,
    assignments: list[str] | None,
    drop_existing: bool,
) -> None:
    from medcode_assets.commands import run_stage

    flags = {"data.num_patients": num_patients, "model.base": base_model, "compute.device": device}
    run_stage(
        stage,
        home=output_dir or medcode_home(),
        mimic_dir=mimic_dir,
        release=dataset_version,
        name=name,
        config=config,
        flags={key: value for key, value in flags.items() if value is not None},
        assignments=assignments or [],
        drop_existing=drop_existing,
    )


def _stage_command(stage: str, purpose: str) -> None:
    """Add a command that materializes one stage of the graph."""

    def command(
        mimic_dir: MimicDir,
        dataset_version: Release,
        name: Name = None,
        num_patients: NumPatients = None,
        config: Config = None,
        output_dir: OutputDir = None,
        base_model: BaseModel = None,
        device: Device = None,
        set_: Set = None,
        drop_existing: DropExisting = False,
    ) -> None:
        _materialize(
            stage,
            mimic_dir,
            dataset_version,
            name,
            num_patients,
            config,
            output_dir,
            base_model,
            device,
            set_,
            drop_existing,
        )

    app.command(stage, help=purpose)(command)


_stage_command("run", "The whole job: from MIMIC's files to a published bundle and its GGUF files.")
_stage_command("prepare", "MIMIC's files to raw tables, cohort, facts, splits and examples.")
_stage_command("tokenize", "`prepare`, and the examples to token ids.")
_stage_command("search", "`tokenize`, and short trainings that look for better settings of the adapter.")
_stage_command("train", "`tokenize`, and a LoRA adapter from them.")


@app.command()
def evaluate(
    mimic_dir: MimicDirIfAny = None,
    dataset_version: ReleaseIfAny = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--compare",
            metavar="A B",
            help="Instead: paired differences of two evaluations. Each is a bundle version (its beginning is enough) "
            "or `latest`; VERSION:ENGINE names a baseline.",
        ),
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", help="With --compare: whose evaluations.")] = "icd",
    name: Name = None,
    num_patients: NumPatients = None,
    config: Config = None,
    output_dir: OutputDir = None,
    base_model: BaseModel = None,
    device: Device = None,
    set_: Set = None,
    drop_existing: DropExisting = False,
) -> None:
    """`train`, and the adapter measured beside the baselines, with a report; or compare two evaluations."""
    if compare is not None:
        from medcode_assets.commands import compare_evaluations

        compare_evaluations(output_dir or medcode_home(), recipe, *compare)
        return
    if mimic_dir is None or dataset_version is None:
        raise MedcodeError("evaluate: give --mimic-dir and --dataset-version, or --compare A B")
    _materialize(
        "evaluate",
        mimic_dir,
        dataset_version,
        name,
        num_patients,
        config,
        output_dir,
        base_model,
        device,
        set_,
        drop_existing,
    )


versions = typer.Typer(no_args_is_help=True, help="MIMIC versions: each is a partition of every asset.")
app.add_typer(versions, name="versions")


@versions.command("add")
def versions_add(
    mimic_dir: MimicDir, dataset_version: Release, name: Name = None, output_dir: OutputDir = None
) -> None:
    """Register a MIMIC folder as a version, for materializing in the Dagster UI."""
    from medcode_assets.commands import add_mimic_version

    add_mimic_version(output_dir or medcode_home(), mimic_dir, dataset_version, name)


@versions.command("list")
def versions_list(output_dir: OutputDir = None) -> None:
    """Show the registered versions and how many assets each has."""
    from medcode_assets.commands import list_mimic_versions

    list_mimic_versions(output_dir or medcode_home())


@versions.command("remove")
def versions_remove(
    name: Annotated[str, typer.Argument(help="Name of the version, as `medcode versions list` shows it.")],
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Delete its warehouse and artifacts, too; never MIMIC's own files.")
    ] = False,
    output_dir: OutputDir = None,
) -> None:
    """Forget a version; published bundles stay."""
    from medcode_assets.commands import remove_mimic_version

    remove_mimic_version(output_dir or medcode_home(), name, delete_data=delete_data)


class DemoRecipe(StrEnum):
    """What a demo can show."""

    ICD = "icd"
    REASONING = "reasoning"
    CONSULT = "consult"
    MEDQA = "medqa"
    SPECIALTY = "specialty"


@app.command()
def demo(
    recipe: Annotated[DemoRecipe, typer.Option("--recipe", help="Which recipe is shown.")] = DemoRecipe.ICD,
    output_dir: OutputDir = None,
    admissions: Annotated[int, typer.Option(min=200, help="Recipe icd: synthetic admissions.")] = 5000,
) -> None:
    """A recipe on synthetic data with the embedded base model, ending with a served prediction."""
    home = output_dir or medcode_home()
    if recipe is DemoRecipe.REASONING:
        from medcode_assets.reasoning_demo import run_reasoning_demo

        run_reasoning_demo(home)
        return
    if recipe is not DemoRecipe.ICD:
        from medcode_assets.words_demo import run_words_demo

        run_words_demo(home, recipe.value)
        return
    from medcode_assets.demo import run_demo

    run_demo(home, admissions=admissions)


@app.command()
def plan(
    base_model: BaseModel = None,
    config: Config = None,
    device: Device = None,
    set_: Set = None,
    tokens: Annotated[
        int | None, typer.Option(min=2, help="Tokens of a typical note or question, with its answer.")
    ] = None,
    longest: Annotated[int | None, typer.Option(min=2, help="Tokens of the longest one.")] = None,
    examples: Annotated[int | None, typer.Option(min=1, help="Notes or questions an epoch.")] = None,
    answer: Annotated[int | None, typer.Option(min=1, help="Tokens of an answer.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Partition whose tokens are counted; the last written if not given.")
    ] = None,
    output_dir: OutputDir = None,
) -> None:
    """Show how much memory a training takes, what fits on which GPU, and about how long and dear it is there.

    --config takes the settings of any recipe. Lengths are those of its tokens asset, or what its settings let expect.
    """
    from medcode_assets.config import parse_assignments
    from medcode_assets.config_check import load_training_settings
    from medcode_assets.planning_command import print_plan

    flags = {key: value for key, value in (("model.base", base_model), ("compute.device", device)) if value is not None}
    settings = load_training_settings(config, {**flags, **parse_assignments(set_ or [])})
    home = output_dir or medcode_home()
    print_plan(settings, home, tokens=tokens, longest=longest, examples=examples, answer=answer, name=name)


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 3000,
    config: Config = None,
    output_dir: OutputDir = None,
) -> None:
    """Start the Dagster UI (webserver and daemon) on the project's instance."""
    from medcode_assets.commands import start_ui

    start_ui(output_dir or medcode_home(), host, port, config)


app.add_typer(cli_data.data, name="data")
app.add_typer(cli_codes.app, name="codes")
app.add_typer(cli_config.app, name="config")
app.add_typer(cli_consult.app, name="consult")
app.add_typer(cli_export.app)
app.add_typer(cli_medqa.app, name="medqa")
app.add_typer(cli_reasoning.app, name="reasoning")
app.add_typer(cli_recipes.app)
app.add_typer(cli_serving.app)
app.add_typer(cli_serving.keys, name="keys")
app.add_typer(cli_specialty.app, name="specialty")
app.add_typer(cli_synth.app)
