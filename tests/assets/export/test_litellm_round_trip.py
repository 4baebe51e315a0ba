"""An exported bundle under llama.cpp's own server, asked over HTTP, beside the same model in transformers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medcode_serving.bundle import DecodingSettings
from medcode_serving.codes.vocabulary import Vocabulary, VocabularyCode
from medcode_serving.engines.litellm import LiteLLMEngine
from medcode_serving.engines.protocol import NoteOptions, Prediction
from medcode_serving.engines.transformers import TransformersEngine
from medcode_serving.prompts import PromptTemplate
from medcode_serving.settings import RemoteSettings
from tests import tiny
from tests.assets.export.conftest import SERVER_KEY, openai_server

CODES = ["E11", "E11.9", "E11.65", "I10", "J18.9", "N17.9", "0DTJ4ZZ", "401.9"]
NOTES = [
    "Type 2 diabetes, well controlled.",
    "Hypertension; pneumonia after diarrhoea.",
    "Appendectomy.",
    "BP 180/110, started on amlodipine 5 mg.",
    "naïve; [** 2150-3-14 **] ___",
    "67 y/o with pneumonia, HR 112",
]
DECODING = DecodingSettings(max_prompt_tokens=192, max_codes=4)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary([VocabularyCode("icd10cm", code, code, None, 1) for code in CODES])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random base model and adapter whose tokens are single bytes.

    A grammar is about text and `CodeTrie` about tokens: with bytes for tokens, both leave the model the same choices.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base, adapter = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("adapter")
    size = tiny.write_tokenizer(base, ["zz zz zz"], 258, pad_token=tiny.END)  # llama.cpp wants one pair of bytes
    tiny.qwen2(size, seed=3, hidden_size=64, initializer_range=0.2).save_pretrained(base)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(adapter)
    return base, adapter


@pytest.fixture(scope="module")
def address(model: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The exported model under llama.cpp's server, on a free port of this machine."""
    from medcode_assets.export.gguf import write_gguf
    from medcode_assets.export.merge import merge_adapter
    from medcode_assets.export.metadata import ModelMetadata

    merged = merge_adapter(*model, tmp_path_factory.mktemp("merged") / "model")
    file = tmp_path_factory.mktemp("gguf") / "m.gguf"
    write_gguf(merged, file, file_type="f32", metadata=ModelMetadata("tiny", "1"))
    with openai_server(file, context_length=256) as address:
        yield address


@pytest.fixture
def ask(address: str, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    monkeypatch.setenv("MEDCODE_REMOTE_API_KEY", SERVER_KEY)
    engines = []

    def predict(options: NoteOptions, **remote) -> list[Prediction]:
        settings = RemoteSettings(model="tiny", api_base=address, max_tokens=60, **remote)
        engines.append(LiteLLMEngine(vocabulary, PromptTemplate(), DECODING, settings))
        return engines[-1].predict(NOTES, options=[options] * len(NOTES))

    yield predict
    for engine in engines:
        engine.close()


@pytest.fixture(scope="module")
def here(model: tuple[Path, Path], vocabulary: Vocabulary) -> TransformersEngine:
    return TransformersEngine("transformers", *model, vocabulary, PromptTemplate(), DECODING, device="cpu")


def codes(prediction: Prediction) -> list[str]:
    return [code.code for code in prediction.codes]


@pytest.mark.parametrize("constraint", ["auto", "grammar"])
def test_llamacpp_under_the_grammar_finds_the_codes_that_transformers_finds(ask, here, constraint: str) -> None:
    for most in (1, 2):
        options = NoteOptions(max_codes=most)
        wanted = [codes(prediction) for prediction in here.predict(NOTES, options=[options] * len(NOTES))]
        found = ask(options, constraint=constraint)
        # A grammar cannot forbid a code that was written already: where the model repeats the first, no second follows.
        assert all(codes(answer) in (list_, list_[:1]) for answer, list_ in zip(found, wanted, strict=True))
        assert [prediction.dropped for prediction in found] == [0] * len(NOTES)
        assert all(0 < code.probability <= 1 for prediction in found for code in prediction.codes)
    assert len({codes(prediction)[0] for prediction in found}) > 1  # the notes matter
    assert any(len(prediction.codes) == 2 for prediction in found)


def test_longer_answers_hold_valid_codes_each_once(ask) -> None:
    for prediction in ask(NoteOptions(), protocol="chat"):
        assert 1 <= len(prediction.codes) <= DECODING.max_codes
        assert set(codes(prediction)) <= set(CODES)
        assert len(set(codes(prediction))) == len(prediction.codes)
        assert prediction.dropped == 0


def test_what_is_written_freely_is_parsed(ask) -> None:
    for options, constraint in ((NoteOptions(), "none"), (NoteOptions(constrained=False), "auto")):
        predictions = ask(options, constraint=constraint)
        assert sum(prediction.dropped for prediction in predictions) > 0  # random weights write noise
        assert all(set(codes(prediction)) <= set(CODES) for prediction in predictions)


def test_a_note_that_is_too_long_for_the_server(address: str, vocabulary: Vocabulary, monkeypatch) -> None:
    monkeypatch.setenv("MEDCODE_REMOTE_API_KEY", SERVER_KEY)
    engine = LiteLLMEngine(vocabulary, PromptTemplate(), DECODING, RemoteSettings(model="tiny", api_base=address))
    long, short = engine.predict(["Hypertension. " * 100, NOTES[0]], options=[NoteOptions(long_notes="refuse")] * 2)
    assert (long.outcome, long.codes) == ("too_long", ())
    assert short.outcome == "complete"
    engine.close()
