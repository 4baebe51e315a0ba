"""Exact and near duplicates of narratives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_assets.recipes.reasoning.corpus.duplicates import (
    LEAST_RECALL,
    PERMUTATIONS,
    NearDuplicates,
    bands_for,
    normalised,
    shingles,
    signature,
)


def _words(start: int, count: int) -> str:
    return " ".join(f"word{number}" for number in range(start, start + count))


def test_case_white_space_and_composition_make_no_difference() -> None:
    assert normalised("  Cafe\u0301 au\tlait\r\n\nSTRASSE ") == normalised("caf\u00e9 au lait stra\u00dfe")
    assert normalised("a b") != normalised("ab")


def test_shingles_are_runs_of_five_words_without_punctuation() -> None:
    assert shingles("One two, three: FOUR five - six.") == {"one two three four five", "two three four five six"}


def test_a_text_of_fewer_than_five_words_is_one_shingle() -> None:
    assert shingles("Chest pain.") == {"chest pain"}
    assert shingles("...") == {"..."}
    assert shingles("") == {""}


def test_a_signature_is_the_same_in_every_process() -> None:
    values = signature("Cough and fever for four days.").hashvalues
    assert len(values) == PERMUTATIONS
    assert values[:3].tolist() == [1985495619, 1051706515, 1431449734]


def test_the_estimate_is_near_the_share_of_shingles() -> None:
    # 100 words have 96 shingles. A text that begins 10 words later shares 86 of 106: Jaccard 0.811.
    assert signature(_words(0, 100)).jaccard(signature(_words(10, 100))) == pytest.approx(86 / 106, abs=0.12)
    # One that begins 50 words later shares 46 of 146: 0.315.
    assert signature(_words(0, 100)).jaccard(signature(_words(50, 100))) == pytest.approx(46 / 146, abs=0.15)


def test_earlier_texts_that_are_similar_enough_are_named_in_order() -> None:
    found = NearDuplicates(0.8)
    assert found.add(70, _words(0, 200)) == []
    assert found.add(60, _words(500, 200)) == []
    assert found.add(50, _words(2, 200)) == [70]  # 194 of 198 shingles
    assert found.add(40, _words(1, 200)) == [70, 50]
    assert found.add(30, _words(100, 200)) == []  # 96 of 296
    assert len(found) == 5


def test_only_the_same_shingles_count_as_one_at_a_threshold_of_one() -> None:
    found = NearDuplicates(1.0)
    found.add(0, _words(0, 50))
    assert found.add(1, _words(0, 50).upper()) == [0]
    assert found.add(2, _words(0, 51)) == []


@given(st.floats(0.15, 1.0))
def test_bands_find_pairs_at_the_threshold(threshold: float) -> None:
    bands, rows = bands_for(threshold)
    assert bands * rows <= PERMUTATIONS
    assert 1 - (1 - threshold**rows) ** bands >= LEAST_RECALL


@settings(max_examples=30, derandomize=True)  # by chance, a band may be missed
@given(
    st.lists(st.tuples(st.integers(0, 120), st.integers(30, 60)), max_size=40), st.sampled_from([0.3, 0.6, 0.8, 1.0])
)
def test_the_index_finds_what_comparing_all_pairs_finds(spans: list[tuple[int, int]], threshold: float) -> None:
    texts = [_words(start, count) for start, count in spans]
    found = NearDuplicates(threshold)
    signatures = [signature(text) for text in texts]
    missed = pairs = 0
    for key, text in enumerate(texts):
        expected = [other for other in range(key) if signatures[other].jaccard(signatures[key]) >= threshold]
        actual = found.add(key, text)
        assert set(actual) <= set(expected)
        pairs += len(expected)
        missed += len(expected) - len(actual)
    # A band is shared with a probability of 0.99 or more just at the threshold.
    assert missed <= max(1, 0.05 * pairs)


@pytest.mark.parametrize(
    "text",
    [
        "Cou\u200bgh and f\u00adever for 38 days",
        "\u200fcough and fever\ufeff for 38 days",
        "Cough and fever for \uff13\uff18 days",
        "\u202ecough\u2060 and fever\u00a0for 38 days",
    ],
)
def test_what_nobody_sees_makes_no_other_text(text: str) -> None:
    plain = "Cough and fever for 38 days"
    assert normalised(text) == normalised(plain)
    assert shingles(text) == shingles(plain)
