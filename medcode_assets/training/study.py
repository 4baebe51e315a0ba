"""The Optuna study of a search: opened by one process at a time, and what its trials came to."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from medcode_assets.locks import waiting_lock
from medcode_assets.training.tracking import TrackedRun
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

STUDY = "study.db"
PRUNE_AFTER = 3
"""Complete trials before others are compared with their median."""
RANDOM_TRIALS = 5
"""Trials drawn at random before the sampler starts to learn from them."""
TRIES = 3
"""How often a trial is begun that always ends with its process: the search must not be stuck at it."""


class TrialRecord(BaseModel):
    """One trial, as the artifact keeps it."""

    number: int
    state: str
    """complete, pruned, failed or cut off"""
    settings: dict[str, int | float]
    """By name in training-config.yaml."""
    value: float | None = None
    """Lowest validation loss, nats a token; of a pruned trial the last one seen."""
    seconds: float | None = None
    reason: str | None = None
    """Why it failed."""
    mlflow_run: str | None = None


class Found(BaseModel):
    """What a search found."""

    best: dict[str, int | float]
    """Settings by name in training-config.yaml."""
    best_value: float
    best_trial: int
    counted: int
    """Trials that count: all but those that were cut off and are tried again."""
    trials: list[TrialRecord]


@contextmanager
def open_study(folder: Path, name: str, *, anew: bool = False) -> "Iterator[Study]":
    """Open a study of `<folder>/study.db`, or begin it.

    While it is open nobody else has it: a trial that is marked as running belongs to a process that is gone.

    Args:
        folder: Holds the file, in which other studies may be, too.
        name: Of the study.
        anew: Forget its trials.

    Raises:
        MedcodeError: another process has a study of this folder open.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it announces every migration of a new file
    with waiting_lock(
        folder / "study.lock", what=f"the search in {folder}", exclusive=True, purpose="another search", wait_seconds=0
    ):
        storage = optuna.storages.RDBStorage(f"sqlite:///{(folder / STUDY).resolve()}")
        try:
            if anew and name in optuna.get_all_study_names(storage):
                optuna.delete_study(study_name=name, storage=storage)
            yield optuna.create_study(
                storage=storage,
                study_name=name,
                load_if_exists=True,
                direction="minimize",
                pruner=optuna.pruners.MedianPruner(n_startup_trials=PRUNE_AFTER),
            )
        finally:
            storage.remove_session()
            storage.engine.dispose()


def sampler(seed: int, done: int) -> Any:
    """Return the sampler of one trial: seeded once, a resumed search would begin its random numbers again."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=(seed * 100_003 + done) % 2**32, n_startup_trials=RANDOM_TRIALS)


def counted(study: "Study") -> "list[FrozenTrial]":
    """Return the finished trials, without those that were cut off and are tried again."""
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and state(t) != "cut off"]


def written_off(study: "Study", trials: int) -> int:
    """Return how many trials no longer count.

    Where as many as asked for failed and none did not, the search ended with an error, whose cause may be mended now.
    """
    finished = counted(study)
    return len(finished) if len(finished) >= trials and all(state(trial) == "failed" for trial in finished) else 0


def best_value(study: "Study") -> float | None:
    """Return the lowest validation loss yet."""
    values = [t.value for t in study.get_trials(deepcopy=False) if state(t) == "complete" and t.value is not None]
    return min(values, default=None)


def state(trial: "FrozenTrial") -> str:
    """Return a trial's state in words: one that failed by itself says why, one that was cut off could not."""
    from optuna.trial import TrialState

    if trial.state == TrialState.FAIL:
        gave_up = trial.user_attrs.get("tries", 1) >= TRIES
        return "failed" if "reason" in trial.user_attrs or gave_up else "cut off"
    return trial.state.name.lower()


def retry_cut_off(study: "Study", parent: TrackedRun) -> None:
    """Mark trials of a process that is gone as failed, and line their settings up for another try."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        if "mlflow_run" in trial.user_attrs:
            parent.end(trial.user_attrs["mlflow_run"], "KILLED")
        tries = trial.user_attrs.get("tries", 1)
        if tries < TRIES:
            study.enqueue_trial(trial.params, user_attrs={"tries": tries + 1})


def found(study: "Study") -> Found:
    """Return what a study found. Raises MedcodeError if every trial failed."""
    records = [_record(trial) for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    complete = {
        record.number: record.value for record in records if record.state == "complete" and record.value is not None
    }
    if not complete:
        reasons = list(dict.fromkeys(record.reason or "its process ended" for record in records))
        raise MedcodeError(
            f"search: all {len(counted(study))} trials failed, for {len(reasons)} different reasons, "
            f"the first: {reasons[0]}"
        )
    best = min(complete, key=lambda number: (complete[number], number))
    return Found(
        best=next(record.settings for record in records if record.number == best),
        best_value=complete[best],
        best_trial=best,
        counted=len(counted(study)),
        trials=records,
    )


def _record(trial: "FrozenTrial") -> TrialRecord:
    return TrialRecord(
        number=trial.number,
        state=state(trial),
        settings=trial.user_attrs.get("settings", {}),
        value=trial.value,
        seconds=round(trial.duration.total_seconds(), 1) if trial.duration else None,
        reason=trial.user_attrs.get("reason"),
        mlflow_run=trial.user_attrs.get("mlflow_run"),
    )
