"""Training on a random model of a few thousand weights: what is learned, kept, resumed and refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from medcode_assets.training.checkpoints import newest_checkpoint
from medcode_assets.training.job import read_result
from medcode_assets.training.loop import train
from medcode_assets.training.watch import LossWatch
from medcode_serving.base_models import LocalModel
from medcode_serving.errors import MedcodeError

from .jobs import LEARNABLE, PAIRS, make_job, tiny_base, weights

EVERY_STEP = {"checkpoint_minutes": 1e-9}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    return tiny_base(tmp_path_factory.mktemp("base"))


def kill_at(step: int) -> Any:
    def kill(now: int, metrics: dict[str, float]) -> None:
        if now == step:
            raise KeyboardInterrupt

    return kill


def test_the_adapter_learns_and_names_its_base_by_id(base: LocalModel, tmp_path: Path) -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    folder = make_job(tmp_path / "job", base)
    result = train(folder, lambda step, metrics: logged.append((step, metrics)))
    assert result == read_result(folder)
    assert (result.steps, result.device, result.precision, result.attention) == (12, "cpu", "fp32", "packed")
    assert result.losses[-1][1] < 0.95 * result.losses[0][1]
    assert [step for step, _ in result.validation] == [4, 8, 12]
    assert result.validation[-1][1]["loss"] < result.validation[0][1]["loss"]
    assert result.tokens_per_second > 0 == result.padding_share
    assert {"loss", "learning_rate", "grad_norm", "tokens_per_second", "process_memory_gb"} <= logged[0][1].keys()
    assert {file.name for file in (folder / "weights").iterdir()} == {
        "adapter.json",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    config = json.loads((folder / "weights" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "owner/tiny"
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("step", [1, 7, 11])
def test_a_killed_training_ends_in_the_same_adapter(base: LocalModel, tmp_path: Path, step: int) -> None:
    whole = make_job(tmp_path / "whole", base, training=EVERY_STEP)
    undisturbed = train(whole)
    cut = make_job(tmp_path / "cut", base, training=EVERY_STEP)
    with pytest.raises(KeyboardInterrupt):
        train(cut, kill_at(step))
    assert not (cut / "weights").exists()
    result = train(cut)
    assert result.resumed_from in (step - 1, step)
    assert weights(cut) == weights(whole)
    assert (result.losses, result.validation) == (undisturbed.losses, undisturbed.validation)


def test_a_damaged_checkpoint_is_passed_over(base: LocalModel, tmp_path: Path) -> None:
    whole = make_job(tmp_path / "whole", base, training=EVERY_STEP)
    train(whole)
    cut = make_job(tmp_path / "cut", base, training=EVERY_STEP)
    with pytest.raises(KeyboardInterrupt):
        train(cut, kill_at(7))
    checkpoint = newest_checkpoint(cut, "0" * 64)
    assert checkpoint is not None
    half = cut / "checkpoints" / "step-00000009"  # as a kill in the middle of saving by another tool leaves it
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    file = checkpoint.folder / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # one flipped bit
    file.write_bytes(content)
    assert newest_checkpoint(cut, "0" * 64) is None
    assert train(cut).resumed_from == 0
    assert weights(cut) == weights(whole)


def test_a_checkpoint_of_another_library_version_is_refused_unless_forced(base: LocalModel, tmp_path: Path) -> None:
    folder = make_job(tmp_path, base, training=EVERY_STEP)
    with pytest.raises(KeyboardInterrupt):
        train(folder, kill_at(5))
    checkpoint = newest_checkpoint(folder, "0" * 64)
    assert checkpoint is not None
    manifest = {**checkpoint.manifest, "made_with": {**checkpoint.manifest["made_with"], "torch": "1.0"}}
    (checkpoint.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MedcodeError, match=r"made with torch 1\.0 -> .*training\.resume=force"):
        train(folder)
    make_job(folder, base, training={**EVERY_STEP, "resume": "never", "epochs": 2})
    assert train(folder).resumed_from == 0


def test_the_same_seed_gives_the_same_adapter(base: LocalModel, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(make_job(tmp_path / name, base, training={"seed": seed, "epochs": 1}))
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")


def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_notes(base: LocalModel, tmp_path: Path) -> None:
    folder = make_job(tmp_path, base, training={"learning_rate": 1e30, "max_grad_norm": 1e30})
    with pytest.raises(MedcodeError, match=r"loss is (nan|inf) at example_id 1\d\d, .*lower training\.learning_rate"):
        train(folder)
    assert not (folder / "weights").exists()


def test_a_loss_that_explodes_stops_the_training() -> None:
    watch = LossWatch()
    for step in range(1, 60):
        watch.refuse_explosion(4.0 if step < 5 else 2.0 - step / 50, 1.0, step, [7])
    watch.refuse_explosion(7.9, 1.0, 60, [7])  # less than twice the highest of the first steps: a hard note
    with pytest.raises(
        MedcodeError, match=r"training step 61: loss jumped from 1\.\d+ to 8\.1 at example_id 7, 9; lower"
    ):
        watch.refuse_explosion(8.1, 1.0, 61, [7, 9])
    with pytest.raises(MedcodeError, match="gradient norm is inf at example_id 3"):
        LossWatch().refuse_explosion(1.0, float("inf"), 1, [3])


def test_a_resumed_training_judges_its_loss_as_an_undisturbed_one(base: LocalModel, tmp_path: Path) -> None:
    folder = make_job(tmp_path, base, training={**EVERY_STEP, "epochs": 8})
    with pytest.raises(KeyboardInterrupt):
        train(folder, kill_at(25))
    checkpoint = newest_checkpoint(folder, "0" * 64)
    assert checkpoint is not None
    assert checkpoint.manifest["watch"]["steps"] in (24, 25)
    assert 3.5 < checkpoint.manifest["watch"]["highest_early"] < 5


def test_early_stopping_keeps_the_best_weights(base: LocalModel, tmp_path: Path) -> None:
    misleading = [{**example, "completion_ids": [40, 1]} for example in LEARNABLE[:8]]
    settings = {"early_stopping": 2, "keep": "best", "epochs": 20, "warmup_ratio": 0.0}
    folder = make_job(tmp_path / "stopped", base, validation=misleading, training=settings)
    result = train(folder)
    assert result.stopped_early
    assert result.best_step is not None and result.best_step < result.steps < 80
    last = make_job(tmp_path / "last", base, validation=misleading, training={**settings, "keep": "last"})
    assert train(last).best_step == result.best_step
    assert weights(folder) != weights(last)


def test_gradient_checkpointing_changes_nothing(base: LocalModel, tmp_path: Path) -> None:
    kept = train(make_job(tmp_path / "kept", base))
    made_again = train(make_job(tmp_path / "made_again", base, training={"gradient_checkpointing": True}))
    assert [loss for _, loss in kept.losses] == pytest.approx([loss for _, loss in made_again.losses], abs=1e-6)


@pytest.mark.parametrize("lora", [{"rslora": True}, {"dora": True}, {"target_modules": ["q_proj", "v_proj"]}])
def test_kinds_of_adapters(base: LocalModel, tmp_path: Path, lora: dict[str, Any]) -> None:
    result = train(make_job(tmp_path, base, lora=lora))
    assert result.losses[-1][1] < result.losses[0][1]


def test_full_fine_tuning_learns_and_leaves_a_model(base: LocalModel, tmp_path: Path) -> None:
    from medcode_serving.adapters import load_adapted_model, read_form

    folder = make_job(tmp_path, base, training={"mode": "full"})
    result = train(folder)
    assert result.losses[-1][1] < 0.8 * result.losses[0][1]
    assert read_form(folder / "weights").mode == "full"
    model = load_adapted_model(base.path, folder / "weights", dtype="float32", merge=True)
    assert sum(p.numel() for p in model.parameters()) == result.trainable_parameters


def test_qlora_learns_over_a_base_in_four_bits(base: LocalModel, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="extra qlora is not installed")
    folder = make_job(tmp_path, base, training={"mode": "qlora"})
    result = train(folder)
    assert result.losses[-1][1] < 0.95 * result.losses[0][1]
    assert json.loads((folder / "weights" / "adapter.json").read_text())["mode"] == "qlora"


def test_without_bitsandbytes_qlora_is_lora_and_says_so(
    base: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("medcode_assets.training.models.find_spec", lambda name: None)
    folder = make_job(tmp_path, base, training={"mode": "qlora", "epochs": 1})
    train(folder)
    assert "training LoRA over the unquantised base instead" in caplog.text
    assert json.loads((folder / "weights" / "adapter.json").read_text())["mode"] == "lora"


@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.parametrize("attention", ["packed", "sdpa"])
def test_dpo_tells_chosen_from_rejected(base: LocalModel, tmp_path: Path, mode: str, attention: str) -> None:
    settings = {"mode": mode, "attention": attention, "epochs": 6}
    folder = make_job(tmp_path, base, PAIRS, objective="dpo", lora={"dropout": 0.0}, training=settings)
    logged: list[dict[str, float]] = []
    result = train(folder, lambda _, metrics: logged.append(metrics))
    assert result.losses[0][1] == pytest.approx(0.6931, abs=1e-3)  # ln 2: the model is its own reference
    assert result.validation[-1][1]["loss"] < 0.6
    assert result.validation[-1][1]["reward_accuracy"] == 1.0
    assert result.validation[-1][1]["reward_margin"] > 0.2


def test_dpos_reference_is_the_model_with_its_adapter_off_and_outlives_a_kill(base: LocalModel, tmp_path: Path) -> None:
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    settings = {**EVERY_STEP, "epochs": 2}
    folder = make_job(tmp_path / "cut", base, PAIRS, objective="dpo", training=settings)
    with pytest.raises(KeyboardInterrupt):
        train(folder, kill_at(4))
    reference = np.load(folder / "train.npy")
    plain = AutoModelForCausalLM.from_pretrained(base.path)
    for place in (0, 17):
        for column, name in enumerate(("chosen_ids", "rejected_ids")):
            prompt, answer = PAIRS[place]["prompt_ids"], PAIRS[place][name]
            with torch.no_grad():
                scores = plain(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            expected = sum(float(scores[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))
            assert reference[place, column] == pytest.approx(expected, abs=1e-4)
    assert train(folder).resumed_from in (3, 4)
    whole = make_job(tmp_path / "whole", base, PAIRS, objective="dpo", training=settings)
    train(whole)
    assert weights(folder) == weights(whole)


def test_an_adapter_goes_on_from_another_one_over_the_same_base(base: LocalModel, tmp_path: Path) -> None:
    first = make_job(tmp_path / "first", base)
    reached = train(first).losses[-1][1]
    more = {"start_from": str(first / "weights"), "epochs": 1, "warmup_ratio": 0.0}
    result = train(make_job(tmp_path / "second", base, training=more))
    assert result.losses[0][1] == pytest.approx(reached, rel=0.05)

    other = tiny_base(tmp_path / "other", _other_model())
    with pytest.raises(MedcodeError, match=r"start_from .*trained over base model 'owner/tiny' .*, not over"):
        train(make_job(tmp_path / "third", other, training=more))
    with pytest.raises(MedcodeError, match="the adapter has not the shape of section lora"):
        train(make_job(tmp_path / "fourth", base, lora={"r": 2}, training=more))


def _other_model() -> Any:
    from tests import tiny

    return tiny.qwen2(64, seed=5, eos_token_id=1, pad_token_id=0)


def test_an_unknown_target_module_is_refused(base: LocalModel, tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match=r"lora\.target_modules \['nope'\]: PEFT lays no such adapter"):
        train(make_job(tmp_path / "none", base, lora={"target_modules": ["nope"]}))
    with pytest.raises(MedcodeError, match=r"no layer v_porj in base model 'owner/tiny'"):
        train(make_job(tmp_path / "one", base, lora={"target_modules": ["q_proj", "v_porj"]}))


def test_a_base_with_a_missing_weight_is_refused(base: LocalModel, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(base.path, tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.0.mlp.down_proj.weight"]
    save_file(weights, file, {"format": "pt"})
    damaged = LocalModel(base.id, tmp_path / "base", base.revision)
    with pytest.raises(MedcodeError, match=r"1 weights are missing .* the first is model\.layers\.0\.mlp\.down_proj"):
        train(make_job(tmp_path / "job", damaged))


def test_a_base_that_is_gone_is_one_line(tmp_path: Path, base: LocalModel) -> None:
    gone = LocalModel(base.id, tmp_path / "gone", base.revision)
    with pytest.raises(MedcodeError, match=r"base model 'owner/tiny': .*config\.json cannot be read"):
        train(make_job(tmp_path / "job", gone))


def test_any_seed_will_do(base: LocalModel, tmp_path: Path) -> None:
    assert train(make_job(tmp_path, base, training={"seed": 2**40, "epochs": 1})).steps == 4


def test_an_empty_train_split_is_refused(base: LocalModel, tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match=r"icd\.tokens: no example in the train split"):
        train(make_job(tmp_path, base, []))


def test_an_example_longer_than_the_context_is_refused_by_its_id(base: LocalModel, tmp_path: Path) -> None:
    long = {"prompt_ids": [5] * 510, "completion_ids": [9, 8, 1]}
    with pytest.raises(MedcodeError, match=r"example_id 132: 513 tokens, and base model 'owner/tiny' has 512"):
        train(make_job(tmp_path, base, [*LEARNABLE, long]))


def test_a_full_disk_is_found_before_training(
    base: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_job(tmp_path, base)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(MedcodeError, match="GB needed for checkpoints of this training, 0.000 GB free"):
        train(folder)
