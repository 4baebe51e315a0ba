"""What `medcode medqa run`, `models` and `check` do, once their flags are read."""

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medcode_assets.commands import refuse_name, require_assets_extra
from medcode_assets.config import parse_assignments
from medcode_serving.errors import MedcodeError
from medcode_serving.home import medcode_home

if TYPE_CHECKING:
    from medcode_assets.recipes.medqa.choosing import Candidate, Mode, Task
    from medcode_assets.recipes.medqa.settings import MedqaSettings

RECIPE = "medqa"
RESULTS = ("errors", "brevity")
"""Assets that are made first: what they tell is to be had even if the bundle is not published."""
EXPORT = "gguf"


def run_medqa(
    home: Path, name: str, config: Path | None, assignments: list[str], *, drop_existing: bool = False
) -> None:
    """Materialize the recipe for a set of questions and print what came of it.

    Raises:
        MedcodeError: as `load_medqa_settings` and the assets do, or the name is none for a partition.
    """
    refuse_name(name)
    settings = _settings(home, config, assignments)
    materialize_questions(home, name, settings, drop_existing=drop_existing)


def _settings(home: Path, config: Path | None, assignments: list[str]) -> "MedqaSettings":
    """Return the settings. Raises MedcodeError if they are wrong, or their source is not to be had.

    That is told here, before a base model is fetched and a partition is made.
    """
    require_assets_extra()
    from medcode_assets.recipes.medqa.settings import load_medqa_settings
    from medcode_assets.recipes.medqa.sources import find_source

    settings = load_medqa_settings(config, parse_assignments(assignments))
    find_source(settings.medqa, home / "cache" / "datasets")
    return settings


def search_medqa(
    home: Path, name: str, config: Path | None, assignments: list[str], *, drop_existing: bool = False
) -> None:
    """Look for better settings of the adapter and print the best; `--set search.use_best=true` trains with them.

    Raises:
        MedcodeError: as `run_medqa`, or every trial failed.
    """
    refuse_name(name)
    settings = _settings(home, config, assignments)
    from medcode_assets.artifacts import required
    from medcode_assets.pipeline import materialize_words, open_instance
    from medcode_assets.recipes.searching import ASSET

    with open_instance(home) as instance:
        typer.echo(f"{RECIPE}: search over questions {name}, state in {home}", err=True)
        materialize_words(instance, home, RECIPE, ASSET, name, settings, drop_existing=drop_existing)
    best = required(home / "artifacts" / RECIPE / name / ASSET, f"{RECIPE}/{ASSET}")["best"]
    typer.echo("".join(f"\n{setting}: {value:.4g}" for setting, value in best.items()))
    command = run_command(home, name, config, [*assignments, "search.use_best=true"])
    typer.echo(f"\nTrain with them: {command}")


def run_command(home: Path, name: str | None, config: Path | None, assignments: list[str]) -> str:
    """Return the command that makes a set of questions with these settings, as a shell takes it."""
    parts = ["medcode", "medqa", "run"]
    if name is not None:
        parts += ["--name", name]
    if config is not None:
        parts += ["--config", str(config)]
    for assignment in assignments:
        parts += ["--set", assignment]
    if home.resolve() != medcode_home().resolve():
        parts += ["--output-dir", str(home)]
    return shlex.join(parts)


def materialize_questions(home: Path, name: str, settings: "MedqaSettings", *, drop_existing: bool = False) -> None:
    """Materialize the recipe to the end, a line an asset on stderr; print the results before it is exported."""
    from medcode_assets.pipeline import materialize_words, open_instance

    with open_instance(home) as instance:
        typer.echo(f"{RECIPE}: questions {name}, state in {home}", err=True)
        materialize_words(instance, home, RECIPE, RESULTS, name, settings, drop_existing=drop_existing)
        print_results(home, name)
        # Made anew as far as what it comes from is; else the results would be made twice.
        materialize_words(instance, home, RECIPE, EXPORT, name, settings)


def print_results(home: Path, name: str) -> None:
    """Print what a set of questions came to, as far as it is made: measures, confidence, brevity, errors."""
    from medcode_assets.artifacts import made
    from medcode_assets.recipes.medqa.brevity import read_brevity, told_recommendation
    from medcode_assets.recipes.medqa.confidence import read_confidence
    from medcode_assets.recipes.medqa.errors import PAGE, read_errors
    from medcode_assets.recipes.words.measuring import read_word_report, word_table

    folder = home / "artifacts" / RECIPE / name
    if made(folder / "evaluation"):
        typer.echo("\n" + word_table(read_word_report(folder / "evaluation")))
    if made(folder / "confidence"):
        told = read_confidence(folder / "confidence")
        area = "not to be had" if told.auroc is None else f"{told.auroc:.3f}"
        bound = " (where the search ends: no temperature makes these likelihoods a confidence)" if told.at_bound else ""
        typer.echo(
            f"\nConfidence: of the likeliest option: calibration error {told.ece_before:.3f}, {told.ece:.3f} with "
            f"temperature {told.temperature:.2f}{bound}; AUROC of right against wrong {area}"
        )
    if made(folder / "brevity"):
        tried = read_brevity(folder / "brevity")
        typer.echo(
            f"Brevity:    {tried.rows[0].words:.1f} words an answer without control; recommended: "
            f"{told_recommendation(tried)}"
        )
    if made(folder / "errors"):
        found = read_errors(folder / "errors")
        typer.echo(
            f"Errors:     {found.wrong} of {found.answers} answers wrong in what they say (accuracy_generated; "
            f"accuracy is of the likeliest option); {folder / 'errors' / PAGE}"
        )


