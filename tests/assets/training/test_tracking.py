"""MLflow's sqlite store, as it is below MEDCODE_HOME: runs by their ids, and the registry of published bundles."""

import logging
import os
from pathlib import Path

import mlflow
import pytest

from medcode_assets.metadata import mlflow_metadata
from medcode_assets.training.loop import train
from medcode_assets.training.tracking import ModelVersion, TrackedRun, register_bundle, tracked_run
from medcode_serving.bundle import (
    BaseModelRef,
    Bundle,
    BundleManifest,
    DataVersion,
    DecodingSettings,
    Metric,
    Provenance,
)
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate

from .jobs import make_job, tiny_base


def bundle(version: str) -> Bundle:
    """Return a bundle as the registry sees it: nothing of it is read but the manifest."""
    metric = Metric(name="micro_f1", value=0.5, engine="adapter", split="test", label_space="closed")
    manifest = BundleManifest(
        recipe="icd",
        version=version,
        base_model=BaseModelRef(id="embedded", revision="r1"),
        prompt=PromptTemplate(),
        decoding=DecodingSettings(),
        threshold=0.5,
        metrics=(metric, metric.model_copy(update={"engine": "frequency_prior", "value": 0.1})),
        data=DataVersion(partition="mimic-iv-3.1", release="mimic-iv", sources={}, split_hash="abc"),
        provenance=Provenance(code_version="c", libraries={}, settings={}, dagster_run="dagster-1"),
    )
    return Bundle(Path("/bundles/icd") / version, manifest)


def test_a_run_has_its_settings_its_dagster_run_and_its_metrics(home: Path) -> None:
    with tracked_run(home, None, "icd", parameters={"r": 8}, tags={"medcode.dagster_run": "d"}) as run:
        run.log(3, {"loss": 1.5})
        assert mlflow.active_run() is None
    data = run.client.get_run(run.run_id).data
    assert (data.params, data.metrics) == ({"r": "8"}, {"loss": 1.5})
    assert data.tags["medcode.dagster_run"] == "d"
    assert run.link is None
    assert set(mlflow_metadata({"mlflow_run": run.run_id, "mlflow_uri": run.uri})) == {"mlflow_run", "mlflow_uri"}


def test_a_run_that_was_cut_off_goes_on_and_one_that_is_unknown_begins_anew(home: Path) -> None:
    with pytest.raises(KeyboardInterrupt), tracked_run(home, None, "icd", parameters={"r": 8}, tags={}) as run:
        raise KeyboardInterrupt
    assert run.client.get_run(run.run_id).info.status == "KILLED"
    with (
        pytest.raises(ValueError, match="x"),
        tracked_run(home, None, "icd", parameters={"r": 8}, tags={}, run_id=run.run_id) as again,
    ):
        assert again.run_id == run.run_id
        assert run.client.get_run(run.run_id).info.status == "RUNNING"
        raise ValueError("x")
    assert run.client.get_run(run.run_id).info.status == "FAILED"
    with tracked_run(home, None, "icd", parameters={}, tags={}, run_id="0" * 32) as other:
        assert other.run_id != run.run_id


def test_only_a_server_has_a_page_to_link_to() -> None:
    run = TrackedRun(None, "run", "7", "https://mlflow.example/")
    assert run.link == "https://mlflow.example/#/experiments/7/runs/run"
    metadata = mlflow_metadata({"mlflow_run": "run", "mlflow_uri": run.uri, "mlflow_link": run.link})
    assert metadata["mlflow_link"].url == run.link


def test_every_published_bundle_is_one_model_version_and_the_alias_follows_latest(home: Path) -> None:
    with tracked_run(home, None, "icd", parameters={}, tags={}) as run:
        pass
    first, second = bundle("v-one"), bundle("v-two")
    assert register_bundle(first, "v-one", run.uri, run.run_id) == ModelVersion("medcode-icd", 1, True)
    assert register_bundle(second, "v-two", run.uri, run.run_id) == ModelVersion("medcode-icd", 2, True)
    assert register_bundle(second, "v-two", run.uri, run.run_id) == ModelVersion("medcode-icd", 2, True)
    assert register_bundle(first, "v-two", run.uri, run.run_id) == ModelVersion("medcode-icd", 1, False)
    versions = run.client.search_model_versions("name = 'medcode-icd'")
    assert len(versions) == 2
    latest = run.client.get_model_version_by_alias("medcode-icd", "published")
    assert (int(latest.version), latest.run_id, latest.source) == (2, run.run_id, "file:///bundles/icd/v-two")
    assert latest.tags == {
        "medcode.bundle": "v-two",
        "medcode.bundle_folder": "file:///bundles/icd/v-two",
        "medcode.data_version": "mimic-iv-3.1",
        "medcode.release": "mimic-iv",
        "medcode.split_hash": "abc",
        "medcode.base_model": "embedded",
        "medcode.base_revision": "r1",
        "medcode.micro_f1_closed": "0.500000",
        "medcode.dagster_run": "dagster-1",
    }
    assert run.client.get_run(run.run_id).data.tags["medcode.bundle"] == "v-one"


def test_without_the_server_a_bundle_is_published_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with caplog.at_level(logging.WARNING):
        assert register_bundle(bundle("v-one"), "v-one", "http://127.0.0.1:9", "0" * 32) is None
    assert "bundle v-one is not in MLflow's registry at http://127.0.0.1:9" in caplog.text
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"


CLOSED = "http://127.0.0.1:9"
"""Nothing listens there."""


def test_a_server_that_is_not_there_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with (
        pytest.raises(
            MedcodeError, match=rf"^logging\.mlflow_uri {CLOSED}: not to be had \(.*\); start it, or set null$"
        ),
        tracked_run(home, CLOSED, "icd", parameters={}, tags={}),
    ):
        pass


def test_a_server_that_goes_away_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = make_job(tmp_path / "job", tiny_base(tmp_path / "base"), mlflow_uri=CLOSED, mlflow_run="gone")
    assert train(folder).steps == 12
    assert caplog.text.count("metrics not recorded in MLflow") == 3
    assert "and none from here on" in caplog.text
