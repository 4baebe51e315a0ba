from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_serving.bundle import DecodingSettings
from medcode_serving.engines.transformers import TransformersEngine
from medcode_serving.evidence.lexical import LONGEST_SPAN, LexicalEvidence
from medcode_serving.evidence.negation import negated
from medcode_serving.evidence.occlusion import cut_evenly, occlusion
from medcode_serving.evidence.sentences import sentences
from medcode_serving.linear.model import FEATURES, LinearCode, LinearModel, Scorers
from medcode_serving.linear.phrases import Phrases
from medcode_serving.linear.ridge import Ridge
from medcode_serving.linear.text import COLUMNS, WordTable, place_tokens
from medcode_serving.linear.titles import Titles
from medcode_serving.prompts import PromptTemplate

WRAPPED = "On the second day he complained of a dull pain that moved to the"
FEVER, STONE, PAIN = ("icd10cm", "R50.9"), ("icd10cm", "N20.0"), ("icd10cm", "R07.9")
TITLES = {FEVER: "Fever, unspecified", STONE: "Calculus of kidney", PAIN: "Chest pain, unspecified"}
NOTES = st.text(alphabet="aİΣ 1.,:-\n" + "fever no") | st.lists(
    st.sampled_from(
        ["fever ", "no ", "İ", "chest pain", ".\n", "- ", "\n", "ruled out ", "Dr. ", "calculus of kidney "]
    )
).map("".join)


def made_model() -> LinearModel:
    """Fever is known by "febrile", that three notes of three had; one in a hundred notes has fever."""
    words, none = WordTable(), np.zeros(0, np.uint64)
    phrases = Phrases(
        words.phrases(words.encode("febrile")),
        np.array([3], np.int32),
        np.array([0, 1]),
        np.array([0], np.int32),
        np.array([3], np.float32),
        np.array([0.01], np.float32),
    )
    titles = Titles(none, none.astype(np.float32), np.zeros(2, np.int64), none.astype(np.int32))
    ridge = Ridge(np.zeros(COLUMNS, np.float32), np.zeros((2, 1), np.float32))
    scorers = Scorers(phrases, ridge, titles, np.array([3]))
    return LinearModel(scorers, np.zeros(len(FEATURES)), 0.0, (LinearCode(*FEVER, TITLES[FEVER], 3),))


EVIDENCE = LexicalEvidence(made_model(), TITLES)


def texts(note: str, code: tuple[str, str]) -> list[str]:
    return [note[span.start : span.end] for span in EVIDENCE.find(note, [code])[0]]


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ("Fever for 1.5 days. Cough!", ["Fever for 1.5 days.", "Cough!"]),
        ("Seen by Dr. Who at St. Mary vs. home.", ["Seen by Dr. Who at St. Mary vs. home."]),
        ("Aspirin 81 mg. daily. Also 5 mg. Then home.", ["Aspirin 81 mg. daily.", "Also 5 mg.", "Then home."]),
        ("Discharged home.\n\nFollow up", ["Discharged home.", "Follow up"]),
        (f"{WRAPPED}\nlower quadrant.", [f"{WRAPPED}\nlower quadrant."]),
        (f"{WRAPPED}\nMcBurney point.\nGuarding", [f"{WRAPPED}\nMcBurney point.", "Guarding"]),
        ("PMH:\n- asthma\n- COPD\n1. Gout\n2) HTN", ["PMH:", "- asthma", "- COPD", "1. Gout", "2) HTN"]),
        ("no distress on exam\nHome with services", ["no distress on exam", "Home with services"]),
        ("Name: ___  Sex: F\nCT on ___\nspinal tap", ["Name: ___  Sex: F", "CT on ___", "spinal tap"]),
        ("WBC 5.0\r\nHgb 12\r\n", ["WBC 5.0", "Hgb 12"]),
        (" \n ", []),
    ],
)
def test_sentences(note: str, expected: list[str]) -> None:
    assert [note[start:end] for start, end in sentences(note)] == expected


@given(NOTES)
def test_sentences_leave_out_white_space_only(note: str) -> None:
    bounds = sentences(note)
    edges = [0, *(edge for bound in bounds for edge in bound), len(note)]
    assert edges == sorted(edges)
    assert all(not note[start:end].strip() for start, end in zip(edges[::2], edges[1::2], strict=True))
    assert all(note[start:end] == note[start:end].strip() != "" for start, end in bounds)


@given(st.text() | NOTES)
def test_tokens_stand_where_they_are_said_to(note: str) -> None:
    words = WordTable()
    tokens = place_tokens(note)
    assert [int(words.encode(token)[0]) for token, _, _ in tokens] == words.encode(note).tolist()
    for token, start, end in tokens:
        assert 0 <= start < end <= len(note)
        assert note[start:end].lower().replace("ς", "σ").startswith(token.replace("ς", "σ"))


def test_the_offset_behind_a_letter_that_lower_case_makes_two() -> None:
    assert [(start, end) for _, start, end in place_tokens("İİ fever")][-1] == (3, 8)


def test_a_learned_phrase_and_a_title() -> None:
    note = "Febrile on arrival. Left kidney: a calculus of the kidney. Fever."
    fever, stone, pain = EVIDENCE.find(note, [FEVER, STONE, PAIN])
    # (3 + 8 · 0.01) / (3 + 8) = 0.28 is 0.2727 of the way from the prior, 0.01, to 1. A whole title is trusted to 0.9.
    assert [(note[span.start : span.end], round(span.score, 4)) for span in fever] == [
        ("Fever.", 0.9),
        ("Febrile on arrival.", 0.2727),
    ]
    assert [(note[span.start : span.end], span.score) for span in stone] == [
        ("Left kidney: a calculus of the kidney.", pytest.approx(0.9))
    ]
    assert pain == []
    assert len(EVIDENCE.find(note, [FEVER], most=1)[0]) == 1


