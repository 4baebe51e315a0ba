"""A search for better settings: an Optuna study whose trials are short trainings.

    study.db        every study of this folder, and every trial of each: what makes a search resumable
    tokens/         by study: written once, and `trial/`, the training that is going on

A search that was killed ends as an undisturbed one: the sampler is seeded for each trial anew, and a trial that was
cut off is tried again with its own settings.
"""

import gc
import logging
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.artifacts import link_or_copy
from medcode_assets.training.job import TRAIN, VALIDATION, TrainingJob, TrainingResult, write_job
from medcode_assets.training.order import steps_an_epoch
from medcode_assets.training.progress import LogMetrics
from medcode_assets.training.settings import LoraSettings, SearchSettings, TrainingSettings
from medcode_assets.training.steps import out_of_memory
from medcode_assets.training.study import (
    Found,
    best_value,
    counted,
    found,
    open_study,
    retry_cut_off,
    sampler,
    state,
    written_off,
)
from medcode_assets.training.token_file import TokenFile
from medcode_assets.training.tracking import TrackedRun, tracked_run
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from optuna import Study, Trial

logger = logging.getLogger(__name__)

Train = Callable[[Path, LogMetrics], TrainingResult]
"""Trains what a folder says and tells what it measures on the way, if it can."""

TRIAL = "trial"
LOOKS = 4
"""Looks at the validation split in each trial: chances to end it early."""
RATE, RANK, ALPHA, DROPOUT = "training.learning_rate", "lora.r", "lora.alpha", "lora.dropout"
LOSS = "validation_loss"


@dataclass(frozen=True)
class Search:
    """What is searched, where."""

    job: TrainingJob
    """With the settings given: those that are not searched stay."""
    settings: SearchSettings
    folder: Path
    """As the module says; `data_folder` is filled before `run_search`."""
    train: Train
    home: Path
    tags: dict[str, str]
    """Of every MLflow run."""
    say: Callable[[str], None] = logger.info


def data_folder(folder: Path, fingerprint: str) -> Path:
    """Return where a study's tokens are."""
    return folder / "tokens" / fingerprint[:12]


def run_search(search: Search, *, anew: bool = False) -> tuple[Found, TrackedRun]:
    """Try settings until there are as many trials as asked for, those of earlier runs counted in.

    Args:
        search: What is searched.
        anew: Forget the trials of earlier runs.

    Returns:
        What was found, and the study's MLflow run, whose children are the trials.

    Raises:
        MedcodeError: another process is at it, there is no validation example, or every trial failed.
    """
    if not len(TokenFile(data_folder(search.folder, search.job.fingerprint) / VALIDATION)):
        raise MedcodeError(
            f"table {search.job.recipe}.tokens: no example in the validation split to compare settings on; "
            "take in more patients"
        )
    if search.job.compute.launched:
        search.say("trials run in processes of their own: none of them is ended early")
    with (
        open_study(search.folder, search.job.fingerprint, anew=anew) as study,
        _tracked_study(search, study) as parent,
    ):
        retry_cut_off(study, parent)
        enqueue_given(study, search)
        trials = search.settings.trials + written_off(study, search.settings.trials)
        while (done := len(counted(study))) < trials:
            study.sampler = sampler(search.job.training.seed, done)
            try_settings(search, study, study.ask(), parent)
            best = best_value(study)
            if best is not None:
                parent.log(done + 1, {f"best_{LOSS}": best})
        return found(study), parent


@contextmanager
def _tracked_study(search: Search, study: "Study") -> Iterator[TrackedRun]:
    """Open the study's MLflow run; that of an earlier start goes on."""
    parameters = {**space(search), "search.epochs": search.settings.epochs, "base_model": search.job.base_model}
    with tracked_run(
        search.home,
        search.job.mlflow_uri,
        search.job.recipe,
        parameters=parameters,
        tags={**search.tags, "mlflow.runName": f"search {search.job.fingerprint[:8]}"},
        run_id=study.user_attrs.get("mlflow_run"),
    ) as run:
        study.set_user_attr("mlflow_run", run.run_id)
        yield run


def trial_settings(training: TrainingSettings, search: SearchSettings) -> TrainingSettings:
    """Return how every trial is trained, but for what is searched.

    Short, with a few looks at validation, and without what only costs time there: micro F1 on the way, checkpoints
    to go on from, and stopping early, which is the pruner's.
    """
    changed = {
        "epochs": search.epochs,
        "evaluations_per_epoch": LOOKS / search.epochs,
        "metric_documents": 0,
        "early_stopping": 0,
        "keep": "last",
        "resume": "never",
        "checkpoint_minutes": 60.0 * 24 * 365,
    }
    return TrainingSettings(**{**training.model_dump(), **changed})


def with_settings(
    lora: LoraSettings, training: TrainingSettings, settings: dict[str, float]
) -> tuple[LoraSettings, TrainingSettings]:
    """Return sections `lora` and `training` with the settings of a trial in the place of their own."""
    sections = {"lora": lora.model_dump(), "training": training.model_dump()}
    for name, value in settings.items():
        section, field = name.split(".")
        sections[section][field] = value
    return LoraSettings(**sections["lora"]), TrainingSettings(**sections["training"])


def space(search: Search) -> dict[str, Any]:
    """Return what is tried: full fine-tuning has no adapter whose shape could be."""
    rates = {RATE: search.settings.learning_rate}
    if search.job.training.mode == "full":
        return rates
    return {**rates, RANK: search.settings.r, DROPOUT: search.settings.dropout}


