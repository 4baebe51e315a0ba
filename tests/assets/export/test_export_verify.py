import dataclasses
import math
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest

from medcode_assets.export import verify
from medcode_assets.export.chat_template import chat_template
from medcode_assets.export.distributions import divergence, parting_preference
from medcode_assets.export.gguf import write_gguf
from medcode_assets.export.llamacpp import LlamaCppModel
from medcode_assets.export.quantizations import QUANTIZATIONS
from medcode_assets.export.quantize import quantize_gguf
from medcode_assets.export.reference import TransformersModel
from medcode_assets.export.report import F1Comparison
from medcode_assets.export.verify import CLINICAL_SAMPLE, verify_gguf
from medcode_serving import base_models
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate
from tests.assets.export.conftest import METADATA
from tests.assets.export.test_export_header import with_swapped_tokens, with_value

EMBEDDED = Path(base_models.__file__).parent / "embedded"
UNMERGED = "model.layers.1.self_attn.v_proj.weight"


def corrupted(file, target, name, value):
    """A copy of a GGUF file in which one value of one tensor is another."""
    shutil.copyfile(file, target)
    tensor = next(tensor for tensor in gguf.GGUFReader(target, "r+").tensors if tensor.name == name)
    tensor.data.flat[7] = value
    return target


@pytest.fixture(scope="module")
def fine_tunes(tmp_path_factory) -> dict[str, Path]:
    """The embedded model as it is, fine-tuned (every matrix moved by a quarter), and so but for one matrix."""
    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(1)
    weights = load_file(EMBEDDED / "model.safetensors")
    tuned = {
        name: weight + 0.25 * weight.std() * torch.randn_like(weight) if name.endswith("proj.weight") else weight
        for name, weight in weights.items()
    }
    folders = {"base": EMBEDDED}
    for name, model in {"tuned": tuned, "partly": tuned | {UNMERGED: weights[UNMERGED]}}.items():
        folders[name] = tmp_path_factory.mktemp(name)
        for file in EMBEDDED.glob("*.json"):
            shutil.copy(file, folders[name])
        save_file(model, folders[name] / "model.safetensors", {"format": "pt"})
    return folders


@pytest.fixture(scope="module")
def q4(fine_tunes, tmp_path_factory) -> dict[str, Path]:
    """Each of `fine_tunes` as q4_k_m."""
    folder = tmp_path_factory.mktemp("q4")
    files = {}
    for name, model in fine_tunes.items():
        f16 = write_gguf(model, folder / f"{name}-F16.gguf", metadata=METADATA)
        files[name] = quantize_gguf(f16, folder / f"{name}-Q4_K_M.gguf", "q4_k_m")
    return files


def test_the_export_passes(f16, base, merged, prompts):
    told = []
    report = verify_gguf(f16, merged, prompts, base=base, on_progress=lambda done, total: told.append((done, total)))
    assert report.problems == ()
    assert report.passed
    assert report.verifier.startswith("llama.cpp (xllamacpp ")
    assert (report.changed_tensors, report.token_mismatches, report.tensors) == (0, 0, 26)
    assert (report.quantization, report.tensor_types) == ("f16", {"F16": 15, "F32": 11})
    assert report.fine_tune_kept == pytest.approx(1, abs=1e-3)
    assert (report.template_equal, report.f1) == (None, None)
    assert 0 <= report.kl_mean < 1e-5
    assert report.positions > 60
    assert told == [(1, 2), (2, 2)]


@pytest.mark.parametrize("value", [9.0, math.nan])
def test_one_corrupted_value_fails(f16, merged, prompts, tmp_path, value):
    file = corrupted(f16, tmp_path / "c.gguf", "blk.1.attn_v.weight", value)
    report = verify_gguf(file, merged, prompts)
    assert not report.passed
    assert "1 of 26 tensors are not the merged model's, blk.1.attn_v.weight for one" in report.problems
    assert any("KL" in problem or "no number" in problem for problem in report.problems)  # the answers tell as well


def test_a_forgotten_lora_and_template_fail_on_every_count_but_tokens(base, merged, prompts, tmp_path):
    file = write_gguf(base, tmp_path / "base.gguf", metadata=METADATA)
    report = verify_gguf(file, merged, prompts, base=base, prompt=PromptTemplate())
    assert not report.passed
    assert report.changed_tensors == 14  # two layers of seven linear modules
    assert report.fine_tune_kept == pytest.approx(0, abs=1e-3)
    assert report.kl_mean > 0.01
    assert report.token_mismatches == 0
    assert report.template_equal is False
    assert "the chat template does not render the prompt of training" in report.problems
    assert not any("\n" in problem for problem in report.problems)


