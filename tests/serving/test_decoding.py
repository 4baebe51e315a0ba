import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_serving.decoding import (
    CodeTrie,
    DecodedCode,
    GreedyAnswers,
    build_trie,
    cached_trie,
    given_answer,
    load_trie,
    trie_key,
)
from medcode_serving.decoding.trie import ARRAYS
from medcode_serving.engines.transformers import load_tokenizer
from medcode_serving.errors import MedcodeError

LETTERS = "EIJN"
RANDOM_CODES = st.builds(
    lambda letter, digits, rest: f"{letter}{digits}" + (f".{rest}" if rest else ""),
    st.sampled_from(LETTERS),
    st.sampled_from(["10", "11", "18"]),
    st.text("0169", max_size=2),
)


@pytest.fixture(scope="module")
def tokenizer(base_model: Path):
    return load_tokenizer(base_model)


def decode(
    trie: CodeTrie, logits_of, rows: int, *, max_codes, max_tokens: int, give_up: dict[int, int] | None = None
) -> list[list[DecodedCode]]:
    """Run the decoder over a made-up model: `logits_of(row, tokens written so far)` gives a logit a token.

    `give_up` tells after how many steps a row is given up.
    """
    answers = GreedyAnswers(trie, rows, max_codes=max_codes, max_tokens=max_tokens)
    written: dict[int, list[int]] = {row: [] for row in range(rows)}
    alive = np.arange(rows)
    for step in itertools.count(1):
        if not len(alive):
            return answers.answers
        places, tokens = answers.choices()
        logits = np.array([logits_of(row, written[row]) for row in alive])
        going_on, new = answers.choose(logits[places, tokens], np.log(np.exp(logits).sum(axis=1)))
        alive = alive[going_on]
        for row, block in zip(alive, new, strict=True):
            written[row] += [token for token in block.tolist() if token >= 0]
            assert len(written[row]) < max_tokens
        kept = np.array([place for place, row in enumerate(alive) if (give_up or {}).get(row) != step], dtype=np.int64)
        answers.keep(kept)
        alive = alive[kept]
    raise AssertionError


def slow_reference(tokenizer, texts: list[str], logits_of, row: int, max_codes: int, max_tokens: int):
    """The definition, written down plainly: greedy over everything that some allowed answer goes on with."""
    paths = [tokenizer(" " + text, add_special_tokens=False)["input_ids"] for text in texts]
    comma, end = tokenizer(",", add_special_tokens=False)["input_ids"][0], tokenizer.eos_token_id
    longest = max(map(len, paths))
    written: list[int] = []
    used: list[int] = []
    answer: list[tuple[int, float, float]] = []
    confidence, support, prefix = 1.0, 1.0, []
    while True:
        unused = [index for index in range(len(texts)) if index not in used]
        going = {
            paths[i][len(prefix)] for i in unused if paths[i][: len(prefix)] == prefix and len(paths[i]) > len(prefix)
        }
        finished = [i for i in unused if paths[i] == prefix]
        closing = set()
        if finished:
            closing = {end}
            room = len(written) + 1 + longest + 1 <= max_tokens
            if len(used) + 1 < min(max_codes, len(texts)) and room:
                closing.add(comma)
        logits = logits_of(row, written)
        weights = {token: math.exp(logits[token]) for token in going | closing}
        total = sum(weights.values())
        token = max(weights, key=weights.__getitem__)
        ways = {tuple(path[len(prefix) : len(prefix) + 1]) for path in paths if path[: len(prefix)] == prefix}
        if not prefix or len(ways) > 1 or () in ways:  # elsewhere the vocabulary leaves nothing to decide
            support *= total / np.exp(logits).sum()
        if token in closing:
            close = sum(weights[one] for one in closing)
            answer.append((finished[0], confidence * close / total, support))
            used.append(finished[0])
            if token == end:
                return answer
            confidence, support, prefix = weights[token] / close, 1.0, []
        else:
            confidence *= weights[token] / total
            prefix = [*prefix, token]
        written.append(token)