def suggest(search: Search, trial: "Trial") -> dict[str, float]:
    """Return a trial's settings, by name in training-config.yaml."""
    least, greatest = search.settings.learning_rate
    settings: dict[str, float] = {RATE: trial.suggest_float(RATE, least, greatest, log=True)}
    if search.job.training.mode != "full":
        settings[RANK] = trial.suggest_categorical(RANK, search.settings.r)
        settings[DROPOUT] = trial.suggest_categorical(DROPOUT, search.settings.dropout)
        # alpha / r is how much the adapter counts: another rank alone must not change it.
        settings[ALPHA] = max(1, round(settings[RANK] * search.job.lora.alpha / search.job.lora.r))
    return settings


def enqueue_given(study: "Study", search: Search) -> None:
    """Try the settings given first, if they are in the space: what is found is then no worse than them."""
    job, settings = search.job, search.settings
    least, greatest = settings.learning_rate
    given: dict[str, Any] = {RATE: job.training.learning_rate}
    inside = least <= job.training.learning_rate <= greatest
    if job.training.mode != "full":
        given |= {RANK: job.lora.r, DROPOUT: job.lora.dropout}
        inside = inside and job.lora.r in settings.r and job.lora.dropout in settings.dropout
    begun = {state(trial) for trial in study.get_trials(deepcopy=False)}
    if inside and not begun & {"complete", "pruned", "waiting"}:
        study.enqueue_trial(given)


def try_settings(search: Search, study: "Study", trial: "Trial", parent: TrackedRun) -> None:
    """Train one trial and tell the study how it went; its folder is deleted however that was.

    Whatever is no fault of the settings goes on upwards and leaves the trial as running, to be tried again.
    """
    from optuna import TrialPruned
    from optuna.trial import TrialState

    settings = suggest(search, trial)
    trial.set_user_attr("settings", settings)
    folder = data_folder(search.folder, search.job.fingerprint) / TRIAL
    value, ending, reason = None, TrialState.COMPLETE, None
    tags = {**search.tags, "mlflow.runName": f"trial {trial.number}", "medcode.trial": str(trial.number)}
    with tracked_run(search.home, parent.uri, search.job.recipe, parameters=settings, tags=tags, parent=parent) as run:
        trial.set_user_attr("mlflow_run", run.run_id)
        try:
            fill_folder(search, folder, f"{search.job.fingerprint[:12]}-{trial.number}", settings, run)
            value = lowest_loss(search, folder, trial)
        except TrialPruned:
            ending, run.ends_as = TrialState.PRUNED, "KILLED"
        except (MedcodeError, RuntimeError, MemoryError) as error:
            if not isinstance(error, MedcodeError) and not out_of_memory(error):
                raise
            ending, run.ends_as = TrialState.FAIL, "FAILED"
            reason = str(error) if isinstance(error, MedcodeError) else "out of memory"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            _free_memory()
    if reason:
        trial.set_user_attr("reason", reason)
    study.tell(trial, value, ending)
    outcome = f"validation loss {value:.4f}" if value is not None else reason or "ended early"
    search.say(f"trial {trial.number} ({describe(settings)}): {outcome}")


def fill_folder(search: Search, folder: Path, fingerprint: str, settings: dict[str, float], run: TrackedRun) -> None:
    """Make the folder of a trial's training: the tokens are those of all trials, not copies of them."""
    job, data = search.job, data_folder(search.folder, search.job.fingerprint)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in (TRAIN, VALIDATION):
        link_or_copy(data / name, folder / name)
    lora, training = with_settings(job.lora, trial_settings(job.training, search.settings), settings)
    changed = {
        "lora": lora,
        "training": training,
        "fingerprint": fingerprint,
        "mlflow_run": run.run_id,
        "mlflow_uri": run.uri,
    }
    write_job(folder, job.model_copy(update=changed))


def lowest_loss(search: Search, folder: Path, trial: "Trial") -> float:
    """Train, and return the lowest validation loss.

    Raises:
        MedcodeError: the training failed, or no validation loss is a number.
        optuna.TrialPruned: at a look, the trial was behind most of the others.
    """
    from optuna import TrialPruned

    training = search.job.training
    per_step = training.batch_size * training.gradient_accumulation
    last_step = math.ceil(search.settings.epochs * steps_an_epoch(len(TokenFile(folder / TRAIN)), per_step))

    def watch(step: int, metrics: dict[str, float]) -> None:
        if LOSS not in metrics:
            return
        trial.report(metrics[LOSS], step)
        # Nothing is left to save at the last look, nor where the processes have ended before they tell of any.
        if step < last_step and not search.job.compute.launched and trial.should_prune():
            raise TrialPruned

    result = search.train(folder, watch)
    losses = [look["loss"] for _, look in result.validation if math.isfinite(look["loss"])]
    if not losses:
        raise MedcodeError("the validation loss was never a finite number; lower training.learning_rate")
    return min(losses)


def _free_memory() -> None:
    """Let go of the trial's model before the next one is loaded."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def describe(settings: dict[str, float]) -> str:
    """Return settings on a line: `training.learning_rate=0.0002, lora.r=8`."""
    return ", ".join(f"{name}={value:.3g}" for name, value in settings.items())
