"""Baselines of a bundle as engines, and the calibration that a bundle carries."""

from pathlib import Path

import pytest

from medcode_serving.bundle import Decision, Gate, open_bundle, publish, read_gates, write_bundle, write_gates
from medcode_serving.calibration import Calibration
from medcode_serving.engines.protocol import Prediction, ScoredCode, calibrate
from medcode_serving.errors import MedcodeError
from medcode_serving.loading import load_predictor
from medcode_serving.settings import load_inference_settings
from tests.tiny import write_codes

from .conftest import CODES, make_manifest

HALVED = Calibration(method="isotonic", told=(0.0, 1.0), right=(0.0, 0.5))


@pytest.fixture(scope="module")
def home(base_model, adapter, vocabulary, tmp_path_factory) -> Path:
    """A bundle whose adapter is calibrated and which was measured beside two baselines."""
    home = tmp_path_factory.mktemp("home")
    manifest = make_manifest(base_model, threshold=0.0)
    manifest = manifest.model_copy(
        update={
            "calibration": HALVED,
            "data": manifest.data.model_copy(update={"train_documents": 20}),
            "baselines": {
                "frequency_prior": Decision(threshold=0.2, calibration=HALVED),
                "untuned_base": Decision(threshold=0.0),
            },
        }
    )
    codes = write_codes(home / "codes.parquet", vocabulary)
    publish(write_bundle(home / "bundles", manifest, adapter=adapter, codes=codes))
    return home


def predictor(home: Path, engine: str):
    settings = {"model.home": str(home), "model.engine": engine, "device": "cpu"}
    return load_predictor(load_inference_settings(None, **settings))


def test_the_frequency_prior_answers_with_its_own_threshold_and_calibration(home):
    answer = predictor(home, "frequency_prior").predict("any note")
    # Frequencies 10, 9, 8 ... of 20 documents are .5, .45, .4 ..., halved .25, .225, .2: three reach .2.
    assert [(code.code, code.probability) for code in answer.codes] == [
        (CODES[0][1], 0.25),
        (CODES[1][1], 0.225),
        (CODES[2][1], 0.2),
    ]
    assert (answer.engine, answer.threshold) == ("frequency_prior", 0.2)


def test_the_adapter_is_calibrated_and_the_untuned_base_is_another_model(home):
    note = "Type 2 diabetes."
    adapted, untuned = (predictor(home, engine).predict(note) for engine in ("transformers", "untuned_base"))
    assert adapted.codes
    assert all(code.probability <= 0.5 for code in adapted.codes)
    assert (untuned.engine, untuned.threshold) == ("untuned_base", 0.0)
    assert [code.probability for code in untuned.codes] != [code.probability for code in adapted.codes]


def test_a_baseline_that_the_bundle_lacks_is_refused(home):
    with pytest.raises(MedcodeError, match="bundle v1 was not measured beside linear; publish it anew"):
        predictor(home, "linear")


def test_codes_without_a_probability_stay_without():
    told = Prediction((ScoredCode("icd10cm", "I10", None, 0.8), ScoredCode("icd10cm", "E11", None, None)), dropped=3)
    found = calibrate(told, HALVED)
    assert [code.probability for code in found.codes] == [0.4, None]
    assert found.dropped == 3


def test_gates_lie_in_the_bundle_and_do_not_break_its_seal(home):
    bundle = open_bundle(home / "bundles" / "icd" / "v1")
    assert read_gates(bundle) == ()
    gates = (
        Gate(name="no_regression", passed=False, reason="-0.1"),
        Gate(name="outputs_parse", passed=True, reason=""),
    )
    write_gates(bundle, gates)
    assert read_gates(open_bundle(bundle.path)) == gates
    assert [gate.blocks for gate in gates] == [True, False]
    assert not gates[0].model_copy(update={"relaxed": True}).blocks


def test_a_bundle_of_the_version_before_is_still_served(home, base_model, adapter, vocabulary, tmp_path):
    import json

    codes = write_codes(tmp_path / "codes.parquet", vocabulary)
    bundle = write_bundle(tmp_path / "bundles", make_manifest(base_model), adapter=adapter, codes=codes)
    manifest = json.loads((bundle.path / "bundle.json").read_text())
    for name in ("calibration", "baselines"):
        del manifest[name]
    del manifest["data"]["train_documents"]
    manifest["metrics"] = [
        {key: value for key, value in metric.items() if key in ("name", "value", "engine", "split", "label_space")}
        for metric in manifest["metrics"]
    ]
    manifest["schema_version"] = 1
    (bundle.path / "bundle.json").write_text(json.dumps(manifest))
    publish(bundle)
    assert predictor(tmp_path, "transformers").predict("Type 2 diabetes.").codes
