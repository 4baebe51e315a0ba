import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from medcode_serving.adapters import AdapterForm, load_adapted_model, write_form
from medcode_serving.engines.shared_base import SharedBase, can_share
from medcode_serving.errors import MedcodeError
from tests import tiny

TOKENS = torch.arange(1, 20)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(TOKENS).logits


def alone(base: Path, adapter: Path, *, merge: bool) -> torch.Tensor:
    return logits(load_adapted_model(base, adapter, dtype="float32", merge=merge).eval())


@pytest.fixture(scope="module")
def other(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of another rank over other layers, with DoRA."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(11)
    config = LoraConfig(
        r=2,
        lora_alpha=8,
        target_modules=["q_proj", "down_proj"],
        use_dora=True,
        lora_dropout=0.5,
        init_lora_weights="gaussian",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base_model), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    path = tmp_path_factory.mktemp("other")
    model.save_pretrained(path)
    return path


@pytest.fixture
def shared(base_model: Path) -> SharedBase:
    return SharedBase(base_model, dtype="float32", device="cpu", base_revision="r1")


@pytest.fixture
def own(adapter: Path, tmp_path: Path) -> Path:
    """An adapter folder that a test may damage."""
    return Path(shutil.copytree(adapter, tmp_path / "adapter"))


def test_each_adapter_answers_as_it_does_alone(base_model, adapter, other, shared) -> None:
    names = {folder: shared.add(folder) for folder in (adapter, other)}
    for folder in (adapter, other, adapter, other, other, adapter):
        found = logits(shared.activate(names[folder]))
        # The merged weights are rounded differently, and these random ones are far from zero.
        torch.testing.assert_close(found, alone(base_model, folder, merge=False), atol=1e-5, rtol=0)
        torch.testing.assert_close(found, alone(base_model, folder, merge=True), atol=1e-3, rtol=1e-3)
    assert tiny.relative_error(*(logits(shared.activate(name)) for name in names.values())) > 0.05


def test_the_base_weights_are_the_same_tensors(base_model, adapter, other, shared) -> None:
    models = [shared.activate(shared.add(folder)) for folder in (adapter, other)]
    weights = [{w.data_ptr() for name, w in model.named_parameters() if "lora_" not in name} for model in models]
    untuned = load_adapted_model(base_model, None, dtype="float32", merge=False)
    assert weights[0] == weights[1]
    assert len(weights[0]) == len(list(untuned.parameters()))


def test_equal_adapters_are_one_that_stays_until_its_last_user_went(adapter, other, own, shared) -> None:
    name, same, different = shared.add(adapter), shared.add(own), shared.add(other)
    assert name == same != different
    shared.remove(name)
    wanted = logits(shared.activate(name))
    shared.remove(name)
    with pytest.raises(KeyError):
        shared.activate(name)
    with pytest.raises(KeyError):
        shared.remove(name)
    assert shared.add(adapter) == name
    assert torch.equal(logits(shared.activate(name)), wanted)


def test_loading_and_removing_leaves_a_running_model_alone(adapter, other, shared) -> None:
    model = shared.activate(shared.add(adapter))
    wanted = logits(model)
    stop = threading.Event()
    wrong: list[int] = []

    def answer() -> None:
        while not stop.is_set():
            wrong.append(int(not torch.equal(logits(model), wanted)))

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        for _ in range(5):
            before = len(wrong)
            shared.remove(shared.add(other))
            while len(wrong) < before + 2 and thread.is_alive():  # one at least began after the removal
                time.sleep(0.001)
    finally:
        stop.set()
        thread.join()
    assert len(wrong) >= 10
    assert not any(wrong)


def _rename_a_key(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    key = next(iter(weights))
    weights[key.replace("layers.0", "layers.7")] = weights.pop(key)
    save_file(weights, folder / "adapter_model.safetensors")


def _drop_a_key(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    weights.popitem()
    save_file(weights, folder / "adapter_model.safetensors")


def _change_the_rank(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"r": 3}))


def _truncate(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _remove(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def _make_for_another_base(folder: Path) -> None:
    write_form(folder, AdapterForm(mode="lora", base_model="tiny", base_revision="r2"))


@pytest.mark.parametrize(
    "damage", [_rename_a_key, _drop_a_key, _change_the_rank, _truncate, _remove, _make_for_another_base]
)
def test_a_wrong_adapter_is_refused_and_leaves_nothing_behind(adapter, own, shared, damage) -> None:
    name = shared.add(adapter)
    wanted = logits(shared.activate(name))
    damage(own)
    for _ in range(2):
        with pytest.raises(MedcodeError) as caught:
            shared.add(own)
    assert "\n" not in str(caught.value)
    assert list(shared._models) == [name]
    assert torch.equal(logits(shared.activate(name)), wanted)


def test_only_adapters_that_leave_the_base_alone_can_share(base_model, adapter, other, own, tmp_path) -> None:
    assert can_share(adapter)
    assert can_share(other)
    assert not can_share(tiny.write_qlora(adapter, tmp_path / "qlora"))
    (tmp_path / "full").mkdir()
    assert not can_share(tiny.write_full(base_model, tmp_path / "full"))
    config = json.loads((own / "adapter_config.json").read_text())
    for change in ({"bias": "all"}, {"init_lora_weights": "pissa"}, {"peft_type": "LOHA"}):
        (own / "adapter_config.json").write_text(json.dumps(config | change))
        assert not can_share(own)
    (own / "adapter_config.json").unlink()
    assert not can_share(own)
