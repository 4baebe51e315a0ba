import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from medcode_serving.adapters import AdapterForm, load_adapted_model, nf4_config, read_form, write_form
from medcode_serving.errors import MedcodeError
from tests import tiny

FORM = AdapterForm(mode="lora", base_model="tiny", base_revision="r1")


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(torch.arange(1, 20)[None]).logits.float()


def load(base: Path, adapter: Path | None, dtype: str = "float32", merge: bool = True, revision: str | None = None):
    return load_adapted_model(base, adapter, dtype=dtype, merge=merge, base_revision=revision)


@pytest.fixture(scope="module")
def qlora(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_qlora(adapter, tmp_path_factory.mktemp("qlora") / "adapter")


@pytest.fixture(scope="module")
def full(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_full(base_model, tmp_path_factory.mktemp("full") / "adapter")


@pytest.fixture
def own(adapter: Path, tmp_path: Path) -> Path:
    """An adapter folder that a test may damage."""
    return Path(shutil.copytree(adapter, tmp_path / "adapter"))


def test_a_form_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_form(tmp_path, FORM)
    assert read_form(tmp_path) == FORM
    assert json.loads((tmp_path / "adapter.json").read_text()) == FORM.model_dump()


def test_a_folder_without_a_form_is_a_lora_adapter(base_model, own) -> None:
    assert read_form(own).mode == "lora"
    before = logits(load(base_model, own, revision="any"))
    write_form(own, FORM)
    assert torch.equal(logits(load(base_model, own)), before)


@pytest.mark.parametrize("form", ["", "[]", "{", "{}", "\xff"])
def test_a_file_that_is_no_form_is_refused_in_one_line(base_model, own, form: str) -> None:
    (own / "adapter.json").write_bytes(form.encode("latin-1"))
    with pytest.raises(MedcodeError, match=r"adapter\.json: missing or wrong: .+medcode train") as caught:
        load(base_model, own)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("field", "value"), [("mode", "dora"), ("base_revision", None), ("rank", 8)])
def test_a_wrong_field_is_named(own, field: str, value: Any) -> None:
    (own / "adapter.json").write_text(json.dumps({**FORM.model_dump(), field: value}))
    with pytest.raises(MedcodeError, match=rf"adapter\.json: missing or wrong: {field};"):
        read_form(own)


def test_a_lora_adapter_answers_as_peft_does_merged_or_beside_the_weights(base_model, adapter) -> None:
    from peft import PeftModel

    wanted = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_model), adapter))
    for merge in (True, False):
        torch.testing.assert_close(logits(load(base_model, adapter, merge=merge)), wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("merge", [True, False])
def test_a_qlora_adapter_answers_as_it_was_trained(base_model, adapter, qlora, merge: bool) -> None:
    trained = logits(tiny.over_nf4(base_model, qlora))
    error = tiny.relative_error(logits(load(base_model, qlora, merge=merge)), trained)
    over_the_unrounded_base = tiny.relative_error(logits(load(base_model, adapter, merge=merge)), trained)
    assert error < 1e-4 < 0.05 < over_the_unrounded_base


def test_a_dequantised_model_is_a_plain_one(base_model, qlora) -> None:
    model = load(base_model, qlora)
    plain = load(base_model, None)
    assert {name: weight.shape for name, weight in model.state_dict().items()} == {
        name: weight.shape for name, weight in plain.state_dict().items()
    }
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert "quantization_config" not in model.config.to_dict()


def test_a_full_model_answers_as_it_was_saved(base_model, full) -> None:
    wanted = logits(AutoModelForCausalLM.from_pretrained(full))
    assert torch.equal(logits(load(base_model, full)), wanted)
    assert tiny.relative_error(logits(load(base_model, None)), wanted) > 0.05


@pytest.mark.parametrize("mode", ["adapter", "qlora", "full"])
def test_each_form_loads_in_bfloat16(base_model, request: pytest.FixtureRequest, mode: str) -> None:
    folder = request.getfixturevalue(mode)
    model = load(base_model, folder, dtype="bfloat16", merge=False)
    assert model.lm_head.weight.dtype == torch.bfloat16
    # These random weights, far from zero, amplify the rounding of bfloat16; the untuned base is much further off.
    wanted, untuned = logits(load(base_model, folder)), logits(load(base_model, None))
    assert tiny.relative_error(logits(model), wanted) < 0.25 < tiny.relative_error(untuned, wanted)


@pytest.mark.parametrize("mode", ["qlora", "full"])
def test_the_engine_answers_with_each_form(base_model, vocabulary, request: pytest.FixtureRequest, mode: str) -> None:
    from medcode_serving.bundle import DecodingSettings
    from medcode_serving.engines.transformers import TransformersEngine
    from medcode_serving.prompts import PromptTemplate

    def engine(adapter: Path | None, revision: str) -> TransformersEngine:
        decoding = DecodingSettings(max_prompt_tokens=128, max_codes=4)
        options = {"device": "cpu", "base_revision": revision}
        return TransformersEngine("tiny", base_model, adapter, vocabulary, PromptTemplate(), decoding, **options)

    folder = request.getfixturevalue(mode)
    notes = ["Type 2 diabetes.", "Hypertension and pneumonia."]
    assert engine(folder, "r1").predict(notes) != engine(None, "r1").predict(notes)
    with pytest.raises(MedcodeError, match=r"adapter\.json: made for base model 'tiny' at revision r1, .* has r2;"):
        engine(folder, "r2")


@pytest.mark.parametrize("lost", ["config.json", "*.safetensors"])
def test_a_full_model_that_lacks_a_file_is_refused(base_model, full, tmp_path: Path, lost: str) -> None:
    folder = Path(shutil.copytree(full, tmp_path / "adapter"))
    for file in folder.glob(lost):
        file.unlink()
    with pytest.raises(MedcodeError, match="missing, so this is no adapter of mode full"):
        load(base_model, folder)


def test_a_full_model_that_lacks_a_weight_is_refused(base_model, full, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(full, tmp_path / "adapter"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MedcodeError, match=r"1 weights are missing .*model\.norm\.weight; train it anew"):
        load(base_model, folder)


def test_a_full_model_beside_a_peft_description_is_refused(base_model, adapter, full, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(full, tmp_path / "adapter"))
    shutil.copyfile(adapter / "adapter_config.json", folder / "adapter_config.json")
    with pytest.raises(MedcodeError, match=r"adapter_config\.json: has no place"):
        load(base_model, folder)


@pytest.mark.parametrize("mode", ["adapter", "full"])
def test_damaged_weights_are_refused_in_one_line(base_model, tmp_path: Path, request, mode: str) -> None:
    folder = Path(shutil.copytree(request.getfixturevalue(mode), tmp_path / "adapter"))
    for file in folder.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(MedcodeError) as caught:
        load(base_model, folder)
    assert "\n" not in str(caught.value)


def test_a_full_model_of_another_shape_than_its_config_is_refused(base_model, full, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(full, tmp_path / "adapter"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(MedcodeError, match=r"6 weights .* another shape than config\.json says, .*; train it anew"):
        load(base_model, folder)


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"peft_type": "NO_SUCH"}'])
def test_a_peft_description_that_peft_cannot_use_is_refused_in_one_line(base_model, own, config: str) -> None:
    (own / "adapter_config.json").write_text(config)
    with pytest.raises(MedcodeError, match=r"adapter_config\.json: no adapter that PEFT knows") as caught:
        load(base_model, own)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["adapter", "qlora", "full"])
def test_pickled_weights_are_refused(base_model, tmp_path: Path, request: pytest.FixtureRequest, mode: str) -> None:
    folder = Path(shutil.copytree(request.getfixturevalue(mode), tmp_path / "adapter"))
    (folder / "training_args.bin").touch()
    with pytest.raises(MedcodeError, match="only safetensors"):
        load(base_model, folder)


@pytest.mark.parametrize("library", ["bitsandbytes", "accelerate"])
def test_a_qlora_adapter_without_its_libraries_says_what_to_install(
    base_model, qlora, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MedcodeError, match=rf"^mode qlora needs {library}; .*medcode\[qlora\]"):
        load(base_model, qlora)


def test_nf4_is_double_quantised_and_multiplies_as_asked() -> None:
    config = nf4_config(torch.bfloat16)
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
