"""The stages' settings files, a stage rehearsed, and what a wrong setting says."""

from pathlib import Path

import pytest
import yaml

from medcode_assets.definitions import build_definitions
from medcode_assets.pipeline import stage_resources
from medcode_assets.reasoning_command import run_reasoning
from medcode_assets.recipes.reasoning.dry_run import rehearse_stage
from medcode_assets.recipes.reasoning.recipe import STAGES
from medcode_assets.recipes.reasoning.settings import CONFIG, load_stage_settings
from medcode_serving.errors import MedcodeError

DEMO = Path(__file__).parents[4] / "medcode_assets" / "recipes" / "reasoning" / "demo"


def test_flags_count_for_all_stages_or_for_one() -> None:
    found = load_stage_settings(DEMO, {"training.epochs": 2.0, "stage_2.training.epochs": 3.0})
    assert [settings.training.epochs for settings in found.values()] == [2.0, 3.0, 2.0]
    assert [settings.reasoning.stage for settings in found.values()] == [1, 2, 3]


def test_the_machine_is_the_stages_own_and_not_that_of_other_recipes(tmp_path: Path) -> None:
    stages = load_stage_settings(DEMO, {"compute.device": "cpu", "compute.memory_gb": 3.0, "warehouse.threads": 1})
    found = build_definitions(tmp_path, stages=stages, resource_overrides=stage_resources(tmp_path, stages))
    assert (found.resources["compute"].device, found.resources["compute"].memory_gb) == ("cpu", 3.0)
    assert found.resources["warehouse"].threads == 1
    assert found.resources["warehouse"].database == str(tmp_path / "warehouse")


def test_the_full_run_has_the_base_and_the_volumes_of_the_issue() -> None:
    found = load_stage_settings(CONFIG)
    assert {settings.model.base for settings in found.values()} == {"HuggingFaceTB/SmolLM2-135M-Instruct"}
    assert [settings.reasoning.examples for settings in found.values()] == [50_000, 70_000, 40_000]
    scope = found[1].reasoning
    assert (scope.top_icd10, scope.top_cpt, scope.top_hcpcs) == (500, 200, 100)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"stage_2.lora.r": 4}, "lora.r differs"),
        ({"stage_3.model.base": "other"}, "model.base differs"),
        ({"stage_3.compute.device": "cuda"}, "compute.device differs"),
        ({"reasoning.examples": 3}, "reasoning.examples"),
        ({"reasoning.sources": {"synthetic": -1.0}}, "weight of 'synthetic'"),
        ({"reasoning.sources": {"synthetic": float("nan")}}, "weight of 'synthetic'"),
        ({"reasoning.colour": 3}, "colour"),
        ({"stage_9.lora.r": 3}, "no such stage"),
    ],
)
def test_a_wrong_setting_is_named(flags: dict[str, object], message: str) -> None:
    with pytest.raises(MedcodeError, match=message):
        load_stage_settings(DEMO, flags)


def test_a_file_of_another_stage_is_refused(tmp_path: Path) -> None:
    for stage in (1, 2, 3):
        settings = yaml.safe_load((DEMO / f"reasoning-stage-{stage}.yaml").read_text())
        settings["reasoning"]["stage"] = 1
        (tmp_path / f"reasoning-stage-{stage}.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(MedcodeError, match="the file's name says 2"):
        load_stage_settings(tmp_path)


def test_a_corpus_needs_a_name_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match="--name A B"):
        run_reasoning(tmp_path, "A B", None, DEMO, [])


@pytest.mark.parametrize("number", [1, 3])
def test_a_rehearsal_trains_one_step_and_tells_what_a_stage_takes(tmp_path: Path, number: int) -> None:
    flags = {"reasoning.examples": 60, "reasoning.test_share": 0.2, "reasoning.validation_share": 0.2}
    settings = load_stage_settings(DEMO, flags)[number]
    facts = rehearse_stage(STAGES[number - 1], settings, tmp_path / "work", tmp_path / "home")
    assert facts["base model"].startswith("embedded, ")
    assert "ICD10:" in facts["base model"]
    assert facts["prompt tokens"].startswith("median ")
    assert "limit 512, 0 shortened" in facts["prompt tokens"]
    assert "GiB planned" in facts["memory"]
    assert float(facts["memory"].split()[0]) > 0
    loss = float(facts["step"].rpartition(" ")[2])
    assert loss == pytest.approx(0.693, abs=0.001) if number == 3 else loss > 1
    steps = int(facts["time"].split(" steps")[0].rpartition(" ")[2])
    assert steps >= 3
