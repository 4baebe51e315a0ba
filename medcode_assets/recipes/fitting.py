"""Tokens to a sealed adapter artifact: a training in a folder of its own, tracked in MLflow."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.artifacts import link_or_copy, making, required
from medcode_assets.config import LoggingSettings
from medcode_assets.locks import waiting_lock
from medcode_assets.recipes.bundling import trained_codes
from medcode_assets.recipes.recipe import Recipe
from medcode_assets.training.job import (
    CODES,
    METRIC,
    TRAIN,
    VALIDATION,
    WEIGHTS,
    TrainingJob,
    TrainingResult,
    finished,
    read_job,
    read_result,
    write_job,
)
from medcode_assets.training.models import effective_mode
from medcode_assets.training.planning import check_memory
from medcode_assets.training.remote.launchers import end_remote_training
from medcode_assets.training.settings import ComputeSettings, LoraSettings, TrainingSettings
from medcode_assets.training.token_file import write_tokens
from medcode_assets.training.tokens import longest_completion
from medcode_assets.training.tracking import close_abandoned_run, tracked_run
from medcode_assets.warehouse import fingerprint, inputs, one_value
from medcode_assets.writing import refusing_unwritable
from medcode_serving.adapters import ADAPTER_WEIGHTS
from medcode_serving.base_models import LocalModel
from medcode_serving.base_models.added_tokens import added_token_ids
from medcode_serving.bundle import DecodingSettings, file_sha256
from medcode_serving.errors import MedcodeError
from medcode_serving.sections import sections_hash

if TYPE_CHECKING:
    import duckdb

NOT_IN_FINGERPRINT = {"checkpoint_minutes", "resume", "metric_documents", "metric_seconds", "start_from"}
"""Where and how often, not what: changing these does not ask for another training."""
LONGEST_TRAINING = 14 * 24 * 3600.0
"""Seconds to wait for another run's training."""
VALIDATION_EXAMPLES = 256
"""Enough for a steady validation loss at each look; the metrics proper come from the evaluation."""


def chosen_base(home_artifact: Path, recipe: str) -> LocalModel:
    """Return the base model that the recipe's base_model asset chose. Raises MedcodeError if it has not run."""
    facts = required(home_artifact, f"{recipe}/base_model")
    return LocalModel(facts["id"], Path(facts["path"]), facts["revision"], tuple(facts.get("added_tokens", ())))


def adapter_fingerprint(
    con: "duckdb.DuckDBPyConnection", recipe: str, base: LocalModel, lora: LoraSettings, training: TrainingSettings
) -> str:
    """Return the fingerprint of all that an adapter comes from.

    Raises:
        MedcodeError: `training.start_from` is no adapter's folder.
    """
    return fingerprint(
        tokens=inputs(con, f"{recipe}.tokens"),
        base=base.revision,
        lora=lora.model_dump(),
        training={**training.model_dump(exclude=NOT_IN_FINGERPRINT), "mode": effective_mode(training)},
        start_from=_weights_hash(training.start_from),
        version=2,
    )


def _weights_hash(adapter: str | None) -> str | None:
    if adapter is None:
        return None
    try:
        return file_sha256(Path(adapter) / ADAPTER_WEIGHTS)
    except OSError as error:
        raise MedcodeError(f"training.start_from {adapter}: no adapter there ({error.strerror})") from None


def trained_limits(con: "duckdb.DuckDBPyConnection", recipe: Recipe) -> DecodingSettings:
    """Return the limits that an adapter is trained with, which evaluation and serving keep.

    Prompts as long as the tokens' limit, answers with as many codes as training's longest; reasoning, and answers in
    words, with as many tokens.
    """
    name = recipe.name
    prompt = one_value(con, f"SELECT max_prompt_tokens FROM {name}.token_limits")
    codes = one_value(con, f"SELECT max(len(answer)) FROM {name}.examples WHERE split = 'train'")
    longest = {recipe.prompt.answer: longest_completion(con, name)}
    return DecodingSettings(
        max_prompt_tokens=prompt,
        max_codes=max(1, codes or 0),
        max_reasoning_tokens=longest.get("reasoned", 0),
        max_answer_tokens=longest.get("words", 0),
        sections=sections_hash(),
    )


def training_job(
    recipe: str,
    base: LocalModel,
    made_from: str,
    compute: ComputeSettings,
    lora: LoraSettings,
    training: TrainingSettings,
    logging: LoggingSettings,
    max_codes: int = 0,
) -> TrainingJob:
    """Return the job of a training; `max_codes` of an answer, where micro F1 is measured on the way."""
    return TrainingJob(
        recipe=recipe,
        base_model=base.id,
        base_path=base.path.resolve(),
        base_revision=base.revision,
        trained_tokens=tuple(added_token_ids(base.path, base.added_tokens)) if base.added_tokens else (),
        fingerprint=made_from,
        compute=compute,
        lora=lora,
        training=training,
        logging_steps=logging.steps,
        max_codes=max_codes,
        mlflow_uri=logging.mlflow_uri,
    )


