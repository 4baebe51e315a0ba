"""Options that several commands of `medcode` share."""

from pathlib import Path
from typing import Annotated

import typer

MimicDir = Annotated[Path, typer.Option("--mimic-dir", help="Folder with MIMIC's CSV files, at any depth.")]
MimicDirIfAny = Annotated[Path | None, typer.Option("--mimic-dir", help="Folder with MIMIC's CSV files, at any depth.")]
Release = Annotated[
    str, typer.Option("--dataset-version", help="Release: mimic-iii, mimic-iv, or with its number: mimic-iv-3.1.")
]
ReleaseIfAny = Annotated[
    str | None, typer.Option("--dataset-version", help="Release: mimic-iii, mimic-iv, or with its number.")
]
Name = Annotated[
    str | None, typer.Option("--name", help="Name of this MIMIC version (its partition); from the folder if not given.")
]
NumPatients = Annotated[
    int | None,
    typer.Option("--num-patients", "--num-samples", min=0, help="Patients at most, those with a note first; 0: all."),
]
Config = Annotated[
    Path | None, typer.Option("--config", help="Training settings; config/training-config.yaml if not given.")
]
BaseModel = Annotated[
    str | None, typer.Option("--base-model", help="Hugging Face id, local folder, or `embedded` (ships with medcode).")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Any training setting, as section.field=value; repeatable.")
]
DropExisting = Annotated[bool, typer.Option("--drop-existing", help="Make everything anew, even if unchanged.")]
