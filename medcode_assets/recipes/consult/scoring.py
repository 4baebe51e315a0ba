"""How answers of recipe `consult` are scored: structure, and medical terms shared with the reference."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_assets.recipes.consult.structure import Structure, check_structure, structure_rules
from medcode_assets.recipes.consult.terms import TITLES, shared_terms

if TYPE_CHECKING:
    from medcode_assets.recipes.words.answers import Answered
    from medcode_assets.recipes.words.questions import Asked

HEADLINE = "structure"
RULES = (Path(__file__).with_name("structure.yaml"), Path(__file__).with_name("terms.yaml"), TITLES)
MEASURES = {
    "structure": "Share of answers that are valid hierarchical lists: answer first, three levels, at most five points "
    "under one parent, nothing twice, no large overlap.",
    "levels": "Share of answers with at least three levels: answer, key points, details.",
    "answer_first": "Share of answers that begin with a direct answer, before any point.",
    "mece": "Mean of 1 - the largest overlap of two points under one parent; 0 for an answer without two such points.",
    "medical_terms": "Mean F1 of the medical terms that answer and reference share; the best reference counts.",
}


def score(asked: "Sequence[Asked]", answers: "Sequence[Answered]") -> Mapping[str, Sequence[float]]:
    """Return each of `MEASURES` for each answer, all in [0, 1]. Raises ValueError if they are not as many."""
    found = [check_structure(answer.text) for answer in answers]
    return {
        "structure": [float(one.valid) for one in found],
        "levels": [float(one.levels >= structure_rules().least_levels) for one in found],
        "answer_first": [float(one.answer_first) for one in found],
        "mece": [_apartness(one) for one in found],
        "medical_terms": [
            max(shared_terms(answer.text, reference) for reference in question.references)
            for question, answer in zip(asked, answers, strict=True)
        ],
    }


def _apartness(found: Structure) -> float:
    return 1.0 - found.overlap if found.most_points > 1 else 0.0
