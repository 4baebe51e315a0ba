"""Scores of answers, against hand-worked values."""

import pytest

from medcode_assets.recipes.consult.recipe import CONSULT
from medcode_assets.recipes.consult.scoring import MEASURES, score
from medcode_assets.recipes.consult.terms import known_terms, medical_terms, shared_terms
from medcode_assets.recipes.words.answers import Answered
from medcode_assets.recipes.words.questions import Asked

GOOD = "You most likely have a cold.\n\n1. Cause\n   - A virus.\n2. Care\n   - Rest with tea.\n   - Ibuprofen.\n"


def test_terms_are_medical_and_singular() -> None:
    text = "Take ibuprofen tablets for headaches and fever; this is a common problem of middle age with high pressure."
    assert medical_terms(text) == {"ibuprofen", "tablet", "headache", "fever"}
    assert 4_000 < len(known_terms()) < 8_000


def test_shared_terms_are_an_f1() -> None:
    # found: fever, headache; wanted: fever, cough, asthma. 2 * 1 / (2 + 3)
    assert shared_terms("fever and headache", "fever with cough in asthma") == pytest.approx(0.4)
    assert shared_terms("hello there", "good day") == 1.0
    assert shared_terms("", "asthma") == 0.0


def test_scores() -> None:
    texts = [GOOD, "You have asthma.", "1. Asthma\n2. Asthma\n", ""]
    asked = [Asked(place, "", "What?", ("Ibuprofen for the virus.", "asthma")) for place in range(4)]
    found = score(asked, [Answered(text, 1, 1.0, False) for text in texts])
    assert set(found) == set(MEASURES) == set(CONSULT.words.measures if CONSULT.words else {})
    assert found["structure"] == [1, 0, 0, 0]
    assert found["levels"] == [1, 0, 0, 0]
    assert found["answer_first"] == [1, 1, 0, 0]
    assert found["mece"] == [1, 0, 0, 0]
    # cold? no title of a disease but "common cold" has it: cold, virus, ibuprofen against virus, ibuprofen.
    assert found["medical_terms"] == pytest.approx([2 * 2 / (len(medical_terms(GOOD)) + 2), 1, 1, 0])
