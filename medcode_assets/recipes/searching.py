"""Tokens to a sealed search artifact: which settings the adapter is trained best with."""

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_assets.artifacts import making, required
from medcode_assets.recipes.fitting import adapter_fingerprint
from medcode_assets.training.search import Search, data_folder, run_search, trial_settings, with_settings
from medcode_assets.training.settings import LoraSettings, SearchSettings, TrainingSettings
from medcode_assets.warehouse import fingerprint
from medcode_serving.base_models import LocalModel

if TYPE_CHECKING:
    import duckdb

ASSET = "search"
NOT_SEARCHED_IN = {"trials", "use_best"}
"""More trials go on with the same study, and using what it found does not change it."""


def search_fingerprint(
    con: "duckdb.DuckDBPyConnection",
    recipe: str,
    base: LocalModel,
    lora: LoraSettings,
    training: TrainingSettings,
    search: SearchSettings,
) -> str:
    """Return the fingerprint of all that a study's trials come from: another one is another study.

    Raises:
        MedcodeError: as `adapter_fingerprint`.
    """
    lora, training = _without_searched(lora, trial_settings(training, search))
    return fingerprint(
        trial=adapter_fingerprint(con, recipe, base, lora, training),
        space=search.model_dump(exclude=NOT_SEARCHED_IN),
        version=1,
    )


def _without_searched(lora: LoraSettings, training: TrainingSettings) -> tuple[LoraSettings, TrainingSettings]:
    """Return the settings with fixed values for what is searched; of r and alpha only their ratio counts."""
    searched = {"lora.r": 1000, "lora.alpha": max(1, round(1000 * lora.alpha / lora.r)), "lora.dropout": 0.0}
    return with_settings(lora, training, {**searched, "training.learning_rate": 1.0})


def find_settings(search: Search, target: Path, *, anew: bool) -> None:
    """Run a search whose data folder is filled and seal what it found.

    Args:
        search: What is searched; its tokens are deleted once the artifact is sealed, its study stays.
        target: Folder of the artifact; replaced only by a complete one.
        anew: Forget the trials of earlier runs.

    Raises:
        MedcodeError: as `run_search`.
    """
    found, run = run_search(search, anew=anew)
    with making(target, search.job.fingerprint) as (_, facts):
        facts.update(found.model_dump(), mlflow_run=run.run_id, mlflow_uri=run.uri, mlflow_link=run.link)
    tokens = data_folder(search.folder, search.job.fingerprint).parent
    shutil.rmtree(tokens, ignore_errors=True)  # and those of other studies that were cut off


def use_best(
    artifact: Path,
    recipe: str,
    searched_from: str,
    lora: LoraSettings,
    training: TrainingSettings,
    log: logging.Logger,
) -> tuple[LoraSettings, TrainingSettings]:
    """Return sections `lora` and `training` with the best settings of a search in the place of their own.

    Args:
        artifact: Folder of the search artifact.
        recipe: Whose search.
        searched_from: `search_fingerprint` of today's tokens, base and settings: warns if the search had others.
        lora: The settings given.
        training: As lora.
        log: Told what was chosen.

    Raises:
        MedcodeError: there is no search artifact; names the asset that makes it.
    """
    facts = required(artifact, f"{recipe}/{ASSET}")
    if facts["fingerprint"] != searched_from:
        log.warning(f"{recipe}/{ASSET} was made from other tokens, base model or settings; materialize it again")
    best = facts["best"]
    values = ", ".join(f"{name}={value:.4g}" for name, value in best.items())
    log.info(f"search.use_best: {values} of {recipe}/{ASSET} take the place of the settings given")
    return with_settings(lora, training, best)
