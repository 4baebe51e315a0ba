"""Training on a random model of a few thousand weights: what is learned, saved and resumed."""

from pathlib import Path

import pytest

from medcode_assets.config import LoraSettings, TrainingSettings
from medcode_assets.training.collation import IGNORED, collate
from medcode_assets.training.sft import TrainingResult, train_adapter
from medcode_serving.base_models import LocalModel, folder_revision
from medcode_serving.errors import MedcodeError
from tests import tiny

LORA = LoraSettings(r=4, alpha=8, dropout=0.1)
EXAMPLES = [
    {"prompt_ids": [5 + index % 7, 9, 11], "completion_ids": [20 + index % 7, 1], "length": 5} for index in range(32)
]


def training(**changes: object) -> TrainingSettings:
    settings = {"epochs": 3, "learning_rate": 1e-2, "batch_size": 8, "gradient_accumulation": 1, "device": "cpu"}
    return TrainingSettings(**{**settings, **changes})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    folder = tmp_path_factory.mktemp("base")
    tiny.qwen2(64, seed=0, eos_token_id=1, pad_token_id=0).save_pretrained(folder)
    return LocalModel("owner/tiny", folder, folder_revision(folder))


def train(base: LocalModel, folder: Path, settings: TrainingSettings, **more: object) -> TrainingResult:
    from datasets import Dataset

    data = Dataset.from_list(EXAMPLES)
    return train_adapter(
        base,
        data,
        data.select(range(8)),
        folder / "adapter",
        lora=LORA,
        training=settings,
        checkpoints=folder / "checkpoints",
        logging_steps=1,
        **more,
    )


def weights(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def test_labels_are_the_completion_only() -> None:
    batch = collate(
        [{"prompt_ids": [5, 6], "completion_ids": [7, 1]}, {"prompt_ids": [8], "completion_ids": [1]}], pad_token_id=0
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7, 1], [8, 1, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 7, 1], [IGNORED, 1, IGNORED, IGNORED]]


def test_the_adapter_learns_and_names_its_base_by_id(base: LocalModel, tmp_path: Path) -> None:
    import json

    logged: list[tuple[int, dict[str, float]]] = []
    result = train(base, tmp_path, training(), log=lambda step, metrics: logged.append((step, metrics)))
    assert result.steps == 12
    assert result.losses[-1][1] < 0.95 * result.losses[0][1]
    assert len(result.validation_losses) == 3
    assert any("loss" in metrics for _, metrics in logged)
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "owner/tiny"


def test_a_killed_training_goes_on_to_the_same_adapter(base: LocalModel, tmp_path: Path) -> None:
    settings = training(checkpoint_minutes=1e-9)  # a checkpoint after every step
    train(base, tmp_path / "whole", settings)

    def kill_at_7(step: int, metrics: dict[str, float]) -> None:
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path / "cut", settings, log=kill_at_7)
    assert not (tmp_path / "cut" / "adapter").exists()
    half = tmp_path / "cut" / "checkpoints" / "checkpoint-9"  # as a kill in the middle of saving leaves it
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    result = train(base, tmp_path / "cut", settings)
    assert result.resumed_from in (6, 7)
    assert result.steps == 12
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert not (tmp_path / "cut" / "checkpoints").exists()


def test_the_same_seed_gives_the_same_adapter(base: LocalModel, tmp_path: Path) -> None:
    train(base, tmp_path / "a", training())
    train(base, tmp_path / "b", training())
    train(base, tmp_path / "c", training(seed=1))
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")


def test_a_loss_that_is_not_finite_stops_the_training(base: LocalModel, tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match=r"loss is (nan|inf); lower training\.learning_rate"):
        train(base, tmp_path, training(learning_rate=1e30, max_grad_norm=1e30))
    assert not (tmp_path / "adapter").exists()


def test_an_unknown_target_module_is_refused(base: LocalModel, tmp_path: Path) -> None:
    from medcode_assets.training.sft import adapted_model

    with pytest.raises(MedcodeError, match=r"lora\.target_modules \['nope'\]: no such layers"):
        adapted_model(base, LoraSettings(target_modules=["nope"]), "cpu", training())
