"""Settings files, the graph that they make, and the choice of a base model."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from medcode_assets import medqa_command
from medcode_assets.cli_medqa import app
from medcode_assets.medqa_command import check_questions, model_lines, run_command, run_medqa
from medcode_assets.recipes.medqa.assets import own_assets, own_sections
from medcode_assets.recipes.medqa.choosing import (
    Candidate,
    KnownModel,
    choose_model,
    known_models,
    model_config,
    planned_gib,
    ranked,
)
from medcode_assets.recipes.medqa.settings import CONFIG, MedqaSettings, load_medqa_settings
from medcode_serving.errors import MedcodeError

DEMO = Path(__file__).parents[4] / "medcode_assets" / "recipes" / "medqa" / "demo" / "medqa.yaml"


def test_the_full_run_takes_medmcqa_and_a_base_in_four_bits() -> None:
    found = load_medqa_settings(CONFIG)
    assert (found.medqa.source, found.model.base) == ("openlifescienceai/medmcqa", "microsoft/phi-2")
    assert found.training.mode == MedqaSettings().training.mode == "qlora"
    assert found.training.gradient_accumulation > 1


def test_the_demo_needs_no_network() -> None:
    found = load_medqa_settings(DEMO, {"medqa.limit": 3})
    assert (found.medqa.source, found.model.base, found.medqa.limit) == ("synthetic", "embedded", 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("medqa.answer_template", "{answer}"),
        ("medqa.answer_template", "the answer"),
        ("medqa.answer_template", "{label"),
        ("medqa.cop_base", 2),
        ("medqa.augmentation", 0),
        ("medqa.colour", 3),
        ("brevity.length_penalties", [0.5]),
        ("brevity.max_tokens", [0, 0]),
        ("brevity.max_sentences", [0, -1]),
        ("errors.confident", 1.0),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: object) -> None:
    with pytest.raises(MedcodeError, match=name.replace(".", r"\.")):
        load_medqa_settings(DEMO, {name: value})


def test_cop_base_may_be_a_number_or_a_word() -> None:
    given = [load_medqa_settings(DEMO, {"medqa.cop_base": base}).medqa.cop_base for base in (0, 1, "1", "auto")]
    assert given == ["0", "1", "1", "auto"]


def test_each_own_asset_has_its_sections() -> None:
    settings = load_medqa_settings(DEMO)
    made = {asset.key for asset in own_assets(settings)}
    assert made == set(own_sections(settings))
    assert {key.to_user_string() for key in made} == {
        "medqa/source", "medqa/confidence", "medqa/brevity", "medqa/errors",
    }  # fmt: skip


def test_the_models_numbers_are_those_of_their_weights() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    def weights(model: KnownModel, layers: int) -> int:
        config = model_config(model)
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(config)
        built.tie_weights()
        return sum(p.numel() for p in built.parameters())

    for model in known_models():
        one, two = weights(model, 1), weights(model, 2)  # every layer has as many
        counted = one + (two - one) * (model_config(model).num_hidden_layers - 1)
        assert counted / 1e9 == pytest.approx(model.parameters, rel=0.02, abs=5e-4), model.id
        assert model_config(model).max_position_embeddings == model.context, model.id


def fitting(memory_gib: float) -> list[Candidate]:
    """Every model with a rule of thumb in the place of its plan, which takes seconds."""
    needed = {model: 1.2 * model.parameters + 1 for model in known_models()}
    return [Candidate(model, "qlora", gib, gib <= memory_gib) for model, gib in needed.items()]


def test_models_that_fit_come_first_and_the_largest_of_them_ahead() -> None:
    found = ranked(fitting(8.0), "choices")
    assert [one.fits for one in found] == sorted((one.fits for one in found), reverse=True)
    assert [one.model.id for one in found][:2] == ["Qwen/Qwen2.5-3B-Instruct", "microsoft/phi-2"]
    assert found[-1].model.id == "dmis-lab/llama-3-meerkat-8b-v1.0"
    assert ranked(fitting(24.0), "choices")[0].model.medical
    assert ranked(fitting(8.0), "reasoning")[0].model.id == "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    assert len(model_lines(found)) == len(known_models()) + 1


def test_a_plan_grows_with_the_batch() -> None:
    small = next(model for model in known_models() if model.id == "embedded")
    settings = load_medqa_settings(DEMO, {"training.batch_size": 1})
    more = settings.training.model_copy(update={"batch_size": 16})
    few = planned_gib(small, "lora", 64, settings.training, settings.lora)
    assert 0.4 < few < planned_gib(small, "lora", 64, more, settings.lora) < 4


def test_unknown_tasks_and_too_few_tokens_are_refused() -> None:
    with pytest.raises(MedcodeError, match="choose of"):
        choose_model(8.0, "poetry")  # type: ignore[arg-type]
    with pytest.raises(MedcodeError, match="20 tokens"):
        choose_model(8.0, tokens=20)


def test_questions_need_a_name_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match="--name A B"):
        run_medqa(tmp_path, "A B", DEMO, [])


def test_a_source_that_is_not_there_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match="no such file"):
        run_medqa(tmp_path / "home", "few", DEMO, ["medqa.source=./missing.jsonl"])
    assert not (tmp_path / "home").exists()


def test_the_next_command_has_all_that_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCODE_HOME", str(tmp_path))
    given = ["medqa.source=a b.jsonl", "search.use_best=true"]
    told = run_command(tmp_path, "few", Path("my.yaml"), given)
    assert told == (
        "medcode medqa run --name few --config my.yaml --set 'medqa.source=a b.jsonl' --set search.use_best=true"
    )
    assert run_command(tmp_path, "few", None, []) == "medcode medqa run --name few"
    assert run_command(tmp_path / "x", None, None, []) == f"medcode medqa run --output-dir {tmp_path / 'x'}"


def test_options_stand_for_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[MedqaSettings] = []
    monkeypatch.setattr(
        medqa_command, "materialize_questions", lambda home, name, settings, **_: found.append(settings)
    )
    given = ["run", "--source", "synthetic", "--base-model", "embedded", "--output-dir", str(tmp_path)]
    assert CliRunner().invoke(app, given).exit_code == 0
    assert CliRunner().invoke(app, [*given, "--set", "model.base=mine"]).exit_code == 0  # the setting itself wins
    assert [(one.medqa.source, one.model.base) for one in found] == [("synthetic", "embedded"), ("synthetic", "mine")]


def test_a_source_is_checked_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_questions(tmp_path, "synthetic", DEMO, ["medqa.synthetic_questions=200"])
    told = capsys.readouterr().out
    assert "200 rows; options counted from 1" in told
    assert "subject" in told
    assert not list(tmp_path.iterdir())
    with pytest.raises(MedcodeError, match="no such file"):
        check_questions(tmp_path, "./missing.jsonl", DEMO, [])
