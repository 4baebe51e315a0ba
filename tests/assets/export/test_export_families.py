"""Every family and every splitting rule in llama.cpp itself."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medcode_assets.export.families import FAMILIES, _longrope_attention_factor, complete_config, family_of
from medcode_assets.export.gguf import read_config, write_gguf
from medcode_assets.export.tokenizer import read_tokenizer
from medcode_serving.engines.llamacpp_server import LlamaCppServer, llamacpp_available
from medcode_serving.errors import MedcodeError
from tests import tiny
from tests.assets.export.conftest import FAMILY_MODELS, LLAMA3, METADATA, VOCABULARY, TinyModel, split_by, write_model

needs_llamacpp = pytest.mark.skipif(not llamacpp_available(), reason="the extra llamacpp is not installed")


def next_token(server: LlamaCppServer, tokens: list[int]) -> np.ndarray:
    """llama.cpp's log probabilities; made to answer a plain letter, because it tells them only with valid UTF-8."""
    letter = server.tokenize("A")[-1]
    answer = server.complete(tokens, 1, n_probs=VOCABULARY, logit_bias=[[letter, 1e4]])
    row = np.full(VOCABULARY, np.nan)
    for told in answer["completion_probabilities"][0]["top_logprobs"]:
        row[told["id"]] = told["logprob"]
    return row - np.log(np.exp(row).sum())  # they are f32, and sum up to one within 1e-6 only


