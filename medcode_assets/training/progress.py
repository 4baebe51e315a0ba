"""What a training tells while it runs: a bar on the terminal, metrics to MLflow and to whoever asks."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from medcode_assets.training.job import TrainingJob
from medcode_assets.training.tracking import few_retries
from medcode_assets.training.world import World

logger = logging.getLogger(__name__)

GIVEN_UP_AFTER = 3
"""Entries in a row that MLflow did not take: each costs some seconds of waiting."""

LogMetrics = Callable[[int, dict[str, float]], None]
"""Told (optimizer step, metrics by name)."""


def metrics_line(step: int, metrics: dict[str, float]) -> str:
    """Return an entry of the progress as a line: `step 30: loss 0.531, learning_rate 0.0001`."""
    shown = {name: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" for name, value in metrics.items()}
    return f"step {step}: " + ", ".join(f"{name} {value}" for name, value in shown.items())


@contextmanager
def reporting(
    job: TrainingJob, steps: int, done: int, world: World, on_metrics: LogMetrics | None
) -> Iterator[LogMetrics]:
    """Give the function that the loop tells of each step, with metrics where something is to be logged."""
    if not world.first:
        yield lambda step, metrics: None
        return
    from tqdm import tqdm

    to_mlflow = _mlflow_logger(job)
    with tqdm(total=steps, initial=done, desc="training", unit="step") as bar:

        def report(step: int, metrics: dict[str, float]) -> None:
            bar.update(step - bar.n)
            if not metrics:
                return
            if "loss" in metrics:
                bar.set_postfix(loss=f"{metrics['loss']:.3f}", tokens_s=f"{metrics['tokens_per_second']:,.0f}")
            if to_mlflow:
                to_mlflow(step, metrics)
            if on_metrics:
                on_metrics(step, metrics)

        yield report


def _mlflow_logger(job: TrainingJob) -> LogMetrics | None:
    """Return what logs to the job's MLflow run, by its id: no other code's active run is touched."""
    if job.mlflow_run is None:
        return None
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    client, run, failures = MlflowClient(tracking_uri=job.mlflow_uri), job.mlflow_run, 0

    def log(step: int, metrics: dict[str, float]) -> None:
        nonlocal failures
        if failures >= GIVEN_UP_AFTER:
            return
        now = int(time.time() * 1000)
        try:
            with few_retries():
                client.log_batch(run, metrics=[Metric(name, value, now, step) for name, value in metrics.items()])
            failures = 0
        except MlflowException as error:  # hours of training are worth more than a point of a curve
            failures += 1
            last = ", and none from here on" if failures == GIVEN_UP_AFTER else ""
            logger.warning("step %d: metrics not recorded in MLflow (%s)%s", step, type(error).__name__, last)

    return log
