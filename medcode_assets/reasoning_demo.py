"""`medcode demo --recipe reasoning`: three stages on narratives made from templates, ending with a served answer."""

from pathlib import Path
from typing import Any

import typer

from medcode_assets.commands import print_evaluation, require_assets_extra
from medcode_assets.demo import MEDCODE, newest_bundle, post_json, serving
from medcode_assets.reasoning_command import RECIPE, materialize_corpus, print_stages

SETTINGS = Path(__file__).parent / "recipes" / "reasoning" / "demo"
CORPUS = "demo-narratives"


def run_reasoning_demo(home: Path) -> None:
    """Make a corpus from templates, train the three stages, compare them, serve the bundle, ask it one narrative."""
    require_assets_extra()
    from medcode_assets.recipes.reasoning.asking import asked_narratives
    from medcode_assets.recipes.reasoning.settings import load_stage_settings
    from medcode_assets.warehouse import open_warehouse

    materialize_corpus(home, CORPUS, "gguf", load_stage_settings(SETTINGS))
    print_evaluation(home, CORPUS, RECIPE)
    print_stages(home, CORPUS)
    with open_warehouse(home / "warehouse" / f"{CORPUS}.duckdb", read_only=True) as con:
        asked = asked_narratives(con, 1)[0]
    with serving(home, newest_bundle(home, RECIPE, CORPUS), RECIPE) as address:
        answer = post_json(f"{address}/predict", {"text": asked.narrative})
    _print_answer(asked.narrative, asked.system, asked.code, answer)
    typer.echo(
        "\nThe API has stopped again. From here:\n"
        f"  {MEDCODE} ui   the Dagster UI, http://127.0.0.1:3000\n"
        f"  {MEDCODE} serve --recipe {RECIPE}   the API, and a page to try it on\n"
        f"  {MEDCODE} recipes   what is made\n"
        "The model has seen nothing but narratives from templates like the one above; others it codes badly.\n"
        f"State is in {home}; commands find it there through MEDCODE_HOME or --output-dir."
    )


def _print_answer(narrative: str, system: str, code: str, answer: dict[str, Any]) -> None:
    typer.echo(f"\nA narrative of the test split, sent to the API (synthetic, so it may be shown):\n\n{narrative}\n")
    typer.echo(f"reasoning of the model:\n{answer['reasoning'] or '(none)'}\n")
    for found in answer["codes"]:
        described = f"  {found['description']}" if found["description"] else ""
        typer.echo(f"predicted  {found['system']} {found['code']}  {found['probability']:.3f}{described}")
    typer.echo(f"gold       {system} {code}")
    typer.echo(
        f"\nanswered by {answer['model']['recipe']} {answer['model']['version']} "
        f"in {answer['processing_time_ms']:.0f} ms"
    )