def print_models(
    memory_gib: float,
    task: "Task",
    mode: "Mode",
    tokens: int,
    config: Path | None,
    assignments: list[str],
    *,
    commercial: bool = False,
) -> None:
    """Print the known base models, those that fit first. Raises MedcodeError as `choose_model` does."""
    require_assets_extra()
    from tqdm import tqdm

    from medcode_assets.progress import step
    from medcode_assets.recipes.medqa.choosing import choose_model, known_models
    from medcode_assets.recipes.medqa.settings import load_medqa_settings

    settings = load_medqa_settings(config, parse_assignments(assignments))
    with tqdm(total=len(known_models()), desc="planning", unit="model", leave=False) as bar:
        found = choose_model(
            memory_gib,
            task,
            mode,
            tokens=tokens,
            training=settings.training,
            lora=settings.lora,
            commercial=commercial,
            on_progress=partial(step, bar),
        )
    typer.echo(
        f"Base models for {task} by {mode}, batch_size {settings.training.batch_size}, examples of {tokens} tokens, on "
        f"a device of {memory_gib:g} GiB:"
    )
    for line in model_lines(found):
        typer.echo(line)
    best = found[0]
    if best.fits:
        chosen = [*assignments, f"model.base={best.model.id}", f"training.mode={mode}"]
        typer.echo(f"\nThe first one: {run_command(medcode_home(), None, config, chosen)}")
    else:
        typer.echo("\nNone fits: lower training.batch_size or --tokens, or take --mode qlora")


def model_lines(found: "list[Candidate]") -> list[str]:
    """Return the table that is printed."""
    width = max(len(one.model.id) for one in found)
    lines = [f"  {'model':<{width}} {'parameters':>10} {'needs':>9}  {'fits':<5}{'context':>8}  licence; good at"]
    for one in found:
        model = one.model
        good = ", ".join((*model.good_at, *(["medicine"] if model.medical else [])))
        lines.append(
            f"  {model.id:<{width}} {f'{model.parameters:g} B':>10} {one.needed_gib:>5.1f} GiB  "
            f"{'yes' if one.fits else 'no':<5}{model.context:>8,}  {model.license}; {good}. {model.note}"
        )
    return lines


def check_questions(home: Path, source: str, config: Path | None, assignments: list[str]) -> None:
    """Read a source as the recipe does and print what comes of it.

    Raises:
        MedcodeError: it cannot be read, or none of its rows can be used.
    """
    require_assets_extra()
    from medcode_assets.recipes.medqa.preparation import REASONS, prepare
    from medcode_assets.recipes.medqa.settings import load_medqa_settings
    from medcode_assets.recipes.medqa.sources import find_source, read_source
    from medcode_assets.recipes.words.questions import SPLITS

    settings = load_medqa_settings(config, {**parse_assignments(assignments), "medqa.source": source}).medqa
    read = read_source(find_source(settings, home / "cache" / "datasets"), settings.cop_base)
    _, facts = prepare(read.rows, settings)
    kept = ", ".join(f"{split} {facts.kept[split]:,}" for split in SPLITS)
    typer.echo(f"{source}: {facts.read:,} rows; options counted from {read.cop_base} ({read.why})")
    typer.echo(f"  questions: {kept} (splits: {facts.splits}); {facts.examples:,} training examples")
    typer.echo(f"  {facts.groups:,} groups of near-identical questions, {facts.open_questions:,} without options")
    for reason, count in facts.dropped.items():
        typer.echo(f"  left out {count:>7,}  {REASONS[reason]}")
    width = max(len(subject) for subject in facts.subjects)
    typer.echo(f"  {'subject':<{width}}" + "".join(f"{split:>12}" for split in SPLITS))
    for subject, counts in sorted(facts.subjects.items(), key=lambda one: (-sum(one[1].values()), one[0])):
        typer.echo(f"  {subject:<{width}}" + "".join(f"{counts[split]:>12,}" for split in SPLITS))
    empty = [split for split in SPLITS if not facts.kept[split]]
    if empty:
        raise MedcodeError(f"{source}: no question in {' and '.join(empty)}; give more rows or larger shares")
