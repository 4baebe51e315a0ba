"""The commands `medcode config`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Settings files: training, inference, and the stages of `reasoning`.")

NOT_VALID = 2
"""Exit code where a file is not valid, as of every command that is given such a file."""


@app.callback()
def _config() -> None:
    """Keep `check` a command of its own."""


@app.command()
def check(files: Annotated[list[Path], typer.Argument(help="YAML files; what they hold tells of which kind.")]) -> None:
    """Validate settings files and list what they set; exit code 2 if one of them is not valid."""
    from medcode_assets.config_check import check_files

    if not check_files(files):
        raise typer.Exit(NOT_VALID)
