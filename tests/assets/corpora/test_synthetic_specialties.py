"""Synthetic specialty files: read by the recipe as they are, reproducible, unequally hard."""

import json
from collections import Counter
from itertools import islice

import pytest

from medcode_assets.corpora.synthetic_specialties import (
    load_specialties,
    specialty_questions,
    write_synthetic_specialties,
)
from medcode_serving.errors import MedcodeError


def test_files_hold_as_many_different_questions_as_asked_for(tmp_path):
    files = write_synthetic_specialties(tmp_path / "new", per_specialty=80, seed=3)
    assert [file.name for file in files] == [f"dataset_with_answers_{name}.json" for name in sorted(load_specialties())]
    assert sorted((tmp_path / "new").iterdir()) == files
    every = []
    for file in files:
        rows = json.loads(file.read_text(encoding="utf-8"))
        assert len(rows) == 80
        assert all(row.keys() == {"id", "question", "answer"} for row in rows)
        assert all(text.strip() and "{" not in text for row in rows for text in row.values())
        every += rows
    assert len({row["question"] for row in every}) == len({row["id"] for row in every}) == 80 * len(files)


def test_one_seed_gives_the_same_files_and_more_begin_with_the_fewer(tmp_path):
    fewer, more = (write_synthetic_specialties(tmp_path / str(n), per_specialty=n, seed=3) for n in (30, 60))
    again = write_synthetic_specialties(tmp_path / "30", per_specialty=30, seed=3)
    other = write_synthetic_specialties(tmp_path / "other", per_specialty=30, seed=4)
    assert again == fewer
    for few, many, differs in zip(fewer, more, other, strict=True):
        assert json.loads(many.read_text())[:30] == json.loads(few.read_text())
        assert few.read_bytes() != differs.read_bytes()


def test_a_condition_has_one_answer_to_each_aspect_in_every_wording():
    for specialty, conditions in load_specialties().items():
        rows = list(islice(specialty_questions(specialty, 0), 900))
        answers = Counter(row["answer"] for row in rows)
        assert len(answers) <= 3 * len(conditions)
        assert max(answers.values()) - min(answers.values()) <= 900 // len(answers)
        for row in rows:
            named = max((one for one in conditions if one["name"] in row["question"]), key=lambda one: len(one["name"]))
            aspect = {"Look": "symptom", "Confirm": "test", "Treat": "treatment"}[row["answer"].split()[0]]
            assert named[aspect] in row["answer"]


def test_specialties_are_unequally_hard():
    sizes = {specialty: len(conditions) for specialty, conditions in load_specialties().items()}
    assert len(sizes) == 6
    assert max(sizes.values()) >= 3 * min(sizes.values())
    names = [one["name"] for conditions in load_specialties().values() for one in conditions]
    assert len(names) == len(set(names))


def test_more_than_there_are_is_refused(tmp_path, monkeypatch):
    templates = {
        "ages": [30, 30],
        "places": ["ward"],
        "openings": [""],
        "aspects": {"test": {"questions": ["Which test for {name}?", "How is {name} found?"], "answer": "{value}."}},
        "specialties": {"tiny": [{"name": "gout", "test": "uric acid"}]},
    }
    monkeypatch.setattr("medcode_assets.corpora.synthetic_specialties._load", lambda: templates)
    assert len(list(specialty_questions("tiny", 0))) == 2
    with pytest.raises(MedcodeError, match="of tiny there are 2 different questions, not 3"):
        write_synthetic_specialties(tmp_path, per_specialty=3, seed=0)
    assert not list(tmp_path.iterdir())
