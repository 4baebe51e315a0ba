"""Answers in words token by token, on logits written by hand: no model."""

import math

import numpy as np
import pytest
import torch

from medcode_serving.engines.protocol import Writing
from medcode_serving.engines.writing import WordWriter
from medcode_serving.errors import MedcodeError

WORDS = {1: " Take", 2: " rest.", 3: " Drink", 4: " water.", 5: " 2.5", 6: " mg"}
END = 0


def decode(tokens: list[int]) -> str:
    return "".join(WORDS[token] for token in tokens)


def logits(*rows: dict[int, float]) -> torch.Tensor:
    """Rows of logits over seven tokens; what is not named is very unlikely."""
    found = torch.full((len(rows), 7), -50.0)
    for place, row in enumerate(rows):
        for token, value in row.items():
            found[place, token] = value
    return found


def write(writing: Writing, steps: list[dict[int, float]], max_tokens: int = 10):
    writer = WordWriter([writing], ends={END}, max_tokens=max_tokens, decode=decode)
    taken = 0
    for step in steps:
        taken += 1
        going_on, tokens = writer.write(logits(step))
        assert len(tokens) == len(going_on)
        if not len(going_on):
            break
    return writer.answers[0], taken


def test_confidence_is_the_geometric_mean_of_all_tokens_and_the_end() -> None:
    # Probabilities 1/2, then 3/4, then 1 of the end.
    steps = [{1: 0.0, 3: 0.0}, {2: math.log(3.0), 4: 0.0}, {END: 0.0}]
    answer, _ = write(Writing(), steps)
    assert (answer.text, answer.tokens, answer.cut) == ("Take rest.", 2, False)
    assert answer.confidence == pytest.approx((0.5 * 0.75 * 1.0) ** (1 / 3))


def test_an_answer_at_the_limit_is_cut_and_no_request_goes_beyond_it() -> None:
    steps = [{1: 0.0}, {2: 0.0}, {3: 0.0}, {4: 0.0}]
    answer, taken = write(Writing(max_tokens=99), steps, max_tokens=3)
    assert (answer.tokens, answer.cut, taken) == (3, True, 3)
    answer, taken = write(Writing(max_tokens=2), steps, max_tokens=3)
    assert (answer.text, answer.cut, taken) == ("Take rest.", True, 2)


def test_an_end_at_once_is_an_empty_answer() -> None:
    answer, _ = write(Writing(), [{END: 0.0}])
    assert (answer.text, answer.tokens, answer.cut) == ("", 0, False)
    assert answer.confidence == pytest.approx(1.0)


def test_the_length_penalty_grows_with_the_answer_and_is_not_in_its_confidence() -> None:
    # The end is two nats behind: with one nat a token it is level after two tokens and ahead after three.
    step = {1: 2.0, END: 0.0}
    free, _ = write(Writing(), [step] * 10)
    assert free.tokens == 10
    short, _ = write(Writing(length_penalty=1.0), [step] * 10)
    assert (short.tokens, short.cut) == (3, False)
    p = math.exp(2) / (1 + math.exp(2))
    assert short.confidence == pytest.approx((p**3 * (1 - p)) ** 0.25)


def test_an_answer_ends_with_its_last_allowed_sentence_and_decimals_end_none() -> None:
    steps = [{1: 0.0}, {5: 0.0}, {6: 0.0}, {2: 0.0}, {3: 0.0}, {4: 0.0}, {1: 0.0}, {2: 0.0}]
    answer, _ = write(Writing(max_sentences=1), steps)
    assert (answer.text, answer.cut) == ("Take 2.5 mg rest.", False)
    answer, _ = write(Writing(max_sentences=2), steps)
    assert answer.text == "Take 2.5 mg rest. Drink water."
    answer, _ = write(Writing(max_sentences=9), [*steps, {END: 0.0}])
    assert answer.text == "Take 2.5 mg rest. Drink water. Take rest."


def test_draws_follow_temperature_and_repeat_with_their_seed() -> None:
    step = {1: 1.0, 3: 0.0}

    def drawn(temperature: float, seed: int) -> list[int]:
        writer = WordWriter(
            [Writing(temperature=temperature, seed=seed + row) for row in range(400)],
            ends={END},
            max_tokens=1,
            decode=decode,
        )
        writer.write(logits(*[step] * 400))
        return [answer.text == "Take" for answer in writer.answers]

    assert drawn(1.0, 0) == drawn(1.0, 0)
    for temperature in (0.5, 1.0, 2.0):
        share = np.mean(drawn(temperature, 7))
        assert share == pytest.approx(1 / (1 + math.exp(-1 / temperature)), abs=0.07)


def test_rows_are_written_each_in_its_own_way() -> None:
    writer = WordWriter(
        [Writing(), Writing(max_tokens=1), Writing(temperature=1e-6, seed=1)], ends={END}, max_tokens=5, decode=decode
    )
    going_on, tokens = writer.write(logits({1: 0.0}, {3: 0.0}, {1: 0.0}))
    assert going_on.tolist() == [0, 2]
    assert tokens.tolist() == [[1], [1]]
    writer.keep(np.array([1]))  # the first is given up
    going_on, _ = writer.write(logits({END: 0.0}))
    assert going_on.tolist() == []
    assert [answer.text for answer in writer.answers] == ["Take", "Drink", "Take"]


def test_logits_that_are_no_numbers_are_an_error() -> None:
    writer = WordWriter([Writing()], ends={END}, max_tokens=5, decode=decode)
    with pytest.raises(MedcodeError, match="no finite numbers"):
        writer.write(torch.full((1, 7), math.nan))


def test_the_smallest_temperature_that_there_is_takes_the_likeliest_token() -> None:
    answer, _ = write(Writing(temperature=5e-324, seed=1), [{1: 1.0, 3: 0.0}, {2: 1.0, 4: 0.5}, {END: 0.0}])
    assert answer.text == "Take rest."