def random_model(tokenizer, seed: int):
    """Return logits that depend on row and tokens alone."""
    return lambda row, written: np.random.default_rng([seed, row, *written]).normal(scale=3, size=len(tokenizer))


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(RANDOM_CODES, min_size=1, max_size=12, unique=True),
    seed=st.integers(0, 2**32 - 1),
    max_codes=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    budget=st.integers(0, 30),
)
def test_random_models_write_what_the_definition_says(tokenizer, texts, seed, max_codes, budget) -> None:
    trie = build_trie(tokenizer, texts)
    max_tokens = trie.longest + 1 + budget
    logits_of = random_model(tokenizer, seed)
    answers = decode(trie, logits_of, 3, max_codes=max_codes, max_tokens=max_tokens)
    for row, answer in enumerate(answers):
        indices = [decoded.index for decoded in answer]
        assert 1 <= len(indices) <= max_codes[row]
        assert len(set(indices)) == len(indices)
        expected = slow_reference(tokenizer, texts, logits_of, row, max_codes[row], max_tokens)
        assert indices == [index for index, _, _ in expected]
        assert [decoded.confidence for decoded in answer] == pytest.approx([value for _, value, _ in expected])
        assert [decoded.support for decoded in answer] == pytest.approx([value for _, _, value in expected])
        assert all(0 <= value <= 1 for decoded in answer for value in (decoded.confidence, decoded.support))


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(RANDOM_CODES, min_size=2, max_size=12, unique=True), seed=st.integers(0, 2**32 - 1))
def test_a_given_answer_has_the_confidences_of_the_written_one(tokenizer, texts, seed) -> None:
    trie = build_trie(tokenizer, texts)
    logits_of, limits = random_model(tokenizer, seed), {"max_codes": 4, "max_tokens": 4 * (trie.longest + 1)}
    (written,) = decode(trie, logits_of, 1, **limits)
    answer = given_answer(trie, [code.index for code in written], **limits)
    log_p = np.zeros(answer.codes)
    code = 0
    for decision in answer.decisions:
        logits = logits_of(0, answer.tokens[: decision.position])[decision.tokens]
        logits -= np.logaddexp.reduce(logits)
        assert decision.chosen == logits.argmax()  # a greedy answer
        closes = decision.closing[decision.chosen]
        log_p[code] += np.logaddexp.reduce(logits[decision.closing]) if closes else logits.max()
        code += closes
        if closes and code < answer.codes:
            log_p[code] += logits.max() - np.logaddexp.reduce(logits[decision.closing])
    assert np.exp(log_p) == pytest.approx([code.confidence for code in written])


def test_an_answer_that_cannot_be_written_is_refused(tokenizer) -> None:
    trie = build_trie(tokenizer, ["E11", "E11.9", "I10"])
    assert given_answer(trie, [1, 0, 2], max_codes=3, max_tokens=40).codes == 3
    with pytest.raises(ValueError, match="once"):
        given_answer(trie, [1, 1], max_codes=3, max_tokens=40)
    with pytest.raises(ValueError, match="fit"):
        given_answer(trie, [0, 1, 2], max_codes=2, max_tokens=40)


def test_a_row_that_is_given_up_does_not_disturb_the_others(tokenizer) -> None:
    texts = ["E11", "E11.9", "E11.65", "I10", "J18.9"]
    trie = build_trie(tokenizer, texts)
    logits_of, limits = random_model(tokenizer, 3), {"max_codes": 4, "max_tokens": 40}
    whole = decode(trie, logits_of, 3, **limits)
    assert min(map(len, whole)) >= 1
    answers = decode(trie, logits_of, 3, **limits, give_up={1: 1})
    assert [answers[0], answers[2]] == [whole[0], whole[2]]
    assert answers[1] != whole[1]


def test_a_vocabulary_of_one_code_is_certain(tokenizer) -> None:
    trie = build_trie(tokenizer, ["I10"])
    answers = decode(trie, lambda row, written: np.zeros(len(tokenizer)), 2, max_codes=4, max_tokens=40)
    assert answers == [[DecodedCode(0, 1.0, pytest.approx(len(tokenizer) ** -2.0))]] * 2


