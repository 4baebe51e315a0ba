"""`medcode demo --recipe consult|medqa|specialty`: a recipe in words on made data, ending with a served answer."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from medcode_assets.commands import require_assets_extra
from medcode_assets.demo import MEDCODE, newest_bundle, post_json, serving

if TYPE_CHECKING:
    from medcode_assets.config import Settings
    from medcode_assets.recipes.words.questions import Asked

SETTINGS = Path(__file__).parent / "recipes"
PARTITIONS = {"consult": "demo-conversations", "medqa": "demo-questions", "specialty": "demo-specialties-01"}
LAST = {
    "consult": ("comparison", "rating_sheet", "gguf"),
    "medqa": ("errors", "confidence", "brevity", "gguf"),
    "specialty": ("progress", "gguf"),
}
"""Assets that a demo makes last; all that they need comes along."""
NEXT = {
    "specialty": f"  {MEDCODE} specialty next --name demo-specialties   the next iteration: more samples for the weak\n"
}
"""What else to do from here."""


def run_words_demo(home: Path, recipe: str) -> None:
    """Make questions, train the embedded base on them, measure it beside itself untuned, serve it, ask a question."""
    require_assets_extra()
    from medcode_assets.pipeline import materialize_words, open_instance
    from medcode_assets.recipes.words.measuring import read_word_report, word_table
    from medcode_assets.recipes.words.questions import asked_questions
    from medcode_assets.warehouse import open_warehouse

    partition = PARTITIONS[recipe]
    settings = demo_settings(home, recipe)
    with open_instance(home) as instance:
        typer.echo(f"{recipe}: {partition}, state in {home}", err=True)
        materialize_words(instance, home, recipe, LAST[recipe], partition, settings)
    artifacts = home / "artifacts" / recipe / partition
    typer.echo("\n" + word_table(read_word_report(artifacts / "evaluation")))
    with open_warehouse(home / "warehouse" / f"{partition}.duckdb", read_only=True) as con:
        (asked,) = asked_questions(con, recipe, "test", 1)
    with serving(home, newest_bundle(home, recipe, partition), recipe) as address:
        answer = post_json(f"{address}/generate", {"question": asked.question})
    print_answer(asked, answer)
    typer.echo(
        "\nThe API has stopped again. From here:\n"
        f"  {MEDCODE} ui   the Dagster UI, http://127.0.0.1:3000\n"
        f"  {MEDCODE} serve --recipe {recipe}   the API, and a page to try it on\n"
        f"{NEXT.get(recipe, '')}"
        f"Everything measured is in {artifacts}.\n"
        "The model has seen nothing but questions made from templates; others it answers badly. Not for clinical use.\n"
        f"State is in {home}; commands find it there through MEDCODE_HOME or --output-dir."
    )


def demo_settings(home: Path, recipe: str) -> "Settings":
    """Return the settings of a demo; where they belong to a name, they are kept under it for what comes next."""
    from medcode_assets.recipes.specialty.iterations import iteration_of
    from medcode_assets.recipes.systems import WORD_SYSTEMS
    from medcode_assets.specialty_command import settings_of

    config = SETTINGS / recipe / "demo" / f"{recipe}.yaml"
    if recipe == "specialty":
        return settings_of(home, iteration_of(PARTITIONS[recipe]), config, {})
    return WORD_SYSTEMS[recipe].load_settings(config)


def print_answer(asked: "Asked", answer: dict[str, Any]) -> None:
    """Print a question with what the API answered."""
    typer.echo(f"\nA question of the test split, sent to the API (made up, so it may be shown):\n\n{asked.question}\n")
    typer.echo(f"answer of the model:\n{answer['response']}\n")
    typer.echo(f"reference:\n{asked.references[0]}\n")
    safety = answer["safety_report"]
    if safety is not None:
        typer.echo(f"safety: {safety['risk_level']}")
        for warning in safety["warnings"]:
            typer.echo(f"  {warning['message']}")
    typer.echo(
        f"answered by {answer['model']['recipe']} {answer['model']['version']} in {answer['inference_time_ms']:.0f} ms"
    )
