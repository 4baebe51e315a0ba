"""Whether LATEST moves: gates that pass, that are relaxed later, and runs that are killed in between."""

from pathlib import Path

import pytest

from medcode_assets.recipes.bundling import against_served, publish_passed, refuse_other_linear
from medcode_serving.bundle import (
    BaseModelRef,
    Bundle,
    BundleManifest,
    DataVersion,
    DecodingSettings,
    Gate,
    Provenance,
    is_published,
    latest_version,
    publish,
    read_gates,
    write_bundle,
)
from medcode_serving.codes.vocabulary import Vocabulary, VocabularyCode
from medcode_serving.errors import MedcodeError
from tests.tiny import write_codes

PASSED = (Gate(name="no_regression", passed=True, reason=""),)
FAILED = (Gate(name="no_regression", passed=False, reason="-0.1"),)
RELAXED = (FAILED[0].model_copy(update={"relaxed": True}),)


@pytest.fixture
def make(tmp_path: Path):
    """Write one more version of a bundle without weights."""
    (tmp_path / "adapter").mkdir()
    codes = write_codes(tmp_path / "codes.parquet", Vocabulary([VocabularyCode("icd10cm", "I10", "I10", None, 1)]))

    def make(version: str) -> Bundle:
        manifest = BundleManifest(
            recipe="icd",
            version=version,
            base_model=BaseModelRef(id="tiny", revision="0"),
            prompt={},
            decoding=DecodingSettings(),
            threshold=0.5,
            data=DataVersion(partition="tiny", release="mimic-iv", sources={}, split_hash="0"),
            provenance=Provenance(code_version="0", libraries={}, settings={}),
        )
        return write_bundle(tmp_path / "bundles", manifest, adapter=tmp_path / "adapter", codes=codes)

    return make


def test_latest_moves_only_through_the_gates(make, tmp_path):
    root = tmp_path / "bundles"
    first = make("first")
    assert not publish_passed(first, FAILED)
    assert not is_published(root, "icd")
    assert read_gates(first) == FAILED
    assert publish_passed(first, RELAXED)
    assert latest_version(root, "icd") == "first"
    second = make("second")
    assert not publish_passed(second, FAILED)
    assert latest_version(root, "icd") == "first"
    assert publish_passed(second, PASSED)
    assert latest_version(root, "icd") == "second"


def test_an_older_bundle_that_is_made_again_does_not_push_away_the_newer(make, tmp_path):
    first, second = make("first"), make("second")
    publish_passed(first, PASSED)
    publish_passed(second, PASSED)
    assert not publish_passed(first, PASSED)
    assert latest_version(tmp_path / "bundles", "icd") == "second"


def test_a_bundle_that_was_sealed_by_a_killed_run_is_decided_by_the_next(make, tmp_path, monkeypatch):
    publish_passed(make("first"), PASSED)
    second = make("second")  # and killed before its gates were written
    assert publish_passed(second, PASSED)
    assert latest_version(tmp_path / "bundles", "icd") == "second"

    third = make("third")
    monkeypatch.setattr("medcode_assets.recipes.bundling.write_gates", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):
        publish_passed(third, PASSED)
    monkeypatch.undo()
    publish_passed(third, PASSED)
    assert latest_version(tmp_path / "bundles", "icd") == "third"


def test_damaged_gates_are_decided_anew(make, tmp_path):
    bundle = make("first")
    (bundle.path / "gates.json").write_text("[{")
    assert read_gates(bundle) == ()
    assert publish_passed(bundle, PASSED)


def test_why_there_is_nothing_to_compare_with_is_said(make, tmp_path):
    assert against_served(tmp_path, "icd", "first", 100) == "nothing is published yet"
    publish(make("first"))
    assert against_served(tmp_path, "icd", "first", 100) == "this bundle is the served one"
    assert "answers of the served first are not kept" in against_served(tmp_path, "icd", "second", 100)


def test_a_linear_model_goes_only_with_its_own_threshold():
    refuse_other_linear("icd", {"baselines": {"linear": "a-1"}}, {"seal": "a-1"})
    for made in ({"seal": "a-2"}, None):
        with pytest.raises(MedcodeError, match="icd/evaluation is older than icd/linear"):
            refuse_other_linear("icd", {"baselines": {"linear": "a-1"}}, made)
