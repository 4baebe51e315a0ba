"""The embedded base model: a tiny one is built here, the committed one is loaded and looked at."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import medcode_serving
from medcode_assets.corpora.pretraining_text import generate_pretraining_documents
from medcode_assets.training.pretraining import (
    QWEN2_SPLIT,
    PretrainingSettings,
    batch_documents,
    build_embedded_model,
    learning_rate_at,
    train_tokenizer,
)

EMBEDDED = Path(medcode_serving.__file__).parent / "base_models" / "embedded"
MICRO = PretrainingSettings(
    vocabulary=320,
    tokenizer_documents=100,
    hidden=32,
    intermediate=64,
    layers=1,
    heads=2,
    key_value_heads=1,
    steps=4,
    batch=2,
    longest=64,
)
TEXTS = ["chest pain, HR 112", "HTN (I10); T2DM: E11.9", " two  spaces\n\n___ 38.5°C \t naïve β", "5A1D70Z 250.00"]


@pytest.fixture(scope="module")
def micro(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "micro"
    build_embedded_model(folder, seed=3, settings=MICRO, official=())
    return folder


def test_a_few_steps_give_a_model_that_loads_and_generates(micro):
    model = AutoModelForCausalLM.from_pretrained(micro, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(micro)
    out = model.generate(**tokenizer("HTN", return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert out.shape[1] > 1
    assert (micro / "README.md").read_text().count("{") == 0


def test_the_same_seed_gives_the_same_files(micro, tmp_path):
    build_embedded_model(tmp_path / "again", seed=3, settings=MICRO, official=())
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (micro / name).read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["again"]


def test_batches_hold_whole_documents_and_weigh_text_less_than_index():
    documents = list(islice(generate_pretraining_documents(1), 40))
    tokenizer = train_tokenizer((d.text + d.index for d in documents), 320)
    settings, seen = replace(MICRO, longest=400), set()
    batches = batch_documents(tokenizer, iter(documents), settings)
    for ids, weights in islice(batches, len(documents) // settings.batch):
        assert ids.shape == weights.shape and ids.shape[1] <= settings.longest
        assert ((ids == 1) == (weights == 0)).all()  # padding, and nothing else, is free
        seen |= set(weights.unique().tolist())
    assert sorted(round(weight, 3) for weight in seen) == [0.0, MICRO.text_weight, 1.0]


def test_the_learning_rate_warms_up_and_falls_to_zero():
    settings = PretrainingSettings(steps=100, warmup=0.1, learning_rate=1.0)
    rates = [learning_rate_at(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[10] == 1.0 and rates[-1] < 0.001


def test_the_embedded_model_is_small_and_loads():
    assert (EMBEDDED / "model.safetensors").stat().st_size <= 16 * 2**20
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    config = model.config
    assert config.model_type == "qwen2" and config.tie_word_embeddings
    assert config.hidden_size % 256 == config.intermediate_size % 256 == 0
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert "Not for clinical use" in (EMBEDDED / "README.md").read_text()


@pytest.mark.parametrize("text", TEXTS)
def test_the_embedded_tokenizer_is_qwen2s_and_round_trips(text):
    auto, plain = AutoTokenizer.from_pretrained(EMBEDDED), Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    ids = auto(text).input_ids
    assert ids == plain.encode(text).ids
    assert auto.decode(ids) == plain.decode(ids) == text
    assert QWEN2_SPLIT in str(plain.pre_tokenizer) or QWEN2_SPLIT in _split_of(EMBEDDED)
    assert len(auto) == AutoModelForCausalLM.from_pretrained(EMBEDDED).config.vocab_size
    assert (auto.eos_token, auto.pad_token, auto.bos_token) == ("<|endoftext|>", "<|pad|>", None)


def _split_of(folder):
    import json

    return json.loads((folder / "tokenizer.json").read_text())["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
