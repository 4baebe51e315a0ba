"""Other models beside the adapter: the embedded base in another folder stands for an instruct model."""

import shutil
from pathlib import Path

import pytest

from medcode_assets.artifacts import made
from medcode_assets.recipes.consult.comparing import candidates, compare_models, compared_fingerprint, plain_name
from medcode_assets.recipes.consult.rating import SHEET, make_rating_sheet, read_key
from medcode_assets.recipes.consult.recipe import CONSULT
from medcode_assets.recipes.words.answers import (
    TUNED,
    UNTUNED,
    Answered,
    answers_file,
    read_word_answers,
    write_word_answers,
)
from medcode_assets.recipes.words.measuring import read_word_report
from medcode_assets.recipes.words.questions import Asked
from medcode_serving.base_models import resolve_base_model
from medcode_serving.bundle import DecodingSettings
from medcode_serving.errors import MedcodeError

GOOD = "You most likely have a cold.\n\n1. Cause\n   - A virus.\n2. Care\n   - Rest.\n"
ASKED = [Asked(place, "", f"I cough. Number {place}?", ("A cold.",)) for place in range(3)]


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    folder = tmp_path / "evaluation"
    write_word_answers(answers_file(folder, TUNED), ASKED, [Answered(GOOD, 20, 0.9, False)] * 3)
    write_word_answers(answers_file(folder, UNTUNED), ASKED, [Answered("A cold.", 3, 0.5, False)] * 3)
    return folder


def test_every_model_answers_once_and_is_measured_beside_the_adapter(evaluation: Path, tmp_path: Path) -> None:
    base = resolve_base_model("embedded", tmp_path / "cache")
    other = tmp_path / "other"
    shutil.copytree(base.path, other)
    with (other / "config.json").open("a") as config:
        config.write("\n")
    found = candidates(["embedded", str(other)], base, tmp_path / "cache")
    assert [one.name for one in found] == [str(other)]  # the adapter's own base has answered already
    assert compared_fingerprint("a", found) != compared_fingerprint("b", found) != compared_fingerprint("b", [])
    assert CONSULT.words is not None
    report = compare_models(
        evaluation,
        found,
        CONSULT.words,
        tmp_path / "comparison",
        tmp_path / "parts",
        made_from="f" * 64,
        decoding=DecodingSettings(max_prompt_tokens=128, max_answer_tokens=8),
        batch_size=2,
        device="cpu",
    )
    assert list(report.models) == [UNTUNED, str(other), TUNED]
    assert report == read_word_report(tmp_path / "comparison")
    assert report.models[TUNED].value("structure") == 1.0
    assert report.models[UNTUNED].value("structure") == 0.0
    asked, answers = read_word_answers(answers_file(tmp_path / "comparison", plain_name(str(other))))
    assert asked == ASKED
    assert all(0 < answer.tokens <= 8 for answer in answers)
    gain = report.gain("structure")
    assert gain is not None and gain.value == 1.0


def test_without_other_models_the_two_stand_alone(evaluation: Path, tmp_path: Path) -> None:
    assert CONSULT.words is not None
    report = compare_models(
        evaluation,
        [],
        CONSULT.words,
        tmp_path / "comparison",
        tmp_path / "parts",
        made_from="f" * 64,
        decoding=DecodingSettings(),
        batch_size=2,
        device="cpu",
    )
    assert list(report.models) == [UNTUNED, TUNED]
    facts = made(tmp_path / "comparison")
    assert facts is not None and facts["models"] == [UNTUNED, TUNED]


def test_the_rating_sheet_needs_both_models(evaluation: Path, tmp_path: Path) -> None:
    make_rating_sheet(evaluation, tmp_path / "sheet", made_from="abcdef" + "0" * 58, rated=50, seed=0)
    key = read_key(tmp_path / "sheet")
    assert (key.sheet, len(key.tuned)) == ("abcdef", 3)
    assert (tmp_path / "sheet" / SHEET).read_text(encoding="utf-8-sig").count("You most likely") == 3
    answers_file(evaluation, UNTUNED).unlink()
    with pytest.raises(MedcodeError, match="untuned_base: true"):
        make_rating_sheet(evaluation, tmp_path / "sheet", made_from="f" * 64, rated=50, seed=0)
