"""How good answers to exam questions are, by this recipe's own measures."""

from collections.abc import Mapping, Sequence

from medcode_assets.evaluation.text_metrics.squad import exact_match
from medcode_assets.recipes.medqa.reading import likeliest, said
from medcode_assets.recipes.words.answers import Answered
from medcode_assets.recipes.words.questions import Asked

HEADLINE = "accuracy"
MEASURES = {
    "accuracy": "The option that the model finds likeliest is the right one; of an open question: exact match.",
    "accuracy_by_length": "As accuracy, with each option's log-probability divided by its characters.",
    "accuracy_generated": "The option that the answer chooses in its words is the right one; open: exact match.",
    "readable": "The answer chooses one option in its words; of an open question: it says something.",
}


def score(asked: Sequence[Asked], answers: Sequence[Answered]) -> Mapping[str, Sequence[float]]:
    """Return each measure's score of each answer.

    Where options tie for the likeliest, the score is the chance of a draw among them; a model that diverged to NaN
    finds none likeliest and scores 0.
    """
    rows = [_scores(one, answer) for one, answer in zip(asked, answers, strict=True)]
    return {name: [row[name] for row in rows] for name in MEASURES}


def _scores(asked: Asked, answer: Answered) -> dict[str, float]:
    if not asked.options:
        right = exact_match(answer.text, asked.references)
        return {
            "accuracy": right,
            "accuracy_by_length": right,
            "accuracy_generated": right,
            "readable": float(bool(answer.text.strip())),
        }
    told = answer.option_log_probabilities
    by_length = [value / max(len(option), 1) for value, option in zip(told, asked.options, strict=False)]
    choice = said(asked, answer.text)
    return {
        "accuracy": _chance(likeliest(told), asked.correct),
        "accuracy_by_length": _chance(likeliest(by_length), asked.correct),
        "accuracy_generated": float(choice is not None and choice == asked.correct),
        "readable": float(choice is not None),
    }


def _chance(places: Sequence[int], correct: int | None) -> float:
    return 1 / len(places) if correct in places else 0.0