def test_a_wrong_rope_base_shows_in_the_answers_although_every_weight_is_right(merged, prompts, tmp_path, f16):
    file = tmp_path / "rope.gguf"
    shutil.copyfile(f16, file)
    field = gguf.GGUFReader(file, "r+").fields["qwen2.rope.freq_base"]
    field.parts[field.data[0]][0] = 100.0
    report = verify_gguf(file, merged, prompts)
    assert report.changed_tensors == 0
    assert any("KL" in problem or "no number" in problem for problem in report.problems)


def test_a_wrong_pre_tokenizer_shows_in_the_tokens(merged, prompts, tmp_path, f16):
    file = tmp_path / "pre.gguf"
    shutil.copyfile(f16, file)
    field = gguf.GGUFReader(file, "r+").fields["tokenizer.ggml.pre"]
    field.parts[field.data[0]][:] = list(b"gpt-2")  # in place of qwen2
    report = verify_gguf(file, merged, prompts)
    assert report.changed_tensors == 0
    assert any("tokenized otherwise" in problem for problem in report.problems)


@pytest.mark.parametrize("name", ["tokenizer.ggml.tokens", "qwen2.context_length", "general.license"])
def test_what_shows_in_the_header_alone(f16, merged, prompts, tmp_path, name):
    file, metadata = tmp_path / "m.gguf", METADATA
    if name == "tokenizer.ggml.tokens":
        with_swapped_tokens(f16, file)
    elif name == "qwen2.context_length":
        with_value(f16, file, name, 256 * 64)
    else:
        file, metadata = f16, dataclasses.replace(METADATA, license="mit")
    report = verify_gguf(file, merged, prompts, metadata=metadata)
    assert report.changed_fields == (name,)
    assert report.problems == (f"1 field of the header is not the model's, {name} for one",)


def test_a_doubled_rope_base_in_a_k_quant_fails(q4, fine_tunes, prompts, tmp_path):
    name = "qwen2.rope.freq_base"
    theta = gguf.GGUFReader(q4["tuned"]).fields[name].contents()
    file = with_value(q4["tuned"], tmp_path / "m.gguf", name, 2 * theta)
    report = verify_gguf(file, fine_tunes["tuned"], prompts, metadata=METADATA)
    assert report.changed_fields == (name,)
    assert f"1 field of the header is not the model's, {name} for one" in report.problems


def test_several_changed_fields_are_one_line():
    weights = verify._Weights(26, [], {}, None, ("tokenizer.ggml.tokens", "b", "c"))
    line = "3 fields of the header are not the model's, tokenizer.ggml.tokens for one"
    assert verify._weight_problems(weights, QUANTIZATIONS["f16"]) == [line]


def test_an_exact_file_may_hold_none_of_a_change_below_its_steps_and_a_k_quant_may_not():
    lost = (0.0, "blk.0.ffn_down.weight")
    for name, changed, problems in (("f16", [], 0), ("f16", ["blk.0.ffn_down.weight"], 2), ("q4_k_m", [], 1)):
        weights = verify._Weights(26, changed, {}, lost, ())
        assert len(verify._weight_problems(weights, QUANTIZATIONS[name])) == problems


@pytest.mark.parametrize("quantization", ["f32", "bf16", "q8_0"])
def test_the_other_number_formats(merged, prompts, tmp_path, quantization):
    template = PromptTemplate()
    metadata = dataclasses.replace(METADATA, chat_template=chat_template(template))
    file = write_gguf(merged, tmp_path / "m.gguf", file_type=quantization, metadata=metadata)
    report = verify_gguf(file, merged, prompts, prompt=template)
    assert report.quantization == quantization
    assert report.changed_tensors == 0
    assert report.token_mismatches == 0
    assert report.template_equal
    assert report.kl_mean < {"f32": 1e-8, "bf16": 1e-2, "q8_0": 5e-2}[quantization]


def test_a_k_quant_passes_with_the_fine_tune_in_it(q4, fine_tunes, prompts):
    report = verify_gguf(q4["tuned"], fine_tunes["tuned"], prompts, base=EMBEDDED, metadata=METADATA)
    assert report.problems == ()
    assert report.tensor_types == {"Q4_K": 24, "F32": 21, "Q6_K": 5}
    assert report.fine_tune_kept == pytest.approx(1, abs=0.02)


def test_a_k_quant_of_the_base_has_lost_the_fine_tune(q4, fine_tunes, prompts):
    report = verify_gguf(q4["base"], fine_tunes["tuned"], prompts, base=EMBEDDED)
    assert report.fine_tune_kept == pytest.approx(0, abs=0.02)
    assert report.changed_tensors == 28
    assert any("of what the fine-tune changed" in problem for problem in report.problems)
    assert any("KL" in problem or "no number" in problem for problem in report.problems)


