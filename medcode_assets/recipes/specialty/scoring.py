"""How answers are scored beyond the text metrics that every recipe in words has: not at all."""

from collections.abc import Mapping, Sequence

from medcode_assets.recipes.recipe import Words
from medcode_assets.recipes.words.answers import Answered
from medcode_assets.recipes.words.questions import Asked

HEADLINE = "token_f1"
"""Short answers of free wording: words in common count, whatever their order."""


def score_answers(asked: Sequence[Asked], answers: Sequence[Answered]) -> Mapping[str, Sequence[float]]:
    """Return no measures: the references say all that is known of a right answer, and text metrics compare to them."""
    return {}


WORDS = Words(score=score_answers, measures={}, headline=HEADLINE)