def write_training_data(
    con: "duckdb.DuckDBPyConnection", recipe: str, folder: Path, metric_documents: int, max_examples: int = 0
) -> None:
    """Write what a training reads into its folder, so that nobody waits for the warehouse while a model is trained.

    What is there already is left: the folder belongs to one fingerprint. Where only some examples are taken, they are
    the same ones each time.

    Args:
        con: Connection of the warehouse.
        recipe: Whose tokens.
        folder: Made if it is not there.
        metric_documents: Validation notes whose micro F1 is measured on the way.
        max_examples: Training examples at most; 0: all.
    """
    import pyarrow.parquet as pq

    with refusing_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    tokens = f"SELECT example_id, prompt_ids, completion_ids FROM {recipe}.tokens WHERE split = ?"
    some = "ORDER BY md5(CAST(example_id AS VARCHAR)), example_id LIMIT ?"
    gold = (
        f"SELECT example_id, prompt_ids, gold::INTEGER[] AS gold FROM {recipe}.tokens "
        f"JOIN {recipe}.examples USING (example_id, split) WHERE split = ? {some}"
    )
    for name, query, parameters in (
        (TRAIN, *((f"{tokens} {some}", ["train", max_examples]) if max_examples else (tokens, ["train"]))),
        (VALIDATION, f"{tokens} {some}", ["validation", VALIDATION_EXAMPLES]),
        (METRIC, gold, ["validation", metric_documents]),
    ):
        if name == METRIC or not (folder / name).exists():  # how many notes is measured on may have changed
            write_tokens(con, query, folder / name, parameters)
    pq.write_table(trained_codes(con, recipe), folder / CODES)


def fit_adapter(
    job: TrainingJob,
    folder: Path,
    target: Path,
    *,
    decoding: DecodingSettings,
    train: Callable[[], TrainingResult],
    home: Path,
    tags: dict[str, str],
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """Train in a folder that `write_training_data` filled and seal the result as `<target>/weights`.

    Args:
        job: What is trained.
        folder: Of the training; deleted once the artifact is sealed.
        target: Folder of the artifact; replaced only by a complete one.
        decoding: `trained_limits`.
        train: Trains what the folder says, here or elsewhere.
        home: MEDCODE_HOME.
        tags: Tags of the MLflow run.
        warn: Told in a sentence if the memory that is planned is more than there is.

    Returns:
        The facts of the artifact's seal.
    """
    parameters = {
        "base_model": job.base_model,
        "base_revision": job.base_revision,
        **job.lora.model_dump(),
        **job.training.model_dump(),
    }
    with (
        tracked_run(
            home, job.mlflow_uri, job.recipe, parameters=parameters, tags=tags, run_id=_earlier_run(folder)
        ) as run,
        making(target, job.fingerprint) as (aside, facts),
    ):
        write_job(folder, job.model_copy(update={"mlflow_run": run.run_id, "mlflow_uri": run.uri}))
        planned = planned_memory(job, folder, warn)
        result = read_result(folder) if finished(folder) else train()
        # Under a second name, until the artifact is sealed: they may be hours of work.
        shutil.copytree(folder / WEIGHTS, aside / "weights", copy_function=link_or_copy)
        facts.update(
            training_facts(result),
            mlflow_run=run.run_id,
            mlflow_uri=run.uri,
            mlflow_link=run.link,
            planned_memory=planned,
            decoding=decoding.model_dump(),
            settings={"lora": job.lora.model_dump(), "training": {**job.training.model_dump(), "mode": result.mode}},
        )
    discard_training(folder, its_run=False)
    for other in folder.parent.iterdir():  # of other settings, that were cut off
        try:
            discard_training(other)
        except MedcodeError as error:  # what was trained is sealed all the same
            warn(str(error))
    return facts


def planned_memory(job: TrainingJob, folder: Path, warn: Callable[[str], None]) -> dict[str, float]:
    """Return the memory that a training will take, in GiB by kind; warns if there is less, or it cannot be planned."""
    try:
        check = check_memory(job, folder)
    except MedcodeError:
        raise
    except Exception as error:  # noqa: BLE001 - a plan runs models on torch's fake tensors, and not all of them can
        warn(f"the memory of this training could not be planned ({type(error).__name__})")
        return {}
    if check.warning:
        warn(check.warning)
    return check.facts


def alone_in(target: Path, run_id: str, on_wait: Callable[[str], None]) -> AbstractContextManager[None]:
    """Hold the trainings of an artifact: two at once would write the same checkpoints, or delete each other's."""
    return waiting_lock(
        target.with_name("training.lock"),
        what=f"training of {target}",
        exclusive=True,
        purpose=f"run {run_id[:8]}",
        wait_seconds=LONGEST_TRAINING,
        on_wait=on_wait,
    )


def discard_training(folder: Path, *, its_run: bool = True) -> None:
    """Delete a training's folder, and close its MLflow run: nobody will go on with it.

    Raises:
        MedcodeError: it runs on another machine, which cannot be told to end it.
    """
    try:
        job = read_job(folder)
    except MedcodeError:
        job = None
    if job is not None:
        end_remote_training(folder, job.compute)
    if its_run and job is not None and job.mlflow_run is not None and job.mlflow_uri is not None:
        close_abandoned_run(job.mlflow_uri, job.mlflow_run)
    shutil.rmtree(folder, ignore_errors=True)


def _earlier_run(folder: Path) -> str | None:
    """Return the MLflow run of a training that was cut off, which goes on with it."""
    try:
        return read_job(folder).mlflow_run
    except MedcodeError:
        return None


def training_facts(result: TrainingResult) -> dict[str, Any]:
    """Return what is kept of a training: numbers for metadata, and the curves for its picture."""
    last = result.validation[-1][1] if result.validation else {}
    return {
        **result.model_dump(exclude={"losses", "validation"}),
        "first_loss": result.losses[0][1] if result.losses else None,
        "last_loss": result.losses[-1][1] if result.losses else None,
        "validation_loss": last.get("loss"),
        "validation_micro_f1": last.get("micro_f1"),
        "losses": result.losses,
        "validation": result.validation,
    }