def test_a_k_quant_with_one_unmerged_tensor_answers_alike_and_fails(q4, fine_tunes, prompts):
    report = verify_gguf(q4["partly"], fine_tunes["tuned"], prompts, base=EMBEDDED)
    assert report.changed_tensors == 1
    tensors, kept = report.problems  # and nothing in the answers
    assert tensors == "1 of 50 tensors are not the merged model's, blk.1.attn_v.weight for one"
    assert kept.startswith("tensor blk.1.attn_v.weight holds 0.")


START = "{{ 'Predict the medical codes for the following text: ' + "


@pytest.mark.parametrize(
    ("template", "equal"),
    [
        (chat_template(PromptTemplate()), True),
        (START + "(messages[-1].content | trim) + '\n\nCodes:' }}", False),  # llama.cpp adds the system message to it
        (chat_template(PromptTemplate()).replace(" | trim", ""), False),
        (None, False),  # llama.cpp takes ChatML
    ],
)
def test_what_a_chat_template_must_render(merged, tmp_path, template, equal):
    metadata = dataclasses.replace(METADATA, chat_template=template)
    with LlamaCppModel(write_gguf(merged, tmp_path / "m.gguf", metadata=metadata), 64) as model:
        assert verify._renders(model.server, PromptTemplate(), CLINICAL_SAMPLE[:3]) == equal


def test_special_tokens_in_a_note_stay_text(merged, f16):
    text = "septic <|endoftext|>"
    reference = TransformersModel(merged)
    with LlamaCppModel(f16, 64) as model:
        assert model.tokenize(text) == reference.tokenize(text)
    assert 0 not in reference.tokenize(text)  # the end of the text


def test_a_truncated_or_missing_file_and_missing_prompts_are_clear_errors(f16, merged, tmp_path):
    with pytest.raises(MedcodeError, match="no such file"):
        verify_gguf(tmp_path / "none.gguf", merged, ["a"])
    with pytest.raises(MedcodeError, match="prompts"):
        verify_gguf(f16, merged, [])
    for size in (10, 3000, f16.stat().st_size - 1000):
        file = tmp_path / "t.gguf"
        file.write_bytes(f16.read_bytes()[:size])
        with pytest.raises(MedcodeError, match="truncated"):
            verify_gguf(file, merged, ["a"])


def test_divergence_by_hand():
    expected = np.log([[0.5, 0.5], [0.5, 0.5]])
    found = np.log([[0.5, 0.5], [0.25, 0.75]])
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert divergence(expected, found) == pytest.approx([0.0, by_hand])


def test_a_divergence_over_some_tokens_is_a_lower_bound_that_still_sees_lost_mass():
    expected = np.log([[0.5, 0.3, 0.2]])
    lumped = np.array([[math.log(0.6), np.nan, np.nan]])
    assert divergence(expected, lumped) == pytest.approx([0.5 * math.log(0.5 / 0.6) + 0.5 * math.log(0.5 / 0.4)])
    found = np.log([[0.45, 0.35, 0.2]])
    untold = np.where([[True, True, False]], found, np.nan)
    assert divergence(expected, untold) == pytest.approx(divergence(expected, found))  # the rest has equal mass
    rounded = untold - 1e-5
    assert divergence(expected, rounded) == pytest.approx(divergence(expected, untold), rel=1e-6)
    elsewhere = np.array([[np.nan, np.nan, math.log(0.99)]])
    assert divergence(expected, elsewhere)[0] > 1
    assert math.isnan(divergence(expected, np.full((1, 3), np.nan))[0])


@pytest.mark.parametrize(
    ("lost", "low", "problems"),
    [(0.05, 0.01, 1), (0.05, -0.01, 0), (0.02, 0.01, 0), (0.07, -0.2, 1), (math.nan, math.nan, 1)],
)
def test_a_loss_of_f1_counts_if_it_is_large_and_no_chance_or_very_large(lost, low, problems):
    f1 = F1Comparison(notes=200, merged=0.5, file=0.5 - lost, low=low, high=0.1, equal_answers=150)
    assert len(verify.f1_problems(f1, 0.03)) == problems


def test_where_greedy_answers_part():
    rows = np.log([[0.6, 0.4], [0.51, 0.49]])
    assert parting_preference(rows, [0, 0], [0, 0]) is None
    assert parting_preference(rows, [0, 0], [0, 1]) == pytest.approx(math.log(0.51 / 0.49))
    assert parting_preference(rows, [0, 0], [0]) == math.inf
