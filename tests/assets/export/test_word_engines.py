"""The engines `llamacpp` and `litellm` where answers are words, beside the same model in transformers."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from medcode_assets.export.gguf import write_gguf
from medcode_assets.export.metadata import ModelMetadata
from medcode_serving import base_models
from medcode_serving.bundle import DecodingSettings
from medcode_serving.engines.litellm_words import LiteLLMWordsEngine
from medcode_serving.engines.llamacpp_words import LlamaCppWordsEngine
from medcode_serving.engines.protocol import NoteOptions, Prediction, Writing
from medcode_serving.engines.words import WordsEngine
from medcode_serving.errors import MedcodeError, OptionError
from medcode_serving.prompts import PromptTemplate
from medcode_serving.settings import RemoteSettings
from tests import tiny
from tests.assets.export.conftest import SERVER_KEY, openai_server

QUESTIONS = [
    "Which drug ends an attack of gout?",
    "naïve: what is BP 150/90? Drink water. Take 2.5 mg. Rest.",
    "Why <|endoftext|>?",
    "Is a cough of three weeks to be seen by a doctor? " * 9,
]
EMBEDDED = Path(base_models.__file__).parent / "embedded"
PROMPT = PromptTemplate(answer="words")
DECODING = DecodingSettings(max_prompt_tokens=120, max_answer_tokens=40)


@pytest.fixture(scope="module")
def f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "m.gguf"
    return write_gguf(EMBEDDED, file, file_type="f32", metadata=ModelMetadata("tiny", "1"))


@pytest.fixture(scope="module")
def engine(f32: Path) -> Iterator[LlamaCppWordsEngine]:
    found = LlamaCppWordsEngine(f32, EMBEDDED, PROMPT, DECODING, slots=2, threads=1)
    yield found
    found.close()


@pytest.fixture(scope="module")
def transformers() -> WordsEngine:
    return WordsEngine("base", EMBEDDED, None, PROMPT, DECODING, device="cpu")


def texts(predictions: list[Prediction]) -> list[str]:
    return [prediction.written.text for prediction in predictions if prediction.written]


@pytest.mark.parametrize(
    "writing",
    [
        Writing(),
        Writing(max_tokens=5),
        Writing(length_penalty=0.5),
        Writing(max_sentences=1),
        Writing(max_sentences=1, length_penalty=0.2),
    ],
    ids=str,
)
def test_answers_are_those_of_transformers(
    engine: LlamaCppWordsEngine, transformers: WordsEngine, writing: Writing
) -> None:
    options = [NoteOptions(writing=writing)] * len(QUESTIONS)
    progress: list[int] = []
    found = engine.predict(QUESTIONS, options=options, on_progress=progress.append)
    wanted = transformers.predict(QUESTIONS, options=options)
    assert sum(progress) == len(QUESTIONS)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.written is not None
        assert theirs.written is not None
        assert (ours.written.text, ours.written.tokens) == (theirs.written.text, theirs.written.tokens)
        assert (ours.written.cut, ours.truncated) == (theirs.written.cut, theirs.truncated)
        assert ours.written.confidence == pytest.approx(theirs.written.confidence, rel=1e-3)
    assert [prediction.truncated for prediction in found] == [False, False, False, True]


def test_draws_follow_the_model_at_the_temperature_and_a_seed_repeats_them(
    engine: LlamaCppWordsEngine, transformers: WordsEngine
) -> None:
    draws = 80

    def drawn(which: LlamaCppWordsEngine | WordsEngine, temperature: float) -> Counter[str]:
        options = [NoteOptions(writing=Writing(1, temperature, seed)) for seed in range(draws)]
        return Counter(texts(which.predict([QUESTIONS[0]] * draws, options=options)))

    for temperature in (0.7, 1.5):
        ours, theirs = drawn(engine, temperature), drawn(transformers, temperature)
        assert len(ours) > 5
        # Half the sum of differences between two samples of one distribution of k tokens is about sqrt(k / (pi n)).
        apart = sum(abs(ours[text] - theirs[text]) for text in ours | theirs) / (2 * draws)
        assert apart < 2 * math.sqrt(len(ours | theirs) / (math.pi * draws))
        assert drawn(engine, temperature) == ours
    assert drawn(engine, 0.01) == Counter({texts(engine.predict(QUESTIONS[:1], options=[_one_token()]))[0]: draws})


def _one_token() -> NoteOptions:
    return NoteOptions(writing=Writing(max_tokens=1))


def test_a_seed_repeats_an_answer_of_several_requests(engine: LlamaCppWordsEngine) -> None:
    def drawn(seed: int | None) -> list[str]:
        return texts(engine.predict(QUESTIONS, options=[NoteOptions(writing=Writing(None, 1.5, seed))] * 4))

    assert drawn(7) == drawn(7) != drawn(8)
    assert drawn(None) != drawn(None)


def test_long_questions_are_refused_where_that_is_asked_and_given_up_ones_say_so(engine: LlamaCppWordsEngine) -> None:
    options = [NoteOptions(long_notes="refuse"), NoteOptions(ended=lambda: True)]
    long, ended = engine.predict([QUESTIONS[3], QUESTIONS[0]], options=options)
    assert (long.outcome, long.written) == ("too_long", None)
    assert (ended.outcome, ended.written) == ("ended", None)


def test_files_limits_and_ends_that_do_not_fit_are_refused(f32: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny.write_tokenizer(other, ["another text altogether"] * 2, 300, pad_token=tiny.END)
    with pytest.raises(MedcodeError, match="splits text otherwise than the tokenizer in"):
        LlamaCppWordsEngine(f32, other, PROMPT, DECODING, threads=1)
    with pytest.raises(MedcodeError, match="leaves no room for an answer in"):
        LlamaCppWordsEngine(f32, EMBEDDED, PROMPT, DecodingSettings(max_prompt_tokens=5_000), threads=1)
    found = LlamaCppWordsEngine(f32, EMBEDDED, PROMPT, DECODING, slots=1, threads=1)
    found.close()
    with pytest.raises(MedcodeError, match="engine llamacpp was closed"):
        found.predict(QUESTIONS)


@pytest.fixture(scope="module")
def remote(f32: Path) -> Iterator[LiteLLMWordsEngine]:
    """The engine `litellm`, before llama.cpp's server with the same file."""
    with openai_server(f32, context_length=160) as address, pytest.MonkeyPatch.context() as environment:
        environment.setenv("MEDCODE_REMOTE_API_KEY", SERVER_KEY)
        settings = RemoteSettings(model="m", api_base=address, concurrency=2)
        found = LiteLLMWordsEngine(PROMPT, DECODING, settings)
        yield found
        found.close()


