import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from medcode_assets.export.merge import merge_adapter
from medcode_serving.adapters import AdapterForm, load_adapted_model, write_form
from medcode_serving.errors import MedcodeError
from tests import tiny


def logits(model):
    with torch.inference_mode():
        return model(torch.arange(5, 45)[None]).logits


def test_the_merged_model_answers_as_base_and_adapter_do(base, adapter, merged):
    from peft import PeftModel

    plain = AutoModelForCausalLM.from_pretrained(base)
    unadapted = logits(plain)
    adapted = logits(PeftModel.from_pretrained(plain, adapter))
    found = logits(AutoModelForCausalLM.from_pretrained(merged))
    assert (adapted - unadapted).abs().max() > 0.5  # the adapter of these tests does change answers
    assert torch.allclose(found, adapted, atol=2e-4)


def test_the_tokenizer_is_copied_byte_for_byte_and_the_weights_are_fp32_safetensors(base, merged):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (merged / name).read_bytes() == (base / name).read_bytes()
    assert {weight.dtype for weight in load_file(merged / "model.safetensors").values()} == {torch.float32}
    assert not list(merged.parent.glob(".*"))


def test_merging_again_replaces_what_is_there(base, adapter, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "stale").touch()
    merge_adapter(base, adapter, tmp_path / "model")
    assert not (tmp_path / "model" / "stale").exists()


def test_a_folder_without_adapter_is_refused(base, tmp_path):
    with pytest.raises(MedcodeError, match=r"adapter_config\.json: missing"):
        merge_adapter(base, tmp_path, tmp_path / "model")


def test_an_adapter_of_another_shape_is_refused_and_leaves_nothing(base, adapter, tmp_path):
    other = tmp_path / "adapter"
    shutil.copytree(adapter, other)
    weights = {
        name: weight[..., :8].contiguous() for name, weight in load_file(other / "adapter_model.safetensors").items()
    }
    save_file(weights, other / "adapter_model.safetensors")
    with pytest.raises(MedcodeError, match="does not fit base model"):
        merge_adapter(base, other, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_an_adapter_weight_without_a_place_is_an_error_and_not_a_warning(base, adapter, tmp_path):
    other = tmp_path / "adapter"
    shutil.copytree(adapter, other)
    weights = load_file(other / "adapter_model.safetensors")
    weights = {name.replace("layers.1.", "layers.7."): weight for name, weight in weights.items()}
    save_file(weights, other / "adapter_model.safetensors")
    with pytest.raises(MedcodeError, match="without a counterpart"):
        merge_adapter(base, other, tmp_path / "model")


def test_an_adapter_for_modules_that_the_base_lacks_is_refused(base, adapter, tmp_path):
    other = tmp_path / "adapter"
    shutil.copytree(adapter, other)
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["c_attn"]}))
    with pytest.raises(MedcodeError, match="does not fit base model"):
        merge_adapter(base, other, tmp_path / "model")


def test_pickled_adapter_weights_are_refused(base, adapter, tmp_path):
    other = tmp_path / "adapter"
    shutil.copytree(adapter, other)
    (other / "adapter_model.bin").touch()
    with pytest.raises(MedcodeError, match="only safetensors"):
        merge_adapter(base, other, tmp_path / "model")


def test_a_qlora_adapter_is_merged_into_the_base_as_nf4_rounds_it(base, adapter, merged, tmp_path):
    qlora = tiny.write_qlora(adapter, tmp_path / "adapter")
    trained = logits(tiny.over_nf4(base, qlora))
    output = merge_adapter(base, qlora, tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(output)
    assert "quantization_config" not in json.loads((output / "config.json").read_text())
    assert {weight.dtype for weight in plain.parameters()} == {torch.float32}
    unrounded = AutoModelForCausalLM.from_pretrained(merged)
    assert tiny.relative_error(logits(plain), trained) < 1e-4 < 0.05 < tiny.relative_error(logits(unrounded), trained)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_full_model_is_exported_in_fp32_with_the_tokenizer_of_its_base(base, tmp_path, dtype):
    full = tiny.write_full(base, tmp_path / "adapter", dtype=dtype)
    output = merge_adapter(base, full, tmp_path / "model")
    exported, trained = load_file(output / "model.safetensors"), load_file(full / "model.safetensors")
    assert exported.keys() == trained.keys()
    assert all(torch.equal(exported[name], weight.float()) for name, weight in trained.items())
    assert {weight.dtype for weight in exported.values()} == {torch.float32}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (output / name).read_bytes() == (base / name).read_bytes()


@pytest.mark.parametrize("mode", ["lora", "qlora", "full"])
def test_what_is_exported_answers_as_what_is_served(base, adapter, tmp_path, mode):
    if mode == "full":
        folder = tiny.write_full(base, tmp_path / "adapter")
    else:
        folder = tiny.write_qlora(adapter, tmp_path / "adapter")
        write_form(folder, AdapterForm(mode=mode, base_model="tiny", base_revision="r1"))
    served = load_adapted_model(base, folder, dtype="float32", merge=True)
    exported = AutoModelForCausalLM.from_pretrained(merge_adapter(base, folder, tmp_path / "model"))
    assert torch.equal(logits(exported), logits(served.eval()))


def test_an_adapter_of_another_revision_of_the_base_is_refused(base, adapter, tmp_path):
    qlora = tiny.write_qlora(adapter, tmp_path / "adapter")
    with pytest.raises(MedcodeError, match="take that base model"):
        merge_adapter(base, qlora, tmp_path / "model", base_revision="r2")
