"""Synthetic conversations: reproducible, of the data set's shape and with its flaws, in sentences to be outlined."""

import re
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_assets.corpora.synthetic_conversations import load_cases, synthetic_conversations

COUNT = 1000


@pytest.fixture(scope="module")
def rows():
    return list(synthetic_conversations(COUNT, 5))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(0, 120), st.integers(0, 60))
def test_more_rows_begin_with_the_fewer(seed, first, more):
    rows = list(synthetic_conversations(first + more, seed))
    assert len(rows) == first + more
    assert list(synthetic_conversations(first, seed)) == rows[:first]


def test_seeds_differ_and_nothing_is_made_before_it_is_asked_for(rows):
    assert list(islice(synthetic_conversations(10**9, 5), 3)) == rows[:3]
    assert next(synthetic_conversations(1, 6)) != rows[0]


def test_rows_have_the_columns_of_the_data_set_and_its_flaws(rows):
    assert all(row.keys() == {"Description", "Patient", "Doctor", "Status"} for row in rows)
    assert all(row[name].strip() and "{" not in row[name] for row in rows for name in ("Description", "Patient"))
    assert {row["Status"] for row in rows} == {"low severity", "medium severity", "high severity"}
    # Every 40th, but every 200th of these repeats the one before, and the 50th after a 49th is whole.
    assert sum(row["Doctor"] is None for row in rows) == COUNT // 40 - COUNT // 200
    repeated = [place for place, (one, other) in enumerate(zip(rows, rows[1:], strict=False), 1) if one == other]
    assert repeated == list(range(49, COUNT, 50))


def test_doctors_say_five_to_nine_short_sentences_no_two_alike(rows):
    for row in rows:
        if row["Doctor"] is None:
            continue
        sentences = re.findall(r"[A-Z][^.]*\.", row["Doctor"])
        assert " ".join(sentences) == row["Doctor"]
        assert 5 <= len(sentences) <= 9
        assert len(set(sentences)) == len(sentences)
        assert all(len(sentence.split()) <= 16 for sentence in sentences)


def test_advice_belongs_to_the_complaint(rows):
    cases = {complaint: case for case in load_cases() for complaint in case["complaint"]}
    assert len(cases) == sum(len(case["complaint"]) for case in load_cases())
    seen = Counter()
    for row in rows:
        (complaint,) = (known for known in cases if known in row["Patient"])
        assert complaint in row["Description"]
        seen[complaint] += 1
        if row["Doctor"]:
            case = cases[complaint]
            assert any(cause in row["Doctor"] for cause in case["cause"]) and case["why"] in row["Doctor"]
            assert any(flag in row["Doctor"] for flag in case["flag"])
    assert seen.keys() == cases.keys()
