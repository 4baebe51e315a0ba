import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from medcode_serving.bundle import DecodingSettings
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.device import resolve_device
from medcode_serving.engines.baseline import FrequencyPriorEngine
from medcode_serving.engines.transformers import TransformersEngine
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate
from tests.serving.conftest import NOTES

DECODING = DecodingSettings(max_prompt_tokens=128, max_codes=4)


def make_engine(base_model: Path, adapter: Path | None, vocabulary: Vocabulary, **options) -> TransformersEngine:
    options = {"device": "cpu", "decoding": DECODING} | options
    return TransformersEngine("tiny", base_model, adapter, vocabulary, PromptTemplate(), **options)


def codes_of(predictions) -> list[list[str]]:
    return [[code.code for code in prediction.codes] for prediction in predictions]


def probabilities_of(predictions) -> list[float]:
    return [code.probability for prediction in predictions for code in prediction.codes]


def test_batches_do_not_change_answers(base_model, adapter, vocabulary) -> None:
    notes = NOTES + [" ".join(NOTES), "x", ""]
    one_by_one = make_engine(base_model, adapter, vocabulary, batch_size=1).predict(notes)
    done: list[int] = []
    together = make_engine(base_model, adapter, vocabulary, batch_size=16).predict(notes, on_progress=done.append)
    assert codes_of(together) == codes_of(one_by_one)
    assert probabilities_of(together) == pytest.approx(probabilities_of(one_by_one), abs=1e-4)
    assert sum(done) == len(notes)
    assert all(0 <= value <= 1 for value in probabilities_of(together))


def test_the_adapter_changes_the_answers_and_the_base_answers_without(base_model, adapter, vocabulary) -> None:
    tuned = make_engine(base_model, adapter, vocabulary).predict(NOTES)
    untuned = make_engine(base_model, None, vocabulary).predict(NOTES)
    assert codes_of(tuned) != codes_of(untuned)


def test_bfloat16_answers_too(base_model, adapter, vocabulary) -> None:
    predictions = make_engine(base_model, adapter, vocabulary, dtype="bfloat16").predict(NOTES)
    assert all(prediction.codes for prediction in predictions)


def test_a_long_note_is_shortened_and_it_is_said(base_model, vocabulary) -> None:
    engine = make_engine(base_model, None, vocabulary)
    short, long = engine.predict(["Fever.", "Fever and cough. " * 200])
    assert not short.truncated
    assert long.truncated


def test_an_adapter_with_foreign_keys_is_refused(base_model, adapter, vocabulary, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(adapter, foreign)
    weights = load_file(foreign / "adapter_model.safetensors")
    save_file(
        {name.replace("layers.0", "layers.7"): value for name, value in weights.items()},
        foreign / "adapter_model.safetensors",
    )
    with pytest.raises(MedcodeError, match="missing"):
        make_engine(base_model, foreign, vocabulary)


def test_an_adapter_of_another_shape_is_refused_in_one_line(base_model, adapter, vocabulary, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"r": 2}))
    with pytest.raises(MedcodeError, match="does not fit") as caught:
        make_engine(base_model, other, vocabulary)
    assert "\n" not in str(caught.value)


def test_a_missing_adapter_is_named(base_model, vocabulary, tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match="adapter_config.json"):
        make_engine(base_model, tmp_path / "nowhere", vocabulary)


def test_a_base_model_with_missing_weights_is_refused(base_model, vocabulary, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(base_model, broken)
    weights = load_file(broken / "model.safetensors")
    weights.pop(next(name for name in weights if "layers.1" in name))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MedcodeError, match="missing"):
        make_engine(broken, None, vocabulary)


def test_limits_that_do_not_fit_the_model_are_refused(base_model, vocabulary) -> None:
    with pytest.raises(MedcodeError, match="lower it"):
        make_engine(base_model, None, vocabulary, decoding=DecodingSettings(max_prompt_tokens=510, max_codes=4))
    with pytest.raises(MedcodeError, match="raise it"):
        make_engine(base_model, None, vocabulary, decoding=DecodingSettings(max_prompt_tokens=16, max_codes=4))


def test_devices() -> None:
    import torch

    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in {"cpu", "cuda", "mps"}
    with pytest.raises(MedcodeError, match="unknown device"):
        resolve_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(MedcodeError, match="cuda"):
            resolve_device("cuda")


def test_the_frequency_prior_ranks_by_frequency(vocabulary: Vocabulary) -> None:
    first, second = FrequencyPriorEngine(vocabulary, documents=20).predict(["a", "b"])
    assert first == second
    assert [code.code for code in first.codes] == [code.code for code in vocabulary.codes]
    assert first.codes[0].probability == 0.5