@pytest.mark.parametrize("writing", [Writing(), Writing(max_tokens=5), Writing(max_sentences=1)], ids=str)
def test_a_server_answers_as_transformers(
    remote: LiteLLMWordsEngine, transformers: WordsEngine, writing: Writing
) -> None:
    options = [NoteOptions(writing=writing)] * 2
    progress: list[int] = []
    found = remote.predict(QUESTIONS[:2], options=options, on_progress=progress.append)
    assert progress == [1, 1]
    for ours, theirs in zip(found, transformers.predict(QUESTIONS[:2], options=options), strict=True):
        assert ours.written is not None
        assert theirs.written is not None
        assert (ours.written.text, ours.written.cut) == (theirs.written.text, theirs.written.cut)
        assert abs(ours.written.tokens - theirs.written.tokens) <= 1  # a sentence's end is seen a token later here
        assert ours.written.confidence == pytest.approx(theirs.written.confidence, abs=0.05)


def test_a_server_draws_with_temperature_and_seed(remote: LiteLLMWordsEngine) -> None:
    def drawn(seed: int) -> list[str]:
        return texts(remote.predict(QUESTIONS[:2], options=[NoteOptions(writing=Writing(None, 1.5, seed))] * 2))

    assert drawn(7) == drawn(7) != drawn(8)


def test_a_server_is_asked_for_no_length_penalty_and_not_for_what_ended_or_is_too_long(
    remote: LiteLLMWordsEngine,
) -> None:
    with pytest.raises(OptionError, match="no length penalty"):
        remote.predict(QUESTIONS, options=[NoteOptions(writing=Writing(length_penalty=0.5))] * 4)
    options = [NoteOptions(ended=lambda: True), NoteOptions(long_notes="refuse")]
    ended, long = remote.predict([QUESTIONS[0], QUESTIONS[3] * 5], options=options)
    assert (ended.outcome, long.outcome) == ("ended", "too_long")
