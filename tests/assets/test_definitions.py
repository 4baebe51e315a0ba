"""The graph as Dagster sees it."""

from pathlib import Path

import dagster as dg
import pytest
import yaml

from medcode_assets.config import GATES, WORD_GATES, Settings
from medcode_assets.definitions import build_definitions
from medcode_assets.launchpad import SECTIONS, launch_config, read, run_config, sections_config, sections_of
from medcode_assets.recipes.reasoning.assets import GATES as STAGE_GATES
from medcode_assets.recipes.reasoning.assets import reasoning_config
from medcode_assets.recipes.reasoning.inspecting import BLOCKING
from medcode_assets.recipes.reasoning.settings import load_stage_settings
from medcode_assets.recipes.systems import WORD_SYSTEMS
from medcode_serving.errors import MedcodeError

ROOT = Path(__file__).parents[2]
RAW = [
    "patients",
    "admissions",
    "diagnoses_icd",
    "procedures_icd",
    "d_icd_diagnoses",
    "d_icd_procedures",
    "hcpcsevents",
    "d_hcpcs",
    "notes",
]
RECIPE = [
    "examples",
    "base_model",
    "tokens",
    "adapter",
    "frequency_prior",
    "linear",
    "untuned_base",
    "evaluation",
    "errors",
    "report",
    "bundle",
    "gguf",
    "search",
]


WORDS = (
    "examples",
    "base_model",
    "tokens",
    "untuned_base",
    "adapter",
    "search",
    "evaluation",
    "bundle",
    "gguf",
)
"""Of every recipe that answers in words."""
IN_WORDS = {
    "consult": ("conversations", "converted", "comparison", "rating_sheet"),
    "medqa": ("source", "errors", "confidence", "brevity"),
    "specialty": ("samples", "results", "recommendations", "progress"),
}
PARTITIONS = {
    "reasoning": "corpora",
    "consult": "conversations",
    "medqa": "questions",
    "specialty": "specialty_iterations",
}


def test_every_asset_of_the_main_job_is_there(tmp_path: Path) -> None:
    definitions = build_definitions(tmp_path, Settings())
    dg.Definitions.validate_loadable(definitions)
    keys = {key.to_user_string() for key in definitions.resolve_asset_graph().get_all_asset_keys()}
    assert keys == {
        *(f"raw/{table}" for table in RAW),
        *(f"mimic/{step}" for step in ("cohort", "facts", "splits")),
        *(f"icd/{step}" for step in RECIPE),
        *(f"reasoning/{step}" for step in RECIPE if step != "search"),
        *(f"reasoning/{step}" for step in ("corpus", "stage_1", "stage_2", "stage_3", "stages")),
        *(f"{recipe}/{step}" for recipe, own in IN_WORDS.items() for step in (*WORDS, *own)),
    }


def test_assets_have_the_partitions_of_mimic_versions_or_those_of_their_recipe(tmp_path: Path) -> None:
    graph = build_definitions(tmp_path, Settings()).resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        name = PARTITIONS.get(key.path[0], "mimic_versions")
        assert graph.get(key).partitions_def == dg.DynamicPartitionsDefinition(name=name)


def test_correctness_checks_block_and_ambition_only_warns(tmp_path: Path) -> None:
    graph = build_definitions(tmp_path, Settings()).resolve_asset_graph()
    checks = {key: graph.get_check_spec(key).blocking for key in graph.asset_check_keys}
    blocking = {key.name: blocks for key, blocks in checks.items() if key.asset_key.path[0] not in IN_WORDS}
    own = {(key.asset_key.path[0], key.name) for key, blocks in checks.items() if blocks} - {
        (recipe, name)
        for recipe in IN_WORDS
        for name in ("no_note_dropped", "answers_like_the_merged_model", *WORD_GATES)
    }
    assert {check for check in own if check[0] in IN_WORDS} == {
        ("consult", "nothing_lost"),
        ("specialty", "holdout_unchanged"),
        ("specialty", "eval_unchanged"),
        ("specialty", "no_overlap"),
    }
    assert {name for name, blocks in blocking.items() if blocks} == {
        "notes_have_patients",
        "notes_have_admissions",
        "codes_have_admissions",
        "notes_are_of_the_admitted_patient",
        "one_row_an_admission",
        "no_empty_note",
        "admissions_with_codes",
        "codes_well_formed",
        "no_patient_in_two_splits",
        "one_split_an_admission",
        "no_note_dropped",
        *GATES,
        "answers_like_the_merged_model",
        *BLOCKING,
    }
    assert set(STAGE_GATES) <= {name for name, blocks in blocking.items() if not blocks}
    assert {"expected_rows", "checksum", "duplicate_codes", "split_fractions"} <= set(blocking)


