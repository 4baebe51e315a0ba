"""Real studies of real trainings: tiny models, Optuna's and MLflow's sqlite files."""

import logging
import math
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from medcode_assets.artifacts import made
from medcode_assets.evaluation.plots import search_trials
from medcode_assets.recipes.searching import find_settings, use_best
from medcode_assets.training.job import TRAIN, VALIDATION, TrainingJob, TrainingResult, read_job
from medcode_assets.training.loop import train
from medcode_assets.training.progress import LogMetrics
from medcode_assets.training.search import Search, data_folder, run_search, suggest
from medcode_assets.training.settings import LoraSettings, SearchSettings, TrainingSettings
from medcode_assets.training.study import Found, open_study
from medcode_assets.training.tracking import TrackedRun
from medcode_serving.base_models import LocalModel
from medcode_serving.errors import MedcodeError
from tests.assets.training.jobs import LEARNABLE, tiny_base, write_examples

HOPELESS = 1e-9
"""A learning rate at which nothing is learned."""
SPACE = {"epochs": 2.0, "learning_rate": [5e-3, 2e-2], "r": [2, 4], "dropout": [0.0, 0.1]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def search(base: LocalModel, home: Path) -> Search:
    """Return a search of three trials that pretend to train, its tokens written."""
    job = TrainingJob(
        recipe="icd",
        base_model=base.id,
        base_path=base.path,
        base_revision=base.revision,
        fingerprint="f" * 64,
        compute={"device": "cpu"},
        lora={"r": 2, "alpha": 8, "dropout": 0.1},
        training={"learning_rate": 1e-2, "batch_size": 8, "gradient_accumulation": 1, "gradient_checkpointing": False},
        logging_steps=1,
    )
    folder = home / "searching"
    fill(folder, job)
    return Search(job, SearchSettings(trials=3, **SPACE), folder, pretend, home, {"medcode.dagster_run": "run-1"})


def fill(folder: Path, job: TrainingJob) -> None:
    tokens = data_folder(folder, job.fingerprint)
    tokens.mkdir(parents=True)
    write_examples(tokens / TRAIN, LEARNABLE)
    write_examples(tokens / VALIDATION, LEARNABLE[:8])


def pretend(folder: Path, on_metrics: LogMetrics) -> TrainingResult:
    """Train nothing: the validation loss follows from the settings, so that a test of the study takes no time."""
    job = read_job(folder)
    loss = abs(math.log(job.training.learning_rate / 8e-3)) + job.lora.dropout + 1 / job.lora.r
    looks = [(step, {"loss": loss + 1 / step}) for step in (2, 4, 6, 8)]
    for step, look in looks:
        on_metrics(step, {"validation_loss": look["loss"]})
    return TrainingResult(steps=8, validation=looks)


def asking(search: Search, trials: int) -> Search:
    return replace(search, settings=search.settings.model_copy(update={"trials": trials}))


def settings_of(found: Found) -> list[dict[str, float]]:
    return [trial.settings for trial in found.trials]


def test_a_study_trains_with_the_settings_given_first_and_finds_the_best(search: Search) -> None:
    found, parent = run_search(replace(asking(search, 2), train=train))
    assert [trial.state for trial in found.trials] == ["complete"] * 2
    assert found.trials[0].settings == {
        "training.learning_rate": 1e-2,
        "lora.r": 2,
        "lora.alpha": 8,
        "lora.dropout": 0.1,
    }
    assert found.best_value == min(trial.value for trial in found.trials)
    assert found.best == found.trials[found.best_trial].settings
    for trial in found.trials:
        assert 5e-3 <= trial.settings["training.learning_rate"] <= 2e-2
        assert trial.settings["lora.alpha"] == 4 * trial.settings["lora.r"]
        assert trial.seconds > 0
    left = [path.name for path in data_folder(search.folder, search.job.fingerprint).iterdir()]
    assert sorted(left) == [TRAIN, VALIDATION]
    _in_mlflow(found, parent)


def _in_mlflow(found: Found, parent: TrackedRun) -> None:
    """Check that there is a run for the study and a child for each trial."""
    client = parent.client
    study = client.get_run(parent.run_id)
    assert study.info.status == "FINISHED"
    assert study.data.tags["medcode.dagster_run"] == "run-1"
    assert study.data.metrics["best_validation_loss"] == pytest.approx(found.best_value)
    children = client.search_runs([parent.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    assert {child.info.run_id for child in children} == {trial.mlflow_run for trial in found.trials}
    for child in children:
        assert child.info.status == "FINISHED"
        assert {"loss", "learning_rate", "tokens_per_second", "validation_loss"} <= set(child.data.metrics)
        assert set(child.data.params) == {"training.learning_rate", "lora.r", "lora.alpha", "lora.dropout"}
        assert len(client.get_metric_history(child.info.run_id, "validation_loss")) == 4


def test_more_trials_go_on_as_if_they_had_been_asked_for_at_once(search: Search, home: Path, tmp_path: Path) -> None:
    first, parent = run_search(search)
    more, same_parent = run_search(asking(search, 5))
    assert settings_of(more)[:3] == settings_of(first)
    assert more.counted == 5
    assert same_parent.run_id == parent.run_id

    undisturbed = replace(asking(search, 5), folder=tmp_path / "other")
    fill(undisturbed.folder, search.job)
    at_once, _ = run_search(undisturbed)
    assert settings_of(at_once) == settings_of(more)
    assert [trial.value for trial in at_once.trials] == [trial.value for trial in more.trials]


def test_a_hopeless_learning_rate_is_given_up_early(search: Search) -> None:
    found, parent = run_search(replace(search, train=train))
    with open_study(search.folder, search.job.fingerprint) as study:
        study.enqueue_trial({"training.learning_rate": HOPELESS, "lora.r": 2, "lora.dropout": 0.0})
    steps: list[int] = []

    def watched(folder: Path, on_metrics: LogMetrics) -> TrainingResult:
        return train(folder, lambda step, metrics: (steps.append(step), on_metrics(step, metrics)))

    with pytest.warns(UserWarning, match="out of range"):
        found, _ = run_search(replace(asking(search, 4), train=watched))
    last = found.trials[-1]
    assert last.state == "pruned"
    assert max(steps) < 8
    assert last.value > found.best_value
    assert found.best["training.learning_rate"] != HOPELESS
    assert parent.client.get_run(last.mlflow_run).info.status == "KILLED"
    assert not (data_folder(search.folder, search.job.fingerprint) / "trial").exists()


def test_a_trial_that_fails_says_why_and_the_others_go_on(search: Search) -> None:
    calls = iter(range(10))

    def second_fails(folder: Path, on_metrics: LogMetrics) -> TrainingResult:
        call = next(calls)
        if call == 1:
            raise MedcodeError("training step 3: loss jumped")
        if call == 2:
            raise MemoryError
        return pretend(folder, on_metrics)

    found, parent = run_search(replace(search, train=second_fails))
    assert [(trial.state, trial.reason) for trial in found.trials] == [
        ("complete", None),
        ("failed", "training step 3: loss jumped"),
        ("failed", "out of memory"),
    ]
    assert parent.client.get_run(found.trials[1].mlflow_run).info.status == "FAILED"


def test_where_every_trial_fails_there_is_one_error_and_the_next_start_begins_again(search: Search) -> None:
    def fails(folder: Path, on_metrics: LogMetrics) -> TrainingResult:
        raise MedcodeError("no room")

    with pytest.raises(
        MedcodeError, match=r"^search: all 2 trials failed, for 1 different reasons, the first: no room"
    ):
        run_search(replace(asking(search, 2), train=fails))
    found, _ = run_search(asking(search, 2))
    assert [trial.state for trial in found.trials] == ["failed"] * 2 + ["complete"] * 2


def _until_killed(search: Search, begun: Path) -> None:
    def hangs_at_the_second(folder: Path, on_metrics: LogMetrics) -> TrainingResult:
        if read_job(folder).fingerprint.endswith("-1"):
            begun.touch()
            time.sleep(600)
        return pretend(folder, on_metrics)

    run_search(replace(search, train=hangs_at_the_second))


def test_a_killed_search_goes_on_and_ends_as_an_undisturbed_one(search: Search, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    process = multiprocessing.get_context("spawn").Process(target=_until_killed, args=(search, begun))
    process.start()
    while not begun.exists():
        assert process.is_alive()
        time.sleep(0.05)
    with pytest.raises(MedcodeError, match="in use by another search"):
        run_search(search)
    os.kill(process.pid, signal.SIGKILL)
    process.join()

    found, parent = run_search(asking(search, 2))
    assert [trial.state for trial in found.trials] == ["complete", "cut off", "complete"]
    assert found.trials[1].settings == found.trials[2].settings
    assert found.counted == 2
    assert parent.client.get_run(found.trials[1].mlflow_run).info.status == "KILLED"

    undisturbed = replace(asking(search, 2), folder=tmp_path / "other")
    fill(undisturbed.folder, search.job)
    other, _ = run_search(undisturbed)
    assert other.best == found.best
    assert other.best_value == found.best_value


def test_a_trial_that_always_ends_with_its_process_does_not_hold_up_the_others(search: Search) -> None:
    class Killed(BaseException):
        pass

    def dies(folder: Path, on_metrics: LogMetrics) -> TrainingResult:
        raise Killed

    for _ in range(3):
        with pytest.raises(Killed):
            run_search(replace(search, train=dies))
    found, _ = run_search(asking(search, 2))
    assert [trial.state for trial in found.trials] == ["cut off", "cut off", "failed", "complete"]
    assert found.counted == 2


def test_full_fine_tuning_searches_the_learning_rate_alone(search: Search) -> None:
    import optuna

    full = replace(search, job=search.job.model_copy(update={"training": TrainingSettings(mode="full")}))
    assert set(suggest(full, optuna.create_study().ask())) == {"training.learning_rate"}


def test_what_was_found_is_sealed_and_feeds_the_adapter_by_choice(
    search: Search, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "search"
    lora, training = LoraSettings(target_modules=["q_proj"]), TrainingSettings(epochs=7)
    caplog.set_level(logging.INFO)
    log = logging.getLogger("test")
    with pytest.raises(MedcodeError, match="materialize asset icd/search first"):
        use_best(target, "icd", "", lora, training, log)

    find_settings(asking(search, 2), target, anew=False)
    facts = made(target)
    best = facts["best"]
    lora, training = use_best(target, "icd", facts["fingerprint"], lora, training, log)
    assert (lora.r, lora.alpha, lora.dropout) == (best["lora.r"], best["lora.alpha"], best["lora.dropout"])
    assert isinstance(lora.r, int)
    assert training.learning_rate == best["training.learning_rate"]
    assert (lora.target_modules, training.epochs) == (["q_proj"], 7)
    assert "training.learning_rate=" in caplog.text
    assert "made from other tokens" not in caplog.text
    use_best(target, "icd", "of other tokens", lora, training, log)
    assert "icd/search was made from other tokens, base model or settings" in caplog.text
    assert len(facts["trials"]) == 2
    assert not (search.folder / "tokens").exists()

    fill(search.folder, search.job)
    find_settings(asking(search, 1), target, anew=True)
    assert len(made(target)["trials"]) == 1


def test_the_picture_draws_with_and_without_trials() -> None:
    for trials in ([], [(0, 1.0, False)], [(0, 2.0, False), (1, 3.0, True), (2, 1.5, False)]):
        assert search_trials(trials).startswith(b"\x89PNG")
