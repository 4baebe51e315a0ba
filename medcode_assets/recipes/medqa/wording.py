"""What the words of questions and options tell: which questions are the same, and what may be shuffled."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

TELLING_WORDS = 4
"""A question with fewer of its own ("True about scurvy:") is told apart by its answer, too."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Wording:
    """The contents of wording.yaml."""

    paraphrases: tuple[str, ...]
    function_words: frozenset[str]
    stays: tuple[re.Pattern[str], ...]
    names_letters: tuple[re.Pattern[str], ...]
    explains_letters: tuple[re.Pattern[str], ...]


@cache
def wording() -> Wording:
    """Return what wording.yaml says.

    Raises:
        ValueError: a paraphrase does not hold its question once.
    """
    read = yaml.safe_load(resources.files(__package__).joinpath("wording.yaml").read_text(encoding="utf-8"))
    for template in read["paraphrases"]:
        if template.count("{question}") != 1:
            raise ValueError(f"wording.yaml: paraphrase {template!r} does not hold {{question}} once")
    patterns = {
        name: tuple(re.compile(pattern, re.IGNORECASE) for pattern in read[name])
        for name in ("stays", "names_letters", "explains_letters")
    }
    return Wording(tuple(read["paraphrases"]), frozenset(read["function_words"]), **patterns)


def words(text: str) -> list[str]:
    """Return a text's words as they are compared: NFKC, no case, no punctuation."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def question_key(question: str, answer: str) -> str:
    """Return what near-identical questions have in common: their telling words, in no order.

    Args:
        question: The question without its options.
        answer: The right one, which counts where the question itself says little.
    """
    telling = sorted(word for word in words(question) if word not in wording().function_words)
    if len(telling) >= TELLING_WORDS:
        return " ".join(telling)
    return f"{' '.join(telling)} | {' '.join(words(answer))}"


def stays_in_place(option: str) -> bool:
    """Whether an option points at those above it, as `All of the above` does."""
    return any(pattern.fullmatch(option.strip()) for pattern in wording().stays)


def can_be_shuffled(options: Sequence[str], explanation: str = "") -> bool:
    """Whether the options of a question may change places: none of them, nor the explanation, names one by letter."""
    if any(pattern.search(option) for pattern in wording().names_letters for option in options):
        return False
    return not any(pattern.search(explanation) for pattern in wording().explains_letters)
