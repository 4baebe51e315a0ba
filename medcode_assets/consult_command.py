"""What `medcode consult run`, `ratings` and `check` do, once their flags are read."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from medcode_assets.commands import refuse_name, require_assets_extra
from medcode_serving.errors import MedcodeError
from medcode_serving.home import medcode_home

if TYPE_CHECKING:
    from medcode_assets.recipes.consult.settings import ConsultSettings

RECIPE = "consult"
RESULTS = ("comparison", "rating_sheet")
"""Assets that are made first: they are to be had even if the bundle is not published."""
EXPORT = "gguf"
ANSWER_COLUMNS = ("Doctor", "text", "answer")
"""Where answers are looked for if no column is named."""


def run_consult(
    home: Path,
    name: str,
    config: Path | None,
    flags: dict[str, Any],
    *,
    drop_existing: bool = False,
) -> None:
    """Materialize the recipe for a set of conversations and print what came of it.

    Raises:
        MedcodeError: as `load_consult_settings` and the assets do, or the name is none for a partition. A source that
            cannot be read is told here, before a base model is fetched and a partition is made.
    """
    refuse_name(name)
    require_assets_extra()
    from medcode_assets.recipes.consult.settings import load_consult_settings
    from medcode_assets.recipes.consult.sources import read_conversations

    settings = load_consult_settings(config, flags)
    read_conversations(settings.consult, home / "cache" / "datasets")
    materialize_conversations(home, name, settings, drop_existing=drop_existing)


def materialize_conversations(
    home: Path, name: str, settings: "ConsultSettings", *, drop_existing: bool = False
) -> None:
    """Materialize the recipe to its end, a line an asset on stderr; print the results before it is published."""
    from medcode_assets.pipeline import materialize_words, open_instance

    with open_instance(home) as instance:
        typer.echo(f"{RECIPE}: conversations {name}, state in {home}", err=True)
        materialize_words(instance, home, RECIPE, RESULTS, name, settings, drop_existing=drop_existing)
        print_results(home, name)
        # Made anew as far as what it comes from is; else the results would be made twice.
        materialize_words(instance, home, RECIPE, EXPORT, name, settings)
    print_published(home, name)


def print_results(home: Path, name: str) -> None:
    """Print the comparison of a set of conversations, and where the rating sheet is."""
    from medcode_assets.recipes.consult.rating import SHEET
    from medcode_assets.recipes.words.measuring import read_word_report, word_table

    artifacts = home / "artifacts" / RECIPE / name
    typer.echo("\n" + word_table(read_word_report(artifacts / "comparison")))
    typer.echo(f"\nData set:   {artifacts / 'converted' / 'dataset'}")
    typer.echo(
        f"For raters: {artifacts / 'rating_sheet' / SHEET}; then medcode consult ratings --name {name} FILE FILE"
    )


def print_published(home: Path, name: str) -> None:
    """Print which bundle of a set of conversations was published, its GGUF files, and how to serve it."""
    from medcode_assets.demo import newest_bundle
    from medcode_serving.bundle import GGUF

    bundle = newest_bundle(home, RECIPE, name)
    where = "" if home == medcode_home() else f" --output-dir {home}"
    typer.echo(f"\nPublished:  {bundle}")
    typer.echo(f"GGUF files: {bundle / GGUF} (README.md there says how to use them)")
    typer.echo(f"Serve it:   medcode serve --recipe {RECIPE}{where}")


def print_ratings(home: Path, name: str, files: Sequence[Path]) -> None:
    """Print what rating sheets come to. Raises MedcodeError if one is wrong, or there are fewer than two."""
    require_assets_extra()
    from medcode_assets.recipes.consult.rating import read_key
    from medcode_assets.recipes.consult.ratings import rating_results, read_ratings, results_text

    key = read_key(home / "artifacts" / RECIPE / name / "rating_sheet")
    typer.echo(results_text(rating_results([read_ratings(file, key) for file in files], key)))


def print_structure(file: Path, column: str | None, show: int) -> bool:
    """Print how many answers are valid lists and why others are not; return whether all are.

    Raises:
        MedcodeError: the file cannot be read, or has no such column.
    """
    require_assets_extra()
    from medcode_assets.recipes.consult.structure import check_structure

    kinds: Counter[str] = Counter()
    valid = total = shown = 0
    for place, text in _answers(file, column):
        total += 1
        problems = check_structure(text).problems
        valid += not problems
        kinds.update(re.sub(r"\d[\d.]*%?", "N", problem) for problem in problems)
        if problems and shown < show:
            shown += 1
            typer.echo("\n".join(f"{place}: {problem}" for problem in problems))
    typer.echo(f"{valid:,} of {total:,} answers are valid hierarchical lists ({valid / max(total, 1):.1%})")
    for problem, count in kinds.most_common():
        typer.echo(f"  {count:>6,}  {problem}")
    return valid == total


def _answers(file: Path, column: str | None) -> Iterator[tuple[str, str]]:
    """Yield each answer of a file with its place. A text file is one answer."""
    from medcode_assets.recipes.consult.files import file_rows
    from medcode_assets.recipes.consult.sources import dataset_rows

    if file.suffix.lower() in {".txt", ".md"}:
        try:
            yield str(file), file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MedcodeError(f"{file}: cannot be read as text in UTF-8 ({type(error).__name__})") from None
        return
    if not file.exists():
        raise MedcodeError(f"{file}: nothing there; name a file or the folder of a data set")
    columns = (column,) if column else ()
    rows = dataset_rows(file, columns) if file.is_dir() else file_rows(file, columns)
    for place, row in rows:
        name = column or next((one for one in ANSWER_COLUMNS if one in row), None)
        if name is None:
            raise MedcodeError(f"{place}: no column {', '.join(ANSWER_COLUMNS)}; name the answers' with --column")
        value = row[name]
        if value is not None and not isinstance(value, str):
            raise MedcodeError(f"{place}: column {name} holds a {type(value).__name__}; name another with --column")
        yield place, value or ""
