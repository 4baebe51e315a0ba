from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medcode_serving.engines.protocol import Prediction, ScoredCode
from medcode_serving.engines.transformers import load_tokenizer
from medcode_serving.prompts import PromptTemplate, encode_prompts, normalise_note
from medcode_serving.windows import join_windows, split_windows

TEMPLATE = PromptTemplate()


@pytest.fixture(scope="module")
def tokenizer(base_model: Path):
    return load_tokenizer(base_model)


def places(note: str, texts: list[str]) -> list[tuple[int, int]]:
    """Return where each window is, looked for from behind the one before's beginning."""
    found = []
    for text in texts:
        start = note.index(text, found[-1][0] + 1 if found else 0)
        found.append((start, start + len(text)))
    return found


@settings(max_examples=30, deadline=None)
@given(
    note=st.lists(st.text("ab. \n\u00e9\U0001f600", min_size=1, max_size=30), min_size=1, max_size=40).map("".join),
    room=st.integers(8, 60),
)
@example("a" * 400, 20)
@example("\U0001f600" * 100, 8)
@example("a" + " " * 300 + "b", 8)
def test_windows_fit_and_are_the_whole_note(tokenizer, note: str, room: int) -> None:
    limit = len(tokenizer(TEMPLATE.render(""))["input_ids"]) + room
    texts = split_windows(tokenizer, TEMPLATE, note, limit)
    assert not any(prompt.truncated for prompt in encode_prompts(tokenizer, TEMPLATE, texts, limit))
    whole = normalise_note(note)
    end = 0
    for text in texts:  # no character is left out
        start = whole.rfind(text, 0, end + len(text))
        assert start <= end
        end = max(end, start + len(text))
    assert end == len(whole)


def test_windows_overlap_and_cut_no_word(tokenizer) -> None:
    note = " ".join(f"w{number}" for number in range(300))
    limit = len(tokenizer(TEMPLATE.render(""))["input_ids"]) + 100
    texts = split_windows(tokenizer, TEMPLATE, note, limit)
    words = [text.split() for text in texts]
    assert len(texts) > 3
    for before, after in zip(words, words[1:], strict=False):
        shared = before[before.index(after[0]) :]
        assert after[: len(shared)] == shared
        assert 1 <= len(shared) <= len(before) // 5
    assert list(dict.fromkeys(word for one in words for word in one)) == note.split()


def test_windows_end_at_lines_if_they_can(tokenizer) -> None:
    note = "\n".join(f"Line {number}. It is short." for number in range(60))
    limit = len(tokenizer(TEMPLATE.render(""))["input_ids"]) + 200
    texts = split_windows(tokenizer, TEMPLATE, note, limit)
    assert len(texts) > 2
    assert all(text.endswith("\n") for text in texts[:-1])


def test_a_limit_without_room_is_refused(tokenizer) -> None:
    with pytest.raises(ValueError, match="no room"):
        split_windows(tokenizer, TEMPLATE, "Fever.", 10)


def test_windows_are_joined_by_the_highest_probability() -> None:
    def answer(*codes: tuple[str, float, float], dropped: int = 0) -> Prediction:
        return Prediction(
            tuple(ScoredCode("icd10cm", code, None, p, support=s) for code, p, s in codes), dropped=dropped
        )

    joined = join_windows([answer(("I10", 0.5, 0.1), ("E11", 0.7, 1.0)), answer(("I10", 0.9, 0.8), dropped=2)], 5)
    assert [(code.code, code.probability, code.support) for code in joined.codes] == [
        ("I10", 0.9, 0.8),
        ("E11", 0.7, 1.0),
    ]
    assert (joined.windows, joined.dropped, joined.truncated) == (2, 2, False)
    assert len(join_windows([answer(("I10", 0.5, 0.1), ("E11", 0.7, 1.0))] * 2, 1).codes) == 1
