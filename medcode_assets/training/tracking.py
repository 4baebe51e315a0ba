"""Settings and metrics of trainings to MLflow, and published bundles to its registry: numbers only, never text.

Every call names its run: no other code's active run is touched.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_serving.bundle import Bundle
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

BUNDLE_TAG = "medcode.bundle"
"""Version of a bundle: on its model version, and on the run that trained its adapter."""
DAGSTER_TAG = "medcode.dagster_run"
PUBLISHED = "published"
"""The alias that follows LATEST; MLflow keeps `latest` for the highest number, which need not be what is served."""
RETRIES = 3
"""MLflow's own 7 would hold up a training or a bundle for four minutes where the server is gone."""


@dataclass
class TrackedRun:
    """One MLflow run, addressed by its id."""

    client: "MlflowClient"
    run_id: str
    experiment_id: str
    uri: str
    ends_as: str = "FINISHED"
    """MLflow's status for it, if nothing is raised."""

    @property
    def link(self) -> str | None:
        """The run's page; None if it is in a file, which has none until somebody starts a server over it."""
        if not _is_server(self.uri):
            return None
        return f"{self.uri.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics at a step."""
        for name, value in metrics.items():
            self.client.log_metric(self.run_id, name, value, step=step)

    def end(self, run_id: str, status: str) -> None:
        """Close another run of this store, whose process is gone; nothing happens if the store does not know it."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.set_terminated(run_id, status)
        except MlflowException as error:
            logger.warning("MLflow run %s: not closed (%s)", run_id, error.error_code)


@contextmanager
def tracked_run(
    home: Path,
    uri: str | None,
    experiment: str,
    *,
    parameters: Mapping[str, Any],
    tags: Mapping[str, str],
    run_id: str | None = None,
    parent: TrackedRun | None = None,
) -> Iterator[TrackedRun]:
    """Open a run and close it as finished, failed or killed.

    Args:
        home: MEDCODE_HOME; holds the sqlite store where no server is named.
        uri: MLflow tracking server, or None.
        experiment: Name of the experiment, made if it is not there.
        parameters: Settings to record.
        tags: Tags to record.
        run_id: Of a run that was cut off, to go on with; a new one if the store does not know it.
        parent: The run under which MLflow shows this one.

    Raises:
        MedcodeError: the server or store cannot be reached.
    """
    _quiet_mlflow()
    from mlflow import MlflowClient
    from mlflow.entities import RunTag
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    folder = (home / "mlruns").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    uri = uri or f"sqlite:///{folder / 'mlflow.db'}"
    if parent is not None:
        tags = {**tags, "mlflow.parentRunId": parent.run_id}
    try:
        with few_retries():
            client = MlflowClient(tracking_uri=uri)
            known = client.get_experiment_by_name(experiment)
            # A server keeps artifacts where it keeps them: no folder of this machine is any use to its readers.
            artifacts = None if _is_server(uri) else f"file://{folder}"
            experiment_id = known.experiment_id if known else client.create_experiment(experiment, artifacts)
            run_id = _known_run(client, run_id) or _new_run(client, experiment_id, parameters)
    except (MlflowException, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        raise MedcodeError(f"logging.mlflow_uri {uri}: not to be had ({reason}); start it, or set null") from None
    tracked = TrackedRun(client, run_id, experiment_id, uri)
    try:
        client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        yield tracked
    except BaseException as error:
        tracked.end(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    client.set_terminated(run_id, tracked.ends_as)


def close_abandoned_run(uri: str, run_id: str) -> None:
    """Close the run of a training that nobody will go on with."""
    _quiet_mlflow()
    from mlflow import MlflowClient

    with few_retries():
        TrackedRun(MlflowClient(tracking_uri=uri), run_id, "", uri).end(run_id, "KILLED")


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _quiet_mlflow() -> None:
    """No telemetry, which is chosen before MLflow is imported, and no line for every run and migration of a store."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    import mlflow  # noqa: F401 - which sets its logger's level

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _known_run(client: "MlflowClient", run_id: str | None) -> str | None:
    """Take a run up again. Returns None if there is none."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        client.set_terminated(run_id, "RUNNING")
    except MlflowException:
        return None
    return run_id


def _new_run(client: "MlflowClient", experiment_id: str, parameters: Mapping[str, Any]) -> str:
    from mlflow.entities import Param

    run_id: str = client.create_run(experiment_id).info.run_id
    client.log_batch(run_id, params=[Param(name, str(value)) for name, value in parameters.items()])
    return run_id


@dataclass(frozen=True)
class ModelVersion:
    """A published bundle in MLflow's registry."""

    name: str
    version: int
    is_published: bool
    """Whether the alias names it."""


