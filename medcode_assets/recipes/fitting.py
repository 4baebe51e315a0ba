"""Tokens to a sealed adapter artifact: training, tracked in MLflow."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.artifacts import making, required
from medcode_assets.config import LoggingSettings, LoraSettings, TrainingSettings
from medcode_assets.training.sft import VALIDATION_EXAMPLES, loss_summary, train_adapter, training_data
from medcode_assets.training.tracking import tracked_run
from medcode_assets.warehouse import fingerprint, inputs, one_value
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import DecodingSettings
from medcode_serving.sections import sections_hash

if TYPE_CHECKING:
    import duckdb
    from datasets import Dataset

NOT_IN_FINGERPRINT = {"device", "checkpoint_minutes"}
"""Where and how often, not what: changing these does not ask for another training."""


def chosen_base(home_artifact: Path, recipe: str) -> LocalModel:
    """Return the base model that the recipe's base_model asset chose. Raises MedcodeError if it has not run."""
    facts = required(home_artifact, f"{recipe}/base_model")
    return LocalModel(facts["id"], Path(facts["path"]), facts["revision"])


def adapter_fingerprint(
    con: "duckdb.DuckDBPyConnection", recipe: str, base: LocalModel, lora: LoraSettings, training: TrainingSettings
) -> str:
    """Return the fingerprint of all that an adapter comes from."""
    return fingerprint(
        tokens=inputs(con, f"{recipe}.tokens"),
        base=base.revision,
        lora=lora.model_dump(),
        training=training.model_dump(exclude=NOT_IN_FINGERPRINT),
        version=1,
    )


def trained_limits(con: "duckdb.DuckDBPyConnection", recipe: str) -> DecodingSettings:
    """Return the limits that an adapter is trained with, which evaluation and serving keep.

    Prompts as long as the tokens' limit, answers with as many codes as training's longest.
    """
    prompt = one_value(con, f"SELECT max_prompt_tokens FROM {recipe}.token_limits")
    codes = one_value(con, f"SELECT max(len(answer)) FROM {recipe}.examples WHERE split = 'train'")
    return DecodingSettings(max_prompt_tokens=prompt, max_codes=max(1, codes), sections=sections_hash())


@dataclass(frozen=True)
class FittingData:
    """All that a training needs of a warehouse, so that nobody waits for it while a model is trained."""

    train: "Dataset"
    validation: "Dataset"
    decoding: DecodingSettings


def fitting_data(con: "duckdb.DuckDBPyConnection", recipe: str) -> FittingData:
    """Read what a training needs."""
    return FittingData(
        train=training_data(con, recipe, "train"),
        validation=training_data(con, recipe, "validation", limit=VALIDATION_EXAMPLES),
        decoding=trained_limits(con, recipe),
    )


def fit_adapter(
    data: FittingData,
    recipe: str,
    base: LocalModel,
    target: Path,
    *,
    made_from: str,
    lora: LoraSettings,
    training: TrainingSettings,
    logging: LoggingSettings,
    home: Path,
    tags: dict[str, str],
    anew: bool = False,
) -> dict[str, Any]:
    """Train an adapter into `<target>/weights` and return the facts of its seal.

    Args:
        data: Tokens and limits.
        recipe: Name of the recipe.
        base: The base model.
        target: Folder of the artifact; replaced only by a complete one.
        made_from: `adapter_fingerprint`; checkpoints of another training are never resumed.
        lora: Shape of the adapter.
        training: How it is trained.
        logging: Where metrics go.
        home: MEDCODE_HOME.
        tags: Tags of the MLflow run.
        anew: Start from the beginning even if a checkpoint of this training is there.
    """
    parameters = {"base_model": base.id, "base_revision": base.revision, **lora.model_dump(), **training.model_dump()}
    checkpoints = target.with_name("checkpoints") / made_from[:12]
    if anew:
        shutil.rmtree(checkpoints, ignore_errors=True)
    with (
        tracked_run(home, logging.mlflow_uri, recipe, parameters=parameters, tags=tags) as run,
        making(target, made_from) as (folder, facts),
    ):
        result = train_adapter(
            base,
            data.train,
            data.validation,
            folder / "weights",
            lora=lora,
            training=training,
            checkpoints=checkpoints,
            logging_steps=logging.steps,
            log=run.log,
        )
        facts.update(
            loss_summary(result),
            losses=result.losses,
            validation_losses=result.validation_losses,
            mlflow_run=run.run_id,
            mlflow_uri=run.uri,
            decoding=data.decoding.model_dump(),
            settings={"lora": lora.model_dump(), "training": training.model_dump()},
        )
    return facts
