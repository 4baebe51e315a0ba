"""Settings and metrics of a training to MLflow: numbers only, never text."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class TrackedRun:
    """One MLflow run, addressed by its id, so that no other code's active run is touched."""

    client: "MlflowClient"
    run_id: str
    uri: str

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record metrics at a step."""
        for name, value in metrics.items():
            self.client.log_metric(self.run_id, name, value, step=step)


@contextmanager
def tracked_run(
    home: Path, uri: str | None, experiment: str, *, parameters: dict[str, Any], tags: dict[str, str]
) -> Iterator[TrackedRun]:
    """Open a run and close it as finished or failed.

    Args:
        home: MEDCODE_HOME; holds the sqlite store where no server is named.
        uri: MLflow tracking server, or None.
        experiment: Name of the experiment, made if it is not there.
        parameters: Settings to record.
        tags: Tags to record.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # they announce every migration of a new store
        logging.getLogger(name).setLevel(logging.WARNING)
    folder = (home / "mlruns").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    uri = uri or f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    known = client.get_experiment_by_name(experiment)
    experiment_id = known.experiment_id if known else client.create_experiment(experiment, f"file://{folder}")
    run = client.create_run(experiment_id, tags=tags)
    tracked = TrackedRun(client, run.info.run_id, uri)
    try:
        for name, value in parameters.items():
            client.log_param(tracked.run_id, name, value)
        yield tracked
    except BaseException:
        client.set_terminated(tracked.run_id, "FAILED")
        raise
    client.set_terminated(tracked.run_id, "FINISHED")