def test_without_a_linear_model_titles_are_looked_for() -> None:
    assert LexicalEvidence(None, TITLES).find("Febrile.", [FEVER]) == [[]]
    assert len(LexicalEvidence(None, TITLES).find("Fevers.", [FEVER, ("icd10cm", "Z99")])[0]) == 1


@pytest.mark.parametrize(
    ("note", "supported"),
    [
        ("Denies chest pain, fever or chills.", False),
        ("No fever.", False),
        ("There was no evidence of fever", False),
        ("Fever was ruled out.", False),
        ("Cough, fever not seen.", False),
        ("She did not have fever.", False),
        ("He was never found to have fever", False),
        ("Fever could not be ruled out.", True),
        ("No cough but fever.", True),
        ("No cough, has fever.", True),
        ("Denies cough; fever since Monday.", True),
        ("Without cough. Fever.", True),
        ("Not only fever.", True),
        ("Fever, no chills.", True),
        ("Cough was ruled out, fever stays.", True),
    ],
)
def test_what_is_negated_is_no_evidence(note: str, supported: bool) -> None:
    assert bool(texts(note, FEVER)) == supported


def test_the_stretch_that_a_cue_negates() -> None:
    note = "He denies pain or fever but has cough"
    assert [note[start:end] for start, end in negated(note, 0, len(note))] == [" pain or fever "]


def test_of_a_long_sentence_the_words_around_are_given() -> None:
    note = "and so on " * 100 + "with fever today " + "and on and on " * 100
    (found,) = texts(note, FEVER)
    assert "fever" in found and LONGEST_SPAN / 2 < len(found) <= LONGEST_SPAN


@given(NOTES)
def test_spans_lie_inside_the_note(note: str) -> None:
    for spans in EVIDENCE.find(note, list(TITLES), most=2):
        assert len(spans) <= 2
        assert [span.score for span in spans] == sorted((span.score for span in spans), reverse=True)
        for span in spans:
            text = note[span.start : span.end]
            assert 0 <= span.start < span.end <= len(note) and 0 < span.score <= 1
            assert text == text.strip() and len(text) <= LONGEST_SPAN
            assert any(word in text.lower() for word in ("fever", "chest", "pain", "calculus", "kidney"))


@pytest.mark.parametrize("unit", ["a", ".", "no ", "absent ", "\n- fever", "1. ", "\n ", "!'"])
def test_time_grows_with_the_length_alone(unit: str) -> None:
    EVIDENCE.find(unit * 10_000, [FEVER])  # with its square this would take minutes


def test_many_threads_at_once() -> None:
    notes = [f"{'Cough. ' * number}Fever. Chest pain number {number}." for number in range(40)]
    alone = [EVIDENCE.find(note, list(TITLES)) for note in notes]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda note: EVIDENCE.find(note, list(TITLES)), notes)) == alone


class CountedWords:
    """A code gains 0.5 nats each time that its word stands in the note, and is impossible without."""

    words = {FEVER: "fever", STONE: "stone"}

    def log_probabilities(self, notes, codes):
        counts = np.array([[note.lower().count(self.words[code]) for code in codes] for note in notes], float)
        return np.where(counts > 0, counts / 2 - 5, -np.inf)


def test_occlusion_finds_the_part_without_which_a_code_is_less_likely() -> None:
    note = "Fever since Monday.\nFever, fever again.\nHe had one stone.\nNothing else.\n"
    fever, stone = occlusion(CountedWords(), note, [FEVER, STONE], parts=4)
    assert [note[span.start : span.end] for span in fever] == ["Fever, fever again.", "Fever since Monday."]
    assert [span.score for span in fever] == pytest.approx([1 - np.exp(-1), 1 - np.exp(-0.5)])
    assert [(note[span.start : span.end], span.score) for span in stone] == [("He had one stone.", 1.0)]
    assert occlusion(CountedWords(), "Nothing. At all.", [FEVER]) == [[]]
    assert occlusion(CountedWords(), "Fever", [FEVER]) == [[]]


@given(NOTES, st.integers(1, 6))
def test_the_parts_are_the_note(note: str, parts: int) -> None:
    stretches = cut_evenly(note, parts)
    assert "".join(note[start:end] for start, end in stretches) == note
    assert len(stretches) <= parts and all(start < end for start, end in stretches)


def test_occlusion_with_a_language_model(base_model, adapter, vocabulary) -> None:
    settings = DecodingSettings(max_prompt_tokens=128, max_codes=4)
    engine = TransformersEngine(
        "tiny", base_model, adapter, vocabulary, PromptTemplate(), device="cpu", decoding=settings
    )
    codes = [(row.system, row.code) for row in vocabulary.codes[:2]]
    note = "Fever and cough. Chest pain on exertion. Nothing else was found."
    found = occlusion(engine, note, codes, parts=3)
    assert len(found) == 2
    assert all(0 <= span.start < span.end <= len(note) and 0 < span.score <= 1 for spans in found for span in spans)


@pytest.mark.parametrize("entry", ["- Fever", "* Fever", "  -- Fever", "# Fever", "•\tFever"])
def test_the_bullet_of_a_list_is_no_evidence(entry: str) -> None:
    assert texts(f"PMH:\n- asthma\n{entry}\n- gout", FEVER) == ["Fever"]
