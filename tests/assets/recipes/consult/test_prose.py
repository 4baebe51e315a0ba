"""Doctors' prose to lists by cue words."""

from pathlib import Path

import pytest
import yaml

from medcode_assets.corpora.synthetic_conversations import synthetic_conversations
from medcode_assets.recipes.consult.converting.prose import outline_prose
from medcode_assets.recipes.consult.outline import parse
from medcode_assets.recipes.consult.structure import check_structure

PROSE = (
    "Hello, I understand your concern. A virus causes the pain. You most likely have a sore throat. Rest and drink "
    "tea. Take 500 mg paracetamol twice a day. Seek help at once if you cannot swallow. I hope this helps. Take care."
)


def test_sentences_come_under_their_headings_and_greetings_go() -> None:
    assert outline_prose(PROSE) == (
        "You most likely have a sore throat.\n\n"
        "1. Assessment\n   - A virus causes the pain.\n"
        "2. What to do\n   - Rest and drink tea.\n"
        "3. Medicines\n   - Take 500 mg paracetamol twice a day.\n"
        "4. When to seek help\n   - Seek help at once if you cannot swallow."
    )


def test_what_says_the_same_is_one_point_and_the_rest_is_the_last() -> None:
    many = [f"Avoid {thing} for a while." for thing in ("milk", "nuts", "wine", "smoke", "sport", "stress", "noise")]
    written = outline_prose(f"This is an allergy. {' '.join(many)} Avoid milk for a while!")
    assert written is not None
    (group,) = parse(written).points
    assert len(group.below) == 5
    assert [written.count(text) for text in many] == [1] * 7
    near = outline_prose("This is an allergy. Avoid cold milk at night. Please avoid cold milk at noon and night.")
    assert near is not None and len(parse(near).points[0].below) == 1


def test_what_is_no_answer_gives_no_list() -> None:
    for text in ("", "Hello.", "This is a cold.", "Thank you for asking. Take care."):
        assert outline_prose(text) is None


def test_a_list_stays_as_it_is() -> None:
    written = outline_prose(PROSE)
    assert written is not None
    assert outline_prose(written) == written


def test_every_made_answer_can_be_converted_and_loses_no_sentence() -> None:
    for row in synthetic_conversations(150, 3):
        if row["Doctor"]:
            written = outline_prose(row["Doctor"])
            assert written is not None and check_structure(written).valid
            assert all(sentence.rstrip(".") in written for sentence in row["Doctor"].split(". "))


LABELLED = yaml.safe_load(Path(__file__).with_name("labelled_sentences.yaml").read_text(encoding="utf-8"))


def heading_of(sentence: str) -> str:
    """Return the heading below which a sentence comes; nothing around it has a cue."""
    written = outline_prose(f"This is an illness. {sentence} Zzqx yyqx wwqx.")
    assert written is not None
    said = sentence.rstrip(".").lower()
    headings = [point.text for point in parse(written).points for one in point.below if said in one.text.lower()]
    return headings[0] if headings else "left out"


@pytest.mark.parametrize(("part", "least"), [("looked_at", 1.0), ("held_out", 0.95)])
def test_sentences_come_where_a_reader_looks_for_them(part: str, least: float) -> None:
    labelled = [(heading, one) for heading, several in LABELLED[part].items() for one in several]
    wrong = [(one, heading_of(one)) for heading, one in labelled if heading_of(one) != heading]
    assert len(wrong) <= (1 - least) * len(labelled), wrong


@pytest.mark.parametrize(
    ("sentence", "kept"),
    [
        ("I understand your concern, but the lump is harmless.", "The lump is harmless."),
        ("I have read that you take 40 mg of it.", "I have read that you take 40 mg of it."),
        ("Hope the ibuprofen helps.", "Hope the ibuprofen helps."),
        ("Take care of the wound.", "Take care of the wound."),
    ],
)
def test_politeness_takes_nothing_medical_with_it(sentence: str, kept: str) -> None:
    written = outline_prose(f"This is an illness. {sentence} Avoid milk.")
    assert written is not None and f"- {kept}" in written


def test_a_cue_inside_a_longer_one_does_not_count() -> None:
    assert heading_of("Take rest.") == "What to do"
    assert heading_of("Take it twice a day.") == "Medicines"  # `take` counts where there is nothing better
    assert heading_of("Take a urine test.") == "Tests"
    assert heading_of("The body lacks insulin.") == "Assessment"  # which is a drug elsewhere
