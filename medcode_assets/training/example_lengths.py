"""How many tokens a training's examples have: as they were tokenized, or else as its settings and recipe let expect."""

from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from medcode_assets.config import Settings
from medcode_serving.bundle import FIRST_RECIPE
from medcode_serving.errors import MedcodeError


@dataclass(frozen=True)
class ExampleLengths:
    """Tokens of the examples of an epoch."""

    called: str
    """What is answered: note, question."""
    longest: int
    """Of the longest example, answer included."""
    tokens: int
    """Of a typical one."""
    answer: int
    examples: int
    origin: str
    """Where these numbers come from, in words."""

    @property
    def pairs(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Prompt and answer of the longest and of a typical example."""
        return (self.longest - self.answer, self.answer), (self.tokens - self.answer, self.answer)


def recipe_of(settings: Settings) -> str:
    """Return the recipe that settings are of."""
    return next((recipe for recipe in _usual() if hasattr(settings, recipe)), FIRST_RECIPE)


@cache
def _usual() -> dict[str, dict[str, Any]]:
    text = resources.files(__package__).joinpath("example_lengths.yaml").read_text(encoding="utf-8")
    contents: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return contents


def usual_lengths(settings: Settings) -> ExampleLengths:
    """Return what the settings let expect: a full prompt and a long answer, and the recipe's usual question."""
    recipe = recipe_of(settings)
    usual = _usual()[recipe]
    prompt, answer = settings.data.max_prompt_tokens, int(usual["answer"])
    return ExampleLengths(
        called=usual["called"],
        longest=prompt + answer,
        tokens=min(int(usual["tokens"]), prompt + answer),
        answer=answer,
        examples=_examples(settings, int(usual["examples"])),
        origin=f"data.max_prompt_tokens {prompt:,} and an answer of {answer:,}; usual lengths of recipe {recipe}, for "
        "no tokens are made yet",
    )


def _examples(settings: Any, usual: int) -> int:
    """Return the training examples of an epoch as far as settings tell."""
    recipe = recipe_of(settings)
    section = getattr(settings, recipe, None)
    if section is None or recipe == "specialty":
        return usual
    train = 1 - section.validation_share - section.test_share
    if recipe == "reasoning":
        return max(1, round(section.examples * train))
    made = {"consult": "count", "medqa": "synthetic_questions"}[recipe]
    found = max(1, round(getattr(section, made) * train)) if section.source == "synthetic" else usual
    if recipe == "medqa":
        return (min(section.limit, found) if section.limit else found) * int(section.augmentation)
    return found


def tokenized_lengths(home: Path, settings: Settings, name: str | None = None) -> ExampleLengths | None:
    """Return the lengths of a recipe's training examples as they were tokenized; None where there are none.

    Args:
        home: State folder.
        settings: Of the training; its limit of the prompt holds, whatever it was when these were tokenized.
        name: Partition; None: the one that was written last.

    Raises:
        MedcodeError: a partition was named, and has no tokens or is being written.
    """
    recipe, folder = recipe_of(settings), home / "warehouse"
    files = [folder / f"{name}.duckdb"] if name else sorted(folder.glob("*.duckdb"), key=_written, reverse=True)
    for file in files:
        try:
            row = _measure(file, recipe, settings)
        except MedcodeError:
            if name:
                raise
            continue  # somebody writes to it
        if row:
            longest, tokens, answer, examples = row
            return ExampleLengths(
                called=_usual()[recipe]["called"],
                longest=longest,
                tokens=tokens,
                answer=min(answer, tokens - 1),
                examples=examples,
                origin=f"{recipe}/tokens of {file.stem}, prompts cut at {settings.data.max_prompt_tokens:,}",
            )
    if name:
        raise MedcodeError(f"--name {name}: no {recipe}/tokens there; make them, or leave --name out")
    return None


def _written(file: Path) -> float:
    return file.stat().st_mtime


def _measure(file: Path, recipe: str, settings: Settings) -> tuple[int, int, int, int] | None:
    """Return tokens of the longest and of the median example and of the longest answer, and how many there are."""
    from medcode_assets.warehouse import open_warehouse

    with open_warehouse(
        file,
        read_only=True,
        settings=settings.warehouse.model_copy(update={"wait_minutes": 0.0}),
        purpose="medcode plan",
    ) as con:
        if not con.execute(
            "SELECT 1 FROM duckdb_tables() WHERE schema_name = ? AND table_name = 'tokens'", [recipe]
        ).fetchall():
            return None
        longest, tokens, answer, examples = con.execute(
            "SELECT max(prompt + answer), median(prompt + answer), max(answer), count(*) FROM (SELECT "
            f"least(len(prompt_ids), ?) AS prompt, len(completion_ids) AS answer FROM {recipe}.tokens "
            "WHERE split = 'train')",
            [settings.data.max_prompt_tokens],
        ).fetchall()[0]
    return (int(longest), int(tokens), int(answer), int(examples)) if examples else None


def within(lengths: ExampleLengths, context: int | None, model: str) -> tuple[ExampleLengths, str | None]:
    """Return lengths that a model can read, and in a sentence what was cut; None: nothing.

    Args:
        lengths: As they were found.
        context: Tokens that the model reads; None: any number.
        model: Its name.

    Raises:
        MedcodeError: there is no room for a prompt beside the answer.
    """
    if context is None or lengths.longest <= context:
        return lengths, None
    if lengths.answer >= context:
        raise MedcodeError(
            f"base model {model} reads {context:,} tokens, and an answer has {lengths.answer:,}; set --answer"
        )
    told = (
        f"the longest {lengths.called} would have {lengths.longest:,} tokens, and {model} reads {context:,}: planned "
        f"with these; set data.max_prompt_tokens to {context - lengths.answer} or less, or training refuses such a one"
    )
    return replace(lengths, longest=context, tokens=min(lengths.tokens, context)), told


def as_given(
    lengths: ExampleLengths,
    context: int | None,
    model: str,
    *,
    longest: int | None,
    tokens: int | None,
    answer: int | None,
    examples: int | None,
) -> ExampleLengths:
    """Return lengths with those that a user gave; the others are made to suit them.

    Raises:
        MedcodeError: those that were given do not suit each other, or the model cannot read so many.
    """
    for option, value in (("--longest", longest), ("--tokens", tokens)):
        if value is not None and context is not None and value > context:
            raise MedcodeError(f"{option} {value}: base model {model} reads {context:,} tokens; give no more")
    whole = longest if longest is not None else max(lengths.longest, tokens or 0)
    typical = tokens if tokens is not None else min(lengths.tokens, whole)
    written = answer if answer is not None else lengths.answer
    if answer is None and written >= typical:
        written = typical // 2
    if answer is not None and tokens is None and typical <= answer < whole:
        typical = whole
    if not written < typical <= whole:
        raise MedcodeError(
            f"--answer {written} --tokens {typical} --longest {whole}: expected answer < tokens <= longest"
        )
    given = any(value is not None for value in (longest, tokens, answer, examples))
    return replace(
        lengths,
        longest=whole,
        tokens=typical,
        answer=written,
        examples=lengths.examples if examples is None else examples,
        origin="as given; else " + lengths.origin if given else lengths.origin,
    )
