"""The settings files, and what a wrong setting says."""

from importlib import resources
from pathlib import Path

import pytest

from medcode_assets.recipes import specialty
from medcode_assets.recipes.specialty.settings import CONFIG, load_specialty_settings
from medcode_assets.specialty_command import next_specialty, print_status, run_specialty
from medcode_serving.errors import MedcodeError


def test_the_full_run_is_that_of_the_issue() -> None:
    settings = load_specialty_settings(CONFIG)
    assert settings.model.base == "dmis-lab/llama-3-meerkat-8b-v1.0"
    assert (settings.lora.r, settings.lora.alpha, settings.lora.target_modules) == (8, 16, ["q_proj", "v_proj"])
    assert settings.training.mode == "qlora"
    chosen = settings.specialty
    assert (chosen.holdout, chosen.train_share, chosen.eval_share) == (10, 0.5, 0.2)


def test_the_demo_needs_no_network() -> None:
    with resources.as_file(resources.files(specialty) / "demo" / "specialty.yaml") as file:
        settings = load_specialty_settings(file)
    assert (settings.model.base, settings.specialty.source) == ("embedded", "synthetic")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"specialty.adjustments": {"cardiology": 0.5}}, "cardiology: 0.5; samples are only added"),
        ({"specialty.adjustments": {"cardiology": float("nan")}}, "cardiology: nan"),
        ({"specialty.adjustments": {"cardiology": 1e308}}, r"cardiology: 1e\+308"),
        ({"specialty.measure": "perplexity"}, "unknown measure 'perplexity'"),
        ({"specialty.increase": 1.0}, "specialty.increase"),
        ({"specialty.colour": 1}, "specialty.colour: no such setting"),
    ],
)
def test_a_wrong_setting_is_named(flags: dict[str, object], message: str) -> None:
    with pytest.raises(MedcodeError, match=message):
        load_specialty_settings(CONFIG, flags)


def test_commands_say_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match="begin with `medcode specialty run --name p --source DIR"):
        next_specialty(tmp_path, "p", None, [])
    with pytest.raises(MedcodeError, match="no iteration in"):
        print_status(tmp_path, "p")
    with pytest.raises(MedcodeError, match="use small letters"):
        run_specialty(tmp_path, "../p", None, None, [])
