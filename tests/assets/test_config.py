import re
from pathlib import Path

import pytest
import yaml

from medcode_assets.config import DEFAULT_CONFIG, Settings, load_settings, parse_assignments
from medcode_serving.errors import MedcodeError


def test_the_committed_file_says_every_default() -> None:
    content = yaml.safe_load(DEFAULT_CONFIG.read_text())
    assert content == Settings().model_dump(mode="json")


def test_file_then_environment_then_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("lora: {r: 2, alpha: 3}\ntraining: {epochs: 1}\n")
    monkeypatch.setenv("MEDCODE_TRAIN_LORA__ALPHA", "5")
    monkeypatch.setenv("MEDCODE_TRAIN_TRAINING__EPOCHS", "7")
    settings = load_settings(file, {"training.epochs": 9})
    assert (settings.lora.r, settings.lora.alpha, settings.training.epochs) == (2, 5, 9)
    assert settings.lora.dropout == Settings().lora.dropout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lora: {rank: 2}", "line 1: lora.rank: no such setting"),
        ("model:\n  base: embedded\nlora:\n  alpha: 4\n  r: 0\n", "line 5: lora.r: Input should be greater"),
        ("training:\n  mode: full\n  start_from: a\n", "line 1: training: Value error, start_from names an adapter"),
        ("# c\ncompute: {machines: 2}", "line 2: compute: Value error, several machines need `rendezvous`"),
        ("search: {learning_rate: [1, 0.1]}", "line 1: search: Value error, learning_rate: give the least and"),
        ("- a", "not a mapping of sections"),
        ("lora: [", "not YAML (line 1)"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(content)
    with pytest.raises(MedcodeError, match=re.escape(message)) as error:
        load_settings(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match=r"nowhere\.yaml: No such file"):
        load_settings(tmp_path / "nowhere.yaml")


def test_assignments() -> None:
    assert parse_assignments(["lora.r=16", "data.systems=[icd10cm]"]) == {"lora.r": 16, "data.systems": ["icd10cm"]}
    with pytest.raises(MedcodeError, match=r"expected section\.field=value"):
        parse_assignments(["r=16"])
