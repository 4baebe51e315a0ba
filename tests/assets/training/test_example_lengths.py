"""What a plan takes for the lengths of examples: what was given, what was tokenized, what settings let expect."""

from pathlib import Path

import pytest

from medcode_assets.config import Settings
from medcode_assets.recipes.consult.settings import ConsultSettings
from medcode_assets.recipes.medqa.settings import MedqaSettings
from medcode_assets.recipes.reasoning.settings import StageSettings
from medcode_assets.recipes.specialty.settings import SpecialtySettings
from medcode_assets.training.example_lengths import (
    ExampleLengths,
    as_given,
    recipe_of,
    tokenized_lengths,
    usual_lengths,
    within,
)
from medcode_assets.warehouse import open_warehouse
from medcode_serving.errors import MedcodeError

FOUND = ExampleLengths("question", longest=1324, tokens=500, answer=300, examples=10, origin="made up")
NOTHING = {"longest": None, "tokens": None, "answer": None, "examples": None}


def write_tokens(file: Path, lengths: list[tuple[str, int, int]], recipe: str = "consult") -> None:
    with open_warehouse(file) as con:
        con.execute(f"CREATE SCHEMA {recipe}")
        con.execute(f"CREATE TABLE {recipe}.tokens (split VARCHAR, prompt_ids INTEGER[], completion_ids INTEGER[])")
        rows = [(split, [0] * prompt, [0] * answer) for split, prompt, answer in lengths]
        con.executemany(f"INSERT INTO {recipe}.tokens VALUES (?, ?, ?)", rows)


@pytest.mark.parametrize("settings", [Settings, ConsultSettings, MedqaSettings, SpecialtySettings, StageSettings])
def test_every_recipe_has_usual_lengths_within_its_settings(settings: type[Settings]) -> None:
    chosen = settings(data={"max_prompt_tokens": 777})
    found = usual_lengths(chosen)
    assert found.longest == 777 + found.answer
    assert found.answer < found.tokens <= found.longest
    assert found.examples > 0
    assert (found.called == "question") == (recipe_of(chosen) in ("consult", "medqa", "specialty"))
    assert "data.max_prompt_tokens 777" in found.origin


def test_examples_are_those_that_settings_tell() -> None:
    def examples(**section: object) -> int:
        return usual_lengths(MedqaSettings(medqa=section)).examples

    assert examples(source="synthetic", synthetic_questions=1000, augmentation=3) == 800 * 3
    assert examples(limit=50, augmentation=2) == 100
    assert examples() == 182_822
    assert usual_lengths(ConsultSettings(consult={"source": "synthetic", "count": 200})).examples == 160


def test_lengths_are_counted_where_there_are_tokens(tmp_path: Path) -> None:
    settings = ConsultSettings(data={"max_prompt_tokens": 100})
    assert tokenized_lengths(tmp_path, settings) is None
    (tmp_path / "warehouse").mkdir()
    write_tokens(tmp_path / "warehouse" / "other.duckdb", [("train", 9, 9)], "medqa")
    assert tokenized_lengths(tmp_path, settings) is None
    lengths = [("train", 40, 5), ("train", 60, 20), ("train", 300, 10), ("test", 5000, 500)]
    write_tokens(tmp_path / "warehouse" / "mine.duckdb", lengths)
    found = tokenized_lengths(tmp_path, settings)
    # Prompts are cut at 100: 45, 80 and 110 tokens; the test split is not trained on.
    assert (found.longest, found.tokens, found.answer, found.examples) == (110, 80, 20, 3)
    assert "consult/tokens of mine" in found.origin
    assert tokenized_lengths(tmp_path, settings, "mine") == found
    with pytest.raises(MedcodeError, match="--name other: no consult/tokens"):
        tokenized_lengths(tmp_path, settings, "other")
    with pytest.raises(MedcodeError, match="no such warehouse"):
        tokenized_lengths(tmp_path, settings, "nowhere")


def test_no_more_than_a_model_reads() -> None:
    found, told = within(FOUND, 1024, "small")
    assert (found.longest, found.tokens, found.answer) == (1024, 500, 300)
    assert "small reads 1,024" in told
    assert "data.max_prompt_tokens to 724 or less" in told
    assert within(FOUND, 1324, "small") == within(FOUND, None, "small") == (FOUND, None)
    with pytest.raises(MedcodeError, match="set --answer"):
        within(FOUND, 300, "small")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (1324, 500, 300)),
        ({"longest": 400}, (400, 400, 300)),
        ({"tokens": 2000}, (2000, 2000, 300)),
        ({"tokens": 200}, (1324, 200, 100)),
        ({"answer": 600}, (1324, 1324, 600)),
        ({"longest": 900, "tokens": 100, "answer": 7}, (900, 100, 7)),
    ],
)
def test_what_was_given_wins_and_the_rest_suits_it(given: dict[str, int], expected: tuple[int, int, int]) -> None:
    found = as_given(FOUND, 4096, "small", **{**NOTHING, **given})
    assert (found.longest, found.tokens, found.answer) == expected
    assert found.origin.startswith("as given") is bool(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"longest": 5000}, "--longest 5000: base model small reads 4,096"),
        ({"tokens": 5000}, "--tokens 5000: base model small reads 4,096"),
        ({"longest": 300, "tokens": 400}, "expected answer < tokens <= longest"),
        ({"answer": 1400}, "expected answer < tokens <= longest"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, int], message: str) -> None:
    with pytest.raises(MedcodeError, match=message):
        as_given(FOUND, 4096, "small", **{**NOTHING, **given})