def test_the_launchpad_has_every_setting_with_its_description() -> None:
    settings = Settings(lora={"r": 5})
    config_class = launch_config("adapter", sections_of("adapter", settings))
    lora = config_class.model_fields["lora"].annotation
    assert lora().r == 5
    assert {name: info.description for name, info in lora.model_fields.items()} == {
        name: info.description for name, info in type(settings.lora).model_fields.items()
    }


def test_a_launchpad_value_out_of_bounds_is_refused() -> None:
    config = launch_config("adapter", sections_of("adapter", Settings()))(lora={"r": 0})
    with pytest.raises(MedcodeError, match=r"setting lora\.r: Input should be greater than or equal to 1"):
        read(config, "lora", type(Settings().lora))


def test_run_config_fits_the_assets(tmp_path: Path) -> None:
    definitions = build_definitions(tmp_path, Settings())
    for job, last in (("icd", "gguf"), ("search", "search")):
        keys = dg.AssetSelection.assets(["icd", last]).upstream().resolve(definitions.resolve_asset_graph())
        config = run_config(keys, Settings(), drop_existing=True)
        assert set(config["ops"]) == {"__".join(key.path) for key in keys}
        assert dg.validate_run_config(definitions.resolve_job_def(job), config)
    of_assets = {section for sections in SECTIONS.values() for section in sections}
    # The others are those of resources, of the sensor and the schedule, and of recipes whose objective is DPO.
    assert of_assets == set(Settings.model_fields) - {"warehouse", "compute", "automation", "preference"}


def test_run_config_fits_the_stages_of_reasoning(tmp_path: Path) -> None:
    stages = load_stage_settings(flags={"stage_2.lora.dropout": 0.25})
    definitions = build_definitions(tmp_path, Settings(), stages)
    graph = definitions.resolve_asset_graph()
    keys = sorted(dg.AssetSelection.assets(["reasoning", "gguf"], ["reasoning", "stages"]).upstream().resolve(graph))
    config = reasoning_config(keys, stages)
    assert set(config["ops"]) == {"__".join(key.path) for key in keys}
    assert config["ops"]["reasoning__stage_2"]["config"]["lora"]["dropout"] == 0.25
    assert config["ops"]["reasoning__corpus"]["config"]["stage_3"]["examples"] == 40_000
    assert dg.validate_run_config(definitions.resolve_job_def("reasoning"), config)


@pytest.mark.parametrize("recipe", IN_WORDS)
def test_run_config_fits_recipes_in_words(tmp_path: Path, recipe: str) -> None:
    settings = WORD_SYSTEMS[recipe].load_settings(flags={"training.epochs": 0.5})
    definitions = build_definitions(tmp_path, Settings(), words={recipe: settings})
    graph = definitions.resolve_asset_graph()
    own = WORD_SYSTEMS[recipe].own_sections(settings)
    for job, last in ((recipe, (*IN_WORDS[recipe], "gguf")), (f"{recipe}_search", ("search",))):
        keys = dg.AssetSelection.assets(*([recipe, name] for name in last)).upstream().resolve(graph)
        config = sections_config({key: own[key] if key in own else sections_of(key.path[-1], settings) for key in keys})
        assert dg.validate_run_config(definitions.resolve_job_def(job), config)
        assert ("search" in {key.path[-1] for key in keys}) == (job != recipe)


def test_nothing_searches_by_itself(tmp_path: Path) -> None:
    definitions = build_definitions(tmp_path, Settings())
    graph = definitions.resolve_asset_graph()
    search = dg.AssetKey(["icd", "search"])
    assert search not in dg.AssetSelection.assets(["icd", "gguf"]).upstream().resolve(graph)
    for job in ("icd", "prepare"):
        assert search not in definitions.resolve_job_def(job).asset_layer.executable_asset_keys
    assert graph.get(search).automation_condition is None


def test_the_two_instance_files_agree() -> None:
    """The one in the root adds paths; the packaged one is used below MEDCODE_HOME."""
    root = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    packaged = yaml.safe_load((ROOT / "medcode_assets" / "dagster.yaml").read_text())
    assert {key: root[key] for key in packaged} == packaged
    assert set(root) - set(packaged) == {"storage", "local_artifact_storage", "compute_logs"}