def test_a_model_that_never_ends_is_stopped_between_codes(tokenizer) -> None:
    texts = [f"J{number}.9" for number in range(10, 40)]
    trie = build_trie(tokenizer, texts)
    logits = np.zeros(len(tokenizer))
    logits[trie.separator] = 50.0
    (answer,) = decode(trie, lambda row, written: logits, 1, max_codes=99, max_tokens=4 * (trie.longest + 1))
    assert len(answer) == 4


def test_logits_that_are_no_numbers_are_an_error(tokenizer) -> None:
    trie = build_trie(tokenizer, ["I10", "J18.9"])
    with pytest.raises(MedcodeError, match="finite"):
        decode(trie, lambda row, written: np.full(len(tokenizer), np.nan), 1, max_codes=4, max_tokens=40)


def test_a_tokenizer_that_joins_codes_is_refused() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<end>", ",", "I10", "J18.9", "I10,", "J18.9,"]
    joining = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<end>"))
    joining.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=joining, eos_token="<end>")
    with pytest.raises(MedcodeError, match="byte-level"):
        build_trie(tokenizer, ["I10", "J18.9"])


def assert_same(one: CodeTrie, other: CodeTrie) -> None:
    for field in dataclasses.fields(CodeTrie):
        assert np.array_equal(getattr(one, field.name), getattr(other, field.name))


def test_a_trie_is_built_once(tokenizer, tmp_path: Path) -> None:
    texts = ["E11", "E11.9", "I10", "0DTJ4ZZ"]
    bundle, cache = tmp_path / "bundle", tmp_path / "home" / "tries"
    built = cached_trie(tokenizer, texts, [bundle, cache])
    (file,) = cache.iterdir()
    assert file.name == f"{trie_key(tokenizer, texts)}.npz"
    assert not bundle.exists()
    assert_same(load_trie(file), built)
    made = file.stat().st_mtime_ns
    bundle.mkdir()
    file.rename(bundle / file.name)
    assert_same(cached_trie(tokenizer, texts, [bundle, cache]), built)
    assert (bundle / file.name).stat().st_mtime_ns == made
    assert not any(cache.iterdir())


def test_the_key_of_a_trie_names_all_that_it_depends_on(tokenizer, base_model: Path) -> None:
    key = trie_key(tokenizer, ["E11", "I10"])
    tokenizer(["I10 and more", "I10"], padding=True, truncation=True, max_length=2)  # leaves its settings behind
    assert trie_key(tokenizer, ["E11", "I10"]) == key
    assert trie_key(load_tokenizer(base_model), ["E11", "I10"]) == key
    assert trie_key(tokenizer, ["I10", "E11"]) != key
    other = load_tokenizer(base_model)
    other.add_tokens(["I10"])
    assert trie_key(other, ["E11", "I10"]) != key


def test_a_damaged_trie_is_refused_and_made_anew(tokenizer, tmp_path: Path) -> None:
    texts = ["E11", "I10"]
    built = cached_trie(tokenizer, texts, [tmp_path])
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damaged in (b"", b"text", whole[:-200], whole[:300] + b"xxxx" + whole[304:]):
        file.write_bytes(damaged)
        with pytest.raises(MedcodeError, match="no code trie"):
            load_trie(file)
        assert_same(cached_trie(tokenizer, texts, [tmp_path]), built)
        assert_same(load_trie(file), built)
    np.savez(file, scalars=np.array([99, 1, 1, 1]), **{name: np.zeros(1) for name in ARRAYS})
    with pytest.raises(MedcodeError, match="format 99"):
        load_trie(file)


def test_where_nothing_may_be_written_the_trie_is_only_built(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    trie = cached_trie(tokenizer, ["E11", "I10"], [tmp_path / "file" / "tries"])
    assert_same(trie, build_trie(tokenizer, ["E11", "I10"]))
