"""Exact match and token F1 after SQuAD's normalisation (Rajpurkar et al., EMNLP 2016; empty answers as in 2.0)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

HOW = "SQuAD 2.0: lower case, no punctuation, no articles; best over references"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Return the text in lower case, without ASCII punctuation, articles and outer or repeated white space.

    The official script's order. Punctuation leaves no space: `2.5 mg` becomes `25 mg`, `beta-blocker` one word.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Return 1.0 if the answer is one of the references, all normalised, else 0.0."""
    return float(normalise_answer(answer) in map(normalise_answer, references))


def token_f1(answer: str, references: Sequence[str]) -> float:
    """Return the F1 of the answer's words against those of the best reference, as multisets, in [0, 1].

    Where either has no words the F1 is 1.0 if neither has, else 0.0.
    """
    words = normalise_answer(answer).split()
    return max(_word_f1(words, normalise_answer(reference).split()) for reference in references)


def _word_f1(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:
        return float(answer == reference)
    # 2PR / (P + R) with P = shared / answer and R = shared / reference.
    return 2 * (Counter(answer) & Counter(reference)).total() / (len(answer) + len(reference))