def register_bundle(bundle: Bundle, latest: str | None, uri: str, run_id: str | None) -> ModelVersion | None:
    """Register a bundle as a model version, once, and let the alias `published` follow LATEST.

    Args:
        bundle: Published, or held back by a gate.
        latest: The version that LATEST names, if it names one.
        uri: MLflow tracking server or store, in which the adapter's training is.
        run_id: Run of the adapter's training.

    Returns:
        The version; or None, with a warning, if MLflow cannot be reached or refuses: the bundle stands without it.
    """
    _quiet_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with few_retries():
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            return _registered(client, bundle, latest, uri, run_id)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = str(error).splitlines()[0]
        logger.warning("bundle %s is not in MLflow's registry at %s: %s", bundle.manifest.version, uri, reason)
        return None


def log_evaluation(uri: str, run_id: str | None, metrics: Mapping[str, float], folder: Path) -> bool:
    """Put an evaluation's metrics and the files of its report into the run that trained the adapter.

    Args:
        uri: MLflow tracking server or store, in which the adapter's training is.
        run_id: Run of the adapter's training.
        metrics: By name.
        folder: Page and pictures; they go under `evaluation/`.

    Returns:
        Whether they are there; if MLflow cannot be reached or refuses, a warning says why, and the report stands
        without it.
    """
    if run_id is None:
        return False
    _quiet_mlflow()
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    now = int(time.time() * 1000)
    try:
        with few_retries():
            client = MlflowClient(tracking_uri=uri)
            client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in metrics.items()])
            client.log_artifacts(run_id, str(folder), "evaluation")
    except (MlflowException, SQLAlchemyError, OSError) as error:
        logger.warning("the evaluation is not in MLflow's run %s at %s: %s", run_id, uri, str(error).splitlines()[0])
        return False
    return True


@contextmanager
def few_retries() -> Iterator[None]:
    """Let MLflow give up soon; whoever set its retries has decided already."""
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(RETRIES)
    try:
        yield
    finally:
        del os.environ[name]


def _registered(
    client: "MlflowClient", bundle: Bundle, latest: str | None, uri: str, run_id: str | None
) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    manifest = bundle.manifest
    name = f"medcode-{manifest.recipe}"
    try:
        client.create_registered_model(name, tags={"medcode.recipe": manifest.recipe})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    number = _version_of(client, name, manifest.version)
    if number is None:
        source = _source(client, bundle, uri, run_id)
        number = int(client.create_model_version(name, source, run_id, tags=bundle_tags(bundle)).version)
    if run_id is not None:
        client.set_tag(run_id, BUNDLE_TAG, manifest.version)
    if latest is None:
        return ModelVersion(name, number, is_published=False)
    named = number if latest == manifest.version else _version_of(client, name, latest)
    if named is not None and client.get_registered_model(name).aliases.get(PUBLISHED) != str(named):
        client.set_registered_model_alias(name, PUBLISHED, str(named))
    return ModelVersion(name, number, named == number)


def _version_of(client: "MlflowClient", name: str, bundle_version: str) -> int | None:
    """Return the number under which a bundle is registered, or None."""
    found = client.search_model_versions(f"name = '{name}' AND tags.`{BUNDLE_TAG}` = '{bundle_version}'")
    return int(found[0].version) if found else None


def _source(client: "MlflowClient", bundle: Bundle, uri: str, run_id: str | None) -> str:
    """Return where the registry says the model is.

    A server takes no folder of ours as a source, only what belongs to the run: it gets the manifest there. The
    folder is in the tags either way.
    """
    if run_id is None or not _is_server(uri):
        return bundle.path.resolve().as_uri()
    folder = f"bundle/{bundle.manifest.version}"
    client.log_dict(run_id, bundle.manifest.model_dump(mode="json"), f"{folder}/bundle.json")
    return f"runs:/{run_id}/{folder}"


def bundle_tags(bundle: Bundle) -> dict[str, str]:
    """Return what the registry knows of a bundle."""
    manifest = bundle.manifest
    scores = [
        m
        for m in manifest.metrics
        if (m.name, m.engine, m.split, m.level, m.group) == ("micro_f1", "adapter", "test", "code", "all")
    ]
    tags = {
        BUNDLE_TAG: manifest.version,
        "medcode.bundle_folder": bundle.path.resolve().as_uri(),
        "medcode.data_version": manifest.data.partition,
        "medcode.release": manifest.data.release,
        "medcode.split_hash": manifest.data.split_hash,
        "medcode.base_model": manifest.base_model.id,
        "medcode.base_revision": manifest.base_model.revision,
        **{f"medcode.micro_f1_{metric.label_space}": f"{metric.value:.6f}" for metric in scores},
    }
    if manifest.provenance.dagster_run:
        tags[DAGSTER_TAG] = manifest.provenance.dagster_run
    return tags