def divergences(folder: Path, file: Path, lengths: Sequence[int]) -> list[float]:
    """KL divergence of llama.cpp's next-token distribution from transformers', nats, after each number of tokens."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = torch.randint(5, 300, (max(lengths),), generator=torch.Generator().manual_seed(1))
    context = 256 * math.ceil(max(lengths) / 256)  # llama.cpp makes it such a multiple anyway; longrope asks for it
    found = []
    with LlamaCppServer(file, context_length=context, exact=True) as server, torch.inference_mode():
        for length in lengths:
            expected = model(tokens[None, :length]).logits[0, -1].double().log_softmax(-1).numpy()
            row = next_token(server, tokens[:length].tolist())
            found.append(float((np.exp(expected) * (expected - row)).sum()))
    return found


@needs_llamacpp
@pytest.mark.parametrize(("name", "lengths"), [*((name, (2, 40)) for name in FAMILY_MODELS), ("phi4mini", (300,))])
def test_llamacpp_answers_as_transformers_does(family_models, tmp_path, name, lengths):
    file = write_gguf(family_models[name], tmp_path / "m.gguf", file_type="f32", metadata=METADATA)
    assert max(divergences(family_models[name], file, lengths)) < 1e-6  # 1e-13, but for Phi-2's activation in f16


@needs_llamacpp
@pytest.mark.parametrize(
    ("name", "forgotten"),
    [
        ("llama", {"rearrange": lambda name, weight, config: weight}),
        ("llama", {"extra_tensors": lambda config: {}}),
        ("phi3", {"extra_tensors": lambda config: {}}),
    ],
)
def test_what_a_family_forgets_shows(family_models, tmp_path, monkeypatch, name, forgotten):
    monkeypatch.setitem(FAMILIES, name, replace(FAMILIES[name], **forgotten))
    model = family_models[{"llama": "llama3", "phi3": "phi4mini"}[name]]
    file = write_gguf(model, tmp_path / "m.gguf", file_type="f32", metadata=METADATA)
    assert divergences(model, file, [40])[0] > 1e-4


NASTY = (
    "67 y/o M w/ CHF, HbA1c 12345.678%; BP 150/90\t(J18.9)\n\n  she's IT'S we'Ve 'D a'lL\r\n"
    "___ [** 2150-3-14 **]   ???...!!! x2  ß naïve μg °C ½ ² Ⅷ ٣٤ 你好 ✅🙂\u200d x\u00a0y \n\n\n  \t end  "
)
RULES = [("qwen2", False), ("cl100k", True), ("cl100k", False), ("o200k", False), ("gpt2", False), ("digits", False)]


@pytest.fixture(scope="module")
def merged_across_words(tmp_path_factory):
    """A model whose tokenizer learned NASTY without splitting it: any other splitting rule gives other tokens."""
    from tokenizers import Tokenizer, decoders, models, trainers
    from tokenizers import pre_tokenizers as steps
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("nasty")
    write_model(folder, TinyModel("llama", "gpt2", {"vocab_size": 640, "tie_word_embeddings": True}))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = steps.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(steps.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=640, special_tokens=[tiny.END], initial_alphabet=alphabet, max_token_length=5, show_progress=False
    )
    tokenizer.train_from_iterator([NASTY] * 3, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=tiny.END).save_pretrained(folder)
    return folder


def token_ids(folder: Path, rule: str, ignore_merges: bool = False) -> list[int]:
    """NASTY by tokenizer.json itself, after giving it a splitting rule."""
    from tokenizers import Tokenizer

    split_by(folder, rule, ignore_merges=ignore_merges)
    ids: list[int] = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(NASTY).ids
    return ids


def test_another_rule_would_be_noticed(merged_across_words):
    rules = {rule for rule, _ in RULES}
    assert len({tuple(token_ids(merged_across_words, rule)) for rule in rules}) == len(rules) == 5


@needs_llamacpp
@pytest.mark.parametrize(("rule", "ignore_merges"), RULES)
def test_llamacpp_splits_as_the_tokenizer_does(merged_across_words, tmp_path, rule, ignore_merges):
    expected = token_ids(merged_across_words, rule, ignore_merges)
    file = write_gguf(merged_across_words, tmp_path / "m.gguf", metadata=METADATA)
    with LlamaCppServer(file, context_length=64) as server:
        assert server.tokenize(NASTY) == expected


def test_rows_of_llamas_queries_and_keys_by_hand():
    rows, config = np.arange(8)[:, None], {"num_attention_heads": 2, "num_key_value_heads": 1}
    rearrange = FAMILIES["llama"].rearrange
    queries = rearrange("model.layers.0.self_attn.q_proj.weight", rows, config)
    assert queries.ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]  # two heads of two halves
    assert rearrange("model.layers.0.self_attn.k_proj.bias", rows[:, 0], config).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert rearrange("model.layers.0.self_attn.v_proj.weight", rows, config) is rows


def test_llama_3_frequency_factors_by_hand():
    config = complete_config({"model_type": "llama", "head_dim": 4, "rope_parameters": LLAMA3 | {"rope_theta": 1e4}})
    factors = FAMILIES["llama"].extra_tensors(config)["rope_freqs.weight"]
    # Wavelengths 2 pi and 200 pi tokens: shorter than 64 / 4, and longer than 64 / 1.
    assert factors.tolist() == [1, 8]


def test_longrope_attention_factor_is_transformers(family_models):
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = read_config(family_models["phi4mini"])
    expected = ROPE_INIT_FUNCTIONS["longrope"](AutoConfig.from_pretrained(family_models["phi4mini"]))[1]
    assert _longrope_attention_factor(config) == expected > 1


@pytest.mark.parametrize(
    ("model_type", "settings", "problem"),
    [
        ("qwen2", {"hidden_act": "gelu"}, "activation 'gelu'"),
        ("qwen2", {"head_dim": 32}, "heads of 32"),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window"),
        ("qwen2", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope scaling 'linear'"),
        ("qwen2", {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 1e6}, "rope scaling 'linear'"),
        ("qwen3", {"attention_bias": True}, "biases in its attention"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial rotary"),
        ("phi", {"qk_layernorm": True}, "normalised queries and keys"),
        ("phi", {"tie_word_embeddings": True}, "tied output head"),
        ("phi", {"hidden_act": "gelu"}, "activation 'gelu'"),
        ("phi3", {"sliding_window": 64}, "sliding-window attention over 64 tokens"),
    ],
)
def test_a_setting_that_llamacpp_would_ignore_is_named(model_type, settings, problem):
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 256}
    family_of(complete_config({"model_type": model_type} | sizes | ({"head_dim": 16} if model_type == "qwen3" else {})))
    with pytest.raises(MedcodeError, match=problem):
        family_of(complete_config({"model_type": model_type} | sizes | settings))


@pytest.mark.parametrize("content", ["[]", "null", "[" * 100_000, None])
def test_a_config_that_is_no_json_object_is_one_clear_error(tmp_path, content):
    file = tmp_path / "config.json"
    file.mkdir() if content is None else file.write_text(content)
    with pytest.raises(MedcodeError, match=r"/config\.json: no JSON object; fetch the model anew") as error:
        read_config(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": ["qwen2"]}, r"^config\.json: .* type \['qwen2'\].*; supported: llama, .*train on such a base"),
        ({"num_attention_heads": 0}, "^config.json: num_attention_heads 0 is below 1; take the base model's own"),
        ({"num_key_value_heads": -1}, "^config.json: num_key_value_heads -1 is below 1; take"),
        ({"model_type": "llama", "num_attention_heads": 0}, "^config.json: num_attention_heads 0 is below 1; take"),
        ({"model_type": "llama", "head_dim": -16}, "^config.json: head_dim -16 is below 1; take"),
        ({"model_type": "phi3", "original_max_position_embeddings": 0}, "max_position_embeddings 0 is below 1; take"),
        ({"dtype": "nope"}, "^config.json: no qwen2 settings that transformers takes .*; take the base model's own"),
    ],
)
def test_a_setting_that_no_model_has_is_one_clear_error(settings, message):
    with pytest.raises(MedcodeError, match=message) as error:
        family_of(complete_config({"model_type": "qwen2"} | settings))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "[]"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"added_tokens": []}'),
        ("tokenizer.json", '{"added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}'),
        ("tokenizer_config.json", "[]"),
    ],
)
def test_tokenizer_files_that_transformers_stumbles_over_are_one_clear_error(base, tmp_path, name, content):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_text(content if file == name else (base / file).read_text())
    with pytest.raises(MedcodeError, match=r"/tokenizer\.json: .*_config.*; take the base model's own") as error:
        read_tokenizer(tmp_path, VOCABULARY)
    assert "\n" not in str(error.value)
