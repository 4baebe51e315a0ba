"""Synthetic exam questions: reproducible, of MedMCQA's shape, right, with wrong options that are wrong."""

from collections import Counter, defaultdict
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_assets.corpora.synthetic_medical_questions import (
    OPTIONS,
    load_facts,
    synthetic_medical_questions,
    wrong_options,
)

COLUMNS = {"id", "question", *OPTIONS, "cop", "exp", "subject_name", "topic_name", "choice_type"}
ANSWERS = {(fact.topic.lower(), fact.answer) for fact in load_facts()}


@pytest.fixture(scope="module")
def rows():
    return list(synthetic_medical_questions(1500, 5))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(0, 60))
def test_more_questions_begin_with_the_fewer(seed, first, more):
    rows = list(synthetic_medical_questions(first + more, seed))
    assert len(rows) == first + more
    assert list(synthetic_medical_questions(first, seed)) == rows[:first]


def test_seeds_differ_and_nothing_is_made_before_it_is_asked_for(rows):
    endless = synthetic_medical_questions(10**9, 5)
    assert list(islice(endless, 3)) == rows[:3]
    assert next(synthetic_medical_questions(1, 6)) != rows[0]


def test_rows_have_the_shape_of_medmcqa(rows):
    for row in rows:
        assert row.keys() == COLUMNS
        assert all(isinstance(row[name], str) and row[name].strip() for name in COLUMNS - {"cop"})
        assert row["choice_type"] == "single" and row["cop"] in (1, 2, 3, 4)
        assert len({row[option] for option in OPTIONS}) == 4
        assert "{" not in row["question"] + row["exp"]
    assert len({row["id"] for row in rows}) == len(rows)


def test_the_right_option_is_the_answer_of_the_question(rows):
    for row in rows:
        asked, right = f"{row['question']} {row['exp']}".lower(), row[OPTIONS[row["cop"] - 1]]
        facts = [fact for fact in load_facts() if fact.topic.lower() in asked]
        fact = max(facts, key=lambda fact: len(fact.topic))
        assert right == fact.answer and right in row["exp"]
        assert fact.topic.lower() in row["question"].lower()
        wrong = {row[option] for option in OPTIONS} - {right}
        assert not wrong & fact.never
        assert not any((fact.topic.lower(), option) in ANSWERS for option in wrong)


def test_no_question_gives_its_answer_away(rows):
    for row in rows:
        assert row[OPTIONS[row["cop"] - 1]].lower() not in row["question"].lower()


def test_facts_come_equally_often_in_many_wordings(rows):
    counted = Counter(row["exp"] for row in rows)
    assert len(counted) == len(load_facts())
    assert max(counted.values()) - min(counted.values()) <= 1
    wordings = defaultdict(set)
    for row in rows:
        wordings[row["exp"]].add(row["question"])
    assert min(map(len, wordings.values())) >= 4


def test_places_of_the_right_option_tell_nothing(rows):
    shares = Counter(row["cop"] for row in rows)
    assert all(0.2 < shares[place] / len(rows) < 0.3 for place in (1, 2, 3, 4))


def test_every_fact_has_enough_wrong_options_and_names_only_known_ones():
    assert 60 <= len(load_facts()) <= 100
    assert len({(fact.kind, fact.topic) for fact in load_facts()}) == len(load_facts())
    for fact in load_facts():
        answers = {other.answer for other in load_facts() if other.kind == fact.kind}
        assert fact.never <= answers - {fact.answer}
        assert len(wrong_options(fact)) >= 6


def test_children_s_diseases_are_not_given_to_a_grown_person(rows):
    for row in rows:
        if "newborn" in row["question"] or "in children" in row["question"]:
            assert "year" not in row["question"]
