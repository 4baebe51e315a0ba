"""What `medcode plan` prints for a recipe in words, on a model of one layer."""

from pathlib import Path

import pytest
from transformers import Qwen2Config

from medcode_assets.planning_command import print_plan
from medcode_assets.recipes.consult.settings import ConsultSettings
from medcode_serving.errors import MedcodeError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    Qwen2Config(
        vocab_size=200,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
    ).save_pretrained(folder)
    return folder


def test_a_recipe_in_words_is_planned_with_its_questions(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ConsultSettings(
        model={"base": str(model)}, training={"batch_size": 4}, compute={"device": "cpu", "memory_gb": 0.01}
    )
    print_plan(settings, tmp_path)
    told = capsys.readouterr().out
    # A full prompt of 1,024 and an answer of 300, of which the model reads 512.
    assert "batch_size 4 (one question of 512 tokens, the others 500; answers of 300)" in told
    assert "Lengths: data.max_prompt_tokens 1,024 and an answer of 300; usual lengths of recipe consult" in told
    assert "reads 512: planned with these; set data.max_prompt_tokens to 212 or less" in told
    assert "This machine has 0.0 GiB free on cpu" in told
    assert "Longest question at batch_size 4 as set" in told
    assert told.count("512 (all it reads)") == 4
    assert "2,600 examples of 500 tokens" in told
    assert " note" not in told


def test_what_was_asked_for_is_not_cut_but_refused(model: Path, tmp_path: Path) -> None:
    settings = ConsultSettings(model={"base": str(model)})
    with pytest.raises(MedcodeError, match="--longest 1300: base model .* reads 512 tokens"):
        print_plan(settings, tmp_path, longest=1300)
    with pytest.raises(MedcodeError, match="no such warehouse"):
        print_plan(settings, tmp_path, name="mine")
