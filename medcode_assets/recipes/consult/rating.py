"""The sheet on which people rate answers without knowing who wrote them."""

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medcode_assets.artifacts import making, required
from medcode_assets.recipes.words.answers import TUNED, UNTUNED, Answered, answers_file, read_word_answers
from medcode_assets.recipes.words.questions import Asked
from medcode_assets.warehouse import fingerprint
from medcode_serving.errors import MedcodeError

SHEET, KEY = "rating_sheet.csv", "key.csv"
TEXTS = ("id", "question", "answer_a", "answer_b")
PREFERRED = "preferred"
"""Column: A, B or tie."""
SCALES = ("correct_a", "correct_b", "clear_a", "clear_b")
"""Columns from 1 (worst) to 5."""
REMARKS = "remarks"
COLUMNS = (*TEXTS, PREFERRED, *SCALES, REMARKS)
SIDES = ("A", "B")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that spreadsheets take for a formula."""


@dataclass(frozen=True)
class Key:
    """Who wrote which answer of a sheet."""

    sheet: str
    """Which sheet: the first part of its ids."""
    tuned: dict[str, str]
    """The side, A or B, of the adapter's answer by id."""


def sheet_fingerprint(evaluation: str, rated: int, seed: int) -> str:
    """Return the fingerprint of a sheet; `evaluation` is the seal of the answers."""
    return fingerprint(evaluation=evaluation, rated=rated, seed=seed, columns=list(COLUMNS), version=1)


def make_rating_sheet(evaluation: Path, target: Path, *, made_from: str, rated: int, seed: int) -> None:
    """Write an artifact of a sheet and its key.

    Args:
        evaluation: Artifact with both models' answers.
        target: Folder of the artifact.
        made_from: `sheet_fingerprint`.
        rated: Questions on the sheet, at most.
        seed: Of which questions, and of who stands where.

    Raises:
        MedcodeError: the untuned base was not asked.
    """
    if not answers_file(evaluation, UNTUNED).exists():
        raise MedcodeError("a rating sheet compares with the untuned base: set evaluation.untuned_base: true")
    asked, untuned = read_word_answers(answers_file(evaluation, UNTUNED))
    _, tuned = read_word_answers(answers_file(evaluation, TUNED))
    with making(target, made_from) as (folder, facts):
        chosen = write_sheet(folder, asked, untuned, tuned, sheet=made_from[:6], rated=rated, seed=seed)
        facts["rated"] = chosen


def write_sheet(
    folder: Path,
    asked: Sequence[Asked],
    untuned: Sequence[Answered],
    tuned: Sequence[Answered],
    *,
    sheet: str,
    rated: int,
    seed: int,
) -> int:
    """Write the sheet and its key; return the number of questions on it.

    Which questions, their order and the sides are drawn; half of the sides, give or take one, have the adapter on A.
    """
    draw = random.Random(f"rating sheet {seed}")
    places = draw.sample(range(len(asked)), min(rated, len(asked)))
    sides = [SIDES[number % 2] for number in range(len(places))]
    draw.shuffle(sides)
    with (
        (folder / SHEET).open("w", newline="", encoding="utf-8-sig") as sheet_file,
        (folder / KEY).open("w", newline="", encoding="utf-8") as key_file,
    ):
        rows, keys = csv.writer(sheet_file), csv.writer(key_file)
        rows.writerow(COLUMNS)
        keys.writerow(("id", TUNED, "example_id"))
        for number, (place, side) in enumerate(zip(places, sides, strict=True), start=1):
            name = f"{sheet}-{number:03d}"
            both = (tuned[place].text, untuned[place].text)
            texts = (asked[place].question, *(both if side == "A" else both[::-1]))
            rows.writerow((name, *map(_cell, texts), *[""] * (len(COLUMNS) - len(TEXTS))))
            keys.writerow((name, side, asked[place].example_id))
    return len(places)


def read_key(artifact: Path) -> Key:
    """Return the key of a sheet. Raises MedcodeError if there is no sheet yet."""
    required(artifact, "consult/rating_sheet")
    with (artifact / KEY).open(newline="", encoding="utf-8") as file:
        tuned = {row["id"]: row[TUNED] for row in csv.DictReader(file)}
    return Key(next(iter(tuned)).partition("-")[0], tuned)


def _cell(text: str) -> str:
    """Return a text as a cell that no spreadsheet computes."""
    return f"'{text}" if text.startswith(_FORMULA) else text
