"""The command `medcode recipes`."""

import typer

from medcode_assets.cli_serving import OutputDir
from medcode_serving.home import medcode_home

app = typer.Typer()


@app.command()
def recipes(output_dir: OutputDir = None) -> None:
    """List the recipes: what each learns, its stages and sources, and what of it is made already."""
    from medcode_assets.recipes_command import print_recipes

    print_recipes(output_dir or medcode_home())
