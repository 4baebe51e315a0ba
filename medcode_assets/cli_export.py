"""The commands of `medcode` that make GGUF files and look at them."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medcode_assets.cli_options import (
    BaseModel,
    Config,
    DropExisting,
    MimicDirIfAny,
    Name,
    NumPatients,
    ReleaseIfAny,
    Set,
)
from medcode_assets.cli_serving import Device, OutputDir
from medcode_serving.errors import MedcodeError
from medcode_serving.home import medcode_home

app = typer.Typer()

FAILED = 1
"""Exit code where a file does not answer as the model does."""

F1Notes = Annotated[
    int | None,
    typer.Option("--f1-notes", min=0, help="Validation notes on which file and model are scored; 0: none are."),
]


@app.command()
def export(
    format_: Annotated[Literal["gguf"], typer.Option("--format", help="What is made.")] = "gguf",
    quantization: Annotated[
        list[str] | None,
        typer.Option(
            "--quantization", help="f32, f16, bf16, q8_0, q6_k, q5_k_m or q4_k_m; repeatable. As settings say if none."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder for the files; the bundle's own gguf/ if not given.")
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", help="Whose bundle.")] = "icd",
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Folder of a bundle; the one that LATEST names if not given.")
    ] = None,
    version: Annotated[str | None, typer.Option("--version", help="Version of a bundle in --output-dir.")] = None,
    f1_notes: F1Notes = None,
    lm_studio: Annotated[
        Path | None, typer.Option("--lm-studio", help="LM Studio's folder of models: the files are put there, too.")
    ] = None,
    lora: Annotated[
        bool, typer.Option("--lora", help="Also the adapter alone, for the base model's GGUF file.")
    ] = False,
    mimic_dir: MimicDirIfAny = None,
    dataset_version: ReleaseIfAny = None,
    name: Name = None,
    num_patients: NumPatients = None,
    config: Config = None,
    output_dir: OutputDir = None,
    base_model: BaseModel = None,
    device: Device = None,
    set_: Set = None,
    drop_existing: DropExisting = False,
) -> None:
    """A bundle to verified GGUF files; with --mimic-dir, all that comes before it, too."""
    from medcode_assets.commands import run_stage
    from medcode_assets.config import load_settings, parse_assignments
    from medcode_assets.export_command import choose_bundle, export_bundle

    home = output_dir or medcode_home()
    from medcode_assets.export.quantizations import quantization as known

    names = [known(name).name for name in quantization or ()]
    flags: dict[str, Any] = {"export.quantizations": names or None, "export.f1_notes": f1_notes}
    if mimic_dir is None:
        _refuse(
            "needs --mimic-dir; without it, a bundle that is there is exported",
            {
                "--dataset-version": dataset_version,
                "--name": name,
                "--num-patients": num_patients,
                "--base-model": base_model,
                "--device": device,
            },
        )
        settings = load_settings(config, {**_given(flags), **parse_assignments(set_ or [])})
        chosen = choose_bundle(home, recipe, bundle, version)
        if not export_bundle(settings, home, chosen, output=output, lm_studio=lm_studio, lora=lora, anew=drop_existing):
            raise typer.Exit(FAILED)
        return
    _refuse(
        "is for a bundle that is there; leave --mimic-dir out",
        {
            "--output": output,
            "--bundle": bundle,
            "--version": version,
            "--lm-studio": lm_studio,
            "--lora": lora or None,
        },
    )
    if dataset_version is None:
        raise MedcodeError("export: --mimic-dir needs --dataset-version")
    flags |= {"data.num_patients": num_patients, "model.base": base_model, "compute.device": device}
    run_stage(
        "export",
        home=home,
        mimic_dir=mimic_dir,
        release=dataset_version,
        name=name,
        config=config,
        flags=_given(flags),
        assignments=set_ or [],
        drop_existing=drop_existing,
    )


@app.command("verify-export")
def verify_export(
    file: Annotated[Path, typer.Argument(help="A GGUF file, or a folder of them with its manifest.json.")],
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Folder of the bundle; the one that the file names if not given.")
    ] = None,
    f1_notes: F1Notes = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the reports as JSON.")] = False,
    config: Config = None,
    output_dir: OutputDir = None,
    set_: Set = None,
) -> None:
    """Hold GGUF files against the model that they were made from; exit code 1 if they answer otherwise."""
    from medcode_assets.config import load_settings, parse_assignments
    from medcode_assets.export_command import verify

    flags = _given({"export.f1_notes": f1_notes})
    settings = load_settings(config, {**flags, **parse_assignments(set_ or [])})
    if not verify(settings, output_dir or medcode_home(), file, bundle, as_json=json_):
        raise typer.Exit(FAILED)


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flags.items() if value is not None}


def _refuse(why: str, flags: dict[str, Any]) -> None:
    """Raise MedcodeError if one of these flags was given."""
    for flag in _given(flags):
        raise MedcodeError(f"export: {flag} {why}")
