"""The adapter as a GGUF file, over the base's, against the merged model in transformers."""

import shutil

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from medcode_assets.export.gguf import write_gguf
from medcode_assets.export.lora import write_lora_gguf
from medcode_assets.export.metadata import ModelMetadata
from medcode_serving.adapters import AdapterForm, load_adapted_model, write_form
from medcode_serving.engines.llamacpp_server import LlamaCppServer
from medcode_serving.errors import MedcodeError
from tests import tiny

from .adapters import write_adapter
from .conftest import METADATA, VOCABULARY, edit_json

KL = 1e-9
"""What equality in f32 looks like, nats."""
TOKENS = [17, 250, 3, 99, 120, 301, 45, 8]
RANKS = {"rank_pattern": {"q_proj": 2, "qkv_proj": 2}, "alpha_pattern": {"down_proj": 3}}


def distributions(file, lora):
    """Log-probabilities [positions, vocabulary]; the server tells them only with a token that is a letter."""
    rows = np.full((len(TOKENS), VOCABULARY), -np.inf)
    with LlamaCppServer(file, context_length=256, threads=1, exact=True, lora=lora) as server:
        letter = server.tokenize("A")[-1]
        for end, row in enumerate(rows, start=1):
            answer = server.complete(TOKENS[:end], 1, n_probs=VOCABULARY, logit_bias=[[letter, 1e4]])
            for told in answer["completion_probabilities"][0]["top_logprobs"]:
                row[told["id"]] = told["logprob"]
    return torch.log_softmax(torch.from_numpy(rows), dim=-1)  # it rounds


def divergence(model, found):
    """Greatest KL divergence over positions, nats."""
    with torch.inference_mode():
        expected = torch.log_softmax(model(torch.tensor([TOKENS])).logits[0].double(), dim=-1)
    return float((expected.exp() * (expected - found)).sum(dim=-1).max())


@pytest.fixture(scope="session")
def base_files(family_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("f32")
    return {
        name: write_gguf(family_models[name], folder / f"{name}.gguf", file_type="f32", metadata=METADATA)
        for name in ("qwen2", "llama3", "phi4mini")
    }


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("qwen2", {}),
        ("qwen2", {"use_rslora": True, **RANKS}),
        ("llama3", {"use_rslora": True, **RANKS}),  # queries and keys permuted, fewer keys than queries
        ("llama3", {"target_modules": ["k_proj", "lm_head"]}),
        ("phi4mini", {"use_rslora": True, **RANKS}),  # queries, keys and values in one matrix
    ],
    ids=["lora", "rslora", "llama-rslora", "llama-head", "phi-rslora"],
)
def test_base_and_adapter_answer_as_the_merged_model(family_models, base_files, tmp_path, name, settings):
    base = family_models[name]
    adapter = write_adapter(base, tmp_path / "adapter", init_lora_weights=False, **settings)
    lora = write_lora_gguf(base, adapter, tmp_path / "lora.gguf", metadata=METADATA)
    found = distributions(base_files[name], lora)
    merged = load_adapted_model(base, adapter, dtype="float32", merge=True)
    plain = load_adapted_model(base, None, dtype="float32", merge=True)
    assert divergence(merged, found) < KL < 1e-2 < divergence(plain, found)


def test_a_scaling_that_is_not_pefts_is_seen(family_models, base_files, tmp_path):
    base = family_models["qwen2"]
    adapter = write_adapter(base, tmp_path / "adapter", init_lora_weights=False, use_rslora=True)
    merged = load_adapted_model(base, adapter, dtype="float32", merge=True)
    edit_json(adapter / "adapter_config.json", use_rslora=False)
    lora = write_lora_gguf(base, adapter, tmp_path / "lora.gguf", metadata=METADATA)
    assert divergence(merged, distributions(base_files["qwen2"], lora)) > 1e4 * KL


def test_the_file_says_what_it_is_and_its_factors_are_folded_in(family_models, tmp_path):
    base, told = family_models["qwen2"], []
    settings = {"r": 4, "lora_alpha": 6, "use_rslora": True, "rank_pattern": {"q_proj": 1}}
    adapter = write_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "down_proj"], **settings)
    file = write_lora_gguf(
        base, adapter, tmp_path / "lora.gguf", metadata=METADATA, on_progress=lambda *counts: told.append(counts)
    )
    reader = gguf.GGUFReader(file)
    expected = {
        "general.type": "adapter",
        "general.architecture": "qwen2",
        "general.name": "tiny",
        "adapter.type": "lora",
        "adapter.lora.alpha": 4.0,
    }
    assert {key: reader.fields[key].contents() for key in expected} == expected
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(tensors) == len(told) == 8
    assert told[-1] == (8, 8)
    weights = load_file(adapter / "adapter_model.safetensors")
    layer = "base_model.model.model.layers.1"
    # PEFT multiplies by alpha / sqrt(r), 6 / 2 and 6 / 1; llama.cpp by 4 / 4 and 4 / 1.
    assert np.array_equal(tensors["blk.1.ffn_down.weight.lora_a"], weights[f"{layer}.mlp.down_proj.lora_A.weight"])
    assert np.allclose(tensors["blk.1.ffn_down.weight.lora_b"], 3 * weights[f"{layer}.mlp.down_proj.lora_B.weight"])
    assert np.allclose(tensors["blk.1.attn_q.weight.lora_b"], 1.5 * weights[f"{layer}.self_attn.q_proj.lora_B.weight"])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"use_dora": True}, "Dora"),
        ({"modules_to_save": ["norm"]}, "norm itself"),
        ({"trainable_token_indices": [3]}, "embed_tokens itself"),
        ({"target_modules": ["embed_tokens"]}, "embed_tokens is no linear layer"),
        ({"target_modules": ["lm_head"]}, "lm_head is tied"),
        ({"target_modules": ["q_proj"], "lora_bias": True}, "bias"),
    ],
)
def test_what_llamacpp_cannot_express_is_refused(family_models, tmp_path, settings, problem):
    base = family_models["qwen2"]
    adapter = write_adapter(base, tmp_path / "adapter", **settings)
    with pytest.raises(MedcodeError, match=f"cannot become a GGUF adapter: .*{problem}.*merge it instead") as error:
        write_lora_gguf(base, adapter, tmp_path / "lora.gguf", metadata=METADATA)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize(("mode", "problem"), [("qlora", "as NF4 rounds it"), ("full", "a complete model")])
def test_other_modes_are_refused(base, adapter, tmp_path, mode, problem):
    folder = tiny.write_full(base, tmp_path / "a") if mode == "full" else tiny.write_qlora(adapter, tmp_path / "a")
    with pytest.raises(MedcodeError, match=problem):
        write_lora_gguf(base, folder, tmp_path / "lora.gguf", metadata=METADATA)


def test_an_adapter_of_another_revision_of_the_base_is_refused(base, adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "a")
    write_form(folder, AdapterForm(mode="lora", base_model="tiny", base_revision="r1"))
    with pytest.raises(MedcodeError, match="take that base model"):
        write_lora_gguf(base, folder, tmp_path / "lora.gguf", metadata=ModelMetadata("tiny", "1", base_revision="r2"))
