"""Doctors' prose to lists by cue words."""

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
