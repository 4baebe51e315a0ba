"""What is given once holds under its name: settings files, flags and the source, from command to command."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from medcode_assets.artifacts import making
from medcode_assets.recipes.specialty.drawing import fill_samples, plan
from medcode_assets.recipes.specialty.iterations import Iteration
from medcode_assets.recipes.specialty.recommending import recommend, write_recommendations
from medcode_assets.recipes.specialty.remembered import FILE, as_settings, given_now, remember
from medcode_assets.recipes.specialty.sample_files import read_samples
from medcode_assets.recipes.specialty.sampling import counts
from medcode_assets.recipes.specialty.settings import CONFIG, SpecialtySettings, load_specialty_settings
from medcode_assets.specialty_command import next_specialty, print_status, refuse_other_adjustments, settings_of
from medcode_assets.words_demo import demo_settings
from medcode_serving.errors import MedcodeError
from tests.assets.recipes.specialty.advice import group, results

FIRST, SECOND = Iteration("p", 1), Iteration("p", 2)


def write_config(file: Path, **sections: Any) -> Path:
    file.write_text(yaml.safe_dump(sections))
    return file


def given(file: Path, config: Path | None = None, flags: dict[str, Any] | None = None) -> SpecialtySettings:
    """Do what a command does with its settings."""
    remembered = given_now(file, config, flags or {})
    settings = as_settings(remembered, file, flags or {})
    remember(file, remembered, "/data")
    return settings


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for specialty in ("cardiology", "neurology"):
        rows = [{"question": f"{specialty} {place}?", "answer": f"{specialty} is {place}"} for place in range(60)]
        (folder / f"dataset_with_answers_{specialty}.json").write_text(json.dumps(rows))
    return folder


def make_samples(home: Path, iteration: Iteration, settings: SpecialtySettings) -> None:
    def folder(partition: str, name: str) -> Path:
        return home / "artifacts" / "specialty" / partition / name

    planned = plan(iteration, settings.specialty, folder)
    with making(folder(iteration.key, "samples"), planned.fingerprint) as (aside, facts):
        facts.update(fill_samples(planned, aside))


def advise(home: Path, iteration: Iteration) -> None:
    folder = home / "artifacts" / "specialty" / iteration.key
    found = results(group("cardiology", 0.1, 0.8), group("neurology", 0.1, 0.2))
    facts = json.loads((folder / "samples" / "made.json").read_text())
    with making(folder / "recommendations", "advice") as (aside, told):
        sizes = counts(read_samples(folder / "samples"))
        write_recommendations(aside, recommend(found, sizes, load_specialty_settings(CONFIG).specialty))
        told["samples"] = facts["contents"]


def test_a_command_that_gives_nothing_has_what_was_given_before(tmp_path: Path) -> None:
    file = tmp_path / "p-01" / FILE
    config = write_config(
        tmp_path / "my.yaml", model={"base": "embedded"}, specialty={"bertscore_model": None, "below": 0.3}
    )
    first = given(file, config, {"lora.r": 3, "specialty.source": None})
    config.unlink()
    again = given(file)
    assert again.model_dump(exclude={"specialty"}) == first.model_dump(exclude={"specialty"})
    assert (again.model.base, again.lora.r, again.specialty.below) == ("embedded", 3, 0.3)
    assert again.specialty.bertscore_model is None  # said to be none, unlike the default
    assert again.specialty.source == "/data"


def test_what_is_given_anew_wins_and_the_rest_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / FILE
    given(file, None, {"model.base": "embedded", "model.revision": "abc", "lora.r": 3, "training.epochs": 2.0})
    other = write_config(tmp_path / "other.yaml", lora={"r": 4})
    assert given(file, other).lora.r == 4
    assert given(file, other, {"lora.r": 5}).lora.r == 5
    now = given(file)
    assert (now.lora.r, now.training.epochs, now.model.base, now.model.revision) == (5, 2.0, "embedded", "abc")
    monkeypatch.setenv("MEDCODE_TRAIN_LORA__R", "6")
    assert given(file).lora.r == 6
    monkeypatch.delenv("MEDCODE_TRAIN_LORA__R")
    assert given(file).lora.r == 5  # the environment is not kept
    assert given(file, None, {"model.base": "x/y"}).model.revision is None  # of the other model


def test_without_a_file_of_ones_own_the_recipes_file_counts_as_it_is_now(tmp_path: Path) -> None:
    recipe, mine = load_specialty_settings(CONFIG), write_config(tmp_path / "mine.yaml", lora={"r": 4})
    assert given(tmp_path / "a", None, {"lora.dropout": 0.0}).training == recipe.training
    assert given(tmp_path / "b", mine).training == SpecialtySettings().training != recipe.training
    assert given(tmp_path / "b").training == SpecialtySettings().training


def test_no_password_consent_or_adjustment_is_kept(tmp_path: Path) -> None:
    file, base = tmp_path / FILE, tmp_path / "base"
    base.mkdir()
    flags = {
        "logging.mlflow_uri": "https://me:secret@mlflow.example",
        "compute.allowed_hosts": ["modal.com"],
        "specialty.adjustments": {"cardiology": 1.5},
        "specialty.adjustments.neurology": 1.5,
        "model.base": str(base / ".." / "base"),
    }
    given(file, None, flags)
    kept = file.read_text()
    for text in ("secret", "modal", "cardiology", "neurology", ".."):
        assert text not in kept
    assert given(file).model.base == str(base)
    assert file.stat().st_mode & 0o077 == 0


def test_wrong_settings_are_told_and_not_kept(tmp_path: Path) -> None:
    file = tmp_path / FILE
    config = write_config(tmp_path / "my.yaml", lora={"r": 0})
    with pytest.raises(MedcodeError, match=r"my.yaml, line 2: lora.r"):
        given(file, config)
    assert not file.exists()
    file.write_text("own_config: true\nsettings: {lora: {colour: 1}}\n")
    with pytest.raises(MedcodeError, match=rf"^{file}: lora.colour: no such setting; give another value"):
        given(file)
    file.write_text("[")
    with pytest.raises(MedcodeError, match="settings.yaml: broken; delete it"):
        given(file)


def test_the_source_is_looked_at_before_anything_is_made(tmp_path: Path, source: Path) -> None:
    home = tmp_path / "home"
    with pytest.raises(MedcodeError, match="nope: no such folder"):
        settings_of(home, FIRST, None, {"specialty.source": str(tmp_path / "nope")})
    with pytest.raises(MedcodeError, match=r"too few questions .*: cardiology \(60\), neurology \(60\)"):
        settings_of(home, FIRST, None, {"specialty.source": str(source), "specialty.holdout": 59})
    assert not home.exists()


def test_the_source_of_iteration_1_wins_over_that_of_a_settings_file(tmp_path: Path, source: Path) -> None:
    home = tmp_path / "home"
    make_samples(home, FIRST, settings_of(home, FIRST, None, {"specialty.source": str(source)}))
    advise(home, FIRST)
    config = write_config(tmp_path / "demo.yaml", specialty={"source": "synthetic"}, model={"base": "embedded"})
    settings = settings_of(home, SECOND, config, {})
    assert (settings.specialty.source, settings.model.base) == (None, "embedded")
    assert settings_of(home, SECOND, None, {}).model.base == "embedded"
    with pytest.raises(MedcodeError, match="synthetic: not the questions that p-01 was drawn from"):
        settings_of(home, SECOND, None, {"specialty.source": "synthetic"})
    assert settings_of(home, FIRST, None, {}).specialty.source == str(source)


def test_the_demos_settings_hold_for_what_comes_after_it(tmp_path: Path) -> None:
    settings = demo_settings(tmp_path, "specialty")
    after = settings_of(tmp_path, Iteration("demo-specialties", 1), None, {})
    assert after.model_dump() == settings.model_dump()
    assert (after.model.base, after.specialty.bertscore_model) == ("embedded", None)


def test_adjustments_are_not_given_to_an_iteration_that_was_drawn_without(tmp_path: Path, source: Path) -> None:
    home = tmp_path / "home"
    flags = {"specialty.source": str(source), "specialty.adjustments": {"cardiology": 1.5}}
    make_samples(home, FIRST, settings_of(home, FIRST, None, flags))
    refuse_other_adjustments(home, FIRST, {"cardiology": 1.5})
    refuse_other_adjustments(home, FIRST, {})
    with pytest.raises(MedcodeError, match=f"medcode specialty next --name p --output-dir {home}`"):
        next_specialty(home, "p", None, ["specialty.adjustments={cardiology: 2.0}"])


def test_status_lists_what_is_there(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    make_samples(home, FIRST, settings_of(home, FIRST, None, {"specialty.source": str(source)}))
    print_status(home, "p")
    shown = capsys.readouterr().out
    assert "p-01: samples\n" in shown
    assert f"Not finished: medcode specialty next --name p --output-dir {home}\n" in shown
    advise(home, FIRST)
    print_status(home, "p")
    shown = capsys.readouterr().out
    assert "p-01: samples, recommendations\n" in shown
    assert f"The next one: medcode specialty next --name p --output-dir {home}\n" in shown
