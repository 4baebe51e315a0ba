"""What an answer to a multiple-choice question chooses: by likelihood, and by what it says."""

import math
import re
from collections.abc import Sequence

from medcode_assets.evaluation.text_metrics.choices import chosen_option
from medcode_assets.recipes.medqa.rows import LABELS
from medcode_assets.recipes.words.questions import Asked


def likeliest(log_probabilities: Sequence[float]) -> tuple[int, ...]:
    """Return the places of the likeliest options: several if they tie, none if no value is a number."""
    told = [value for value in log_probabilities if not math.isnan(value)]
    return tuple(at for at, value in enumerate(log_probabilities) if told and value == max(told))


def option_texts(asked: Asked) -> tuple[str, ...]:
    """Return the options' texts without letters, as the last lines of the question list them."""
    lines = asked.question.splitlines()[-len(asked.options) :] if asked.options else []
    return tuple(line.partition(". ")[2] for line in lines)


def said(asked: Asked, text: str) -> int | None:
    """Return the place of the option that an answer chooses in its words, or None if it chooses none, or several.

    Read in this order: an option's completion, whole or as the beginning of the answer; a letter as `chosen_option`
    reads it; a letter in brackets behind the first line; an option's text as the whole first line.
    """
    first = _plain(text.strip().splitlines()[0]) if text.strip() else ""
    completions = [_plain(option) for option in asked.options]
    opening = [at for at, completion in enumerate(completions) if f"{first} ".startswith(f"{completion} ")]
    if opening:
        return max(opening, key=lambda at: len(completions[at]))
    labels = LABELS[: len(asked.options)]
    letter = chosen_option(text, labels) or _behind(text, labels)
    if letter is not None:
        return labels.index(letter)
    same = [at for at, option in enumerate(option_texts(asked)) if _plain(option) == first]
    return same[0] if len(same) == 1 else None


def _behind(text: str, labels: str) -> str | None:
    """Return the letter in brackets at the end of the first line: `metformin (B)`."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    found = re.search(rf"\(([{labels}])\)\W*$", line)
    return found.group(1) if found else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".* ")
