"""The one place where everything is wired: `build_definitions()`, and `defs` for `dagster` itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from medcode_assets.automation import PREPARE, SEARCH, TRAIN, new_releases_sensor, stale_versions_schedule
from medcode_assets.config import Settings, load_settings
from medcode_assets.mimic.assets import mimic_assets
from medcode_assets.partitions import CORPORA, MIMIC_VERSIONS
from medcode_assets.recipes.factory import recipe_assets
from medcode_assets.recipes.icd import ICD
from medcode_assets.recipes.reasoning.assets import own_assets
from medcode_assets.recipes.reasoning.recipe import REASONING
from medcode_assets.recipes.reasoning.settings import StageSettings, load_stage_settings
from medcode_assets.recipes.recipe import Recipe
from medcode_assets.recipes.systems import WORD_SYSTEMS
from medcode_assets.resources.compute import Compute
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse
from medcode_assets.terminal import terminal_logger
from medcode_serving.home import medcode_home

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

RECIPES = (ICD, REASONING, *(system.recipe for system in WORD_SYSTEMS.values()))
REASON = "reasoning"
"""Name of the job that makes recipe `reasoning`."""


def build_definitions(
    home: Path | None = None,
    settings: Settings | None = None,
    stages: Mapping[int, StageSettings] | None = None,
    words: Mapping[str, Settings] | None = None,
    *,
    resource_overrides: dict[str, Any] | None = None,
    executor: dg.ExecutorDefinition = dg.in_process_executor,
) -> dg.Definitions:
    """Return fresh definitions.

    Args:
        home: MEDCODE_HOME; none: from the environment.
        settings: The launchpad's defaults; none: training-config.yaml and the environment.
        stages: Those of recipe `reasoning`; none: config/reasoning-stage-{1,2,3}.yaml and the environment.
        words: Those of recipes that answer in words, by recipe; one that is not named: config/<recipe>.yaml and the
            environment.
        resource_overrides: Resources that replace the project's own, by name.
        executor: Where steps run. A process a step costs three seconds and buys nothing: steps of one version wait
            for its warehouse anyway. A pod a step lets each have its own machine (docs/scale-out.md).
    """
    home = (home or medcode_home()).resolve()
    settings = settings or load_settings()
    stages = stages or load_stage_settings()
    in_words = {name: (words or {}).get(name) or system.load_settings() for name, system in WORD_SYSTEMS.items()}
    return dg.Definitions(
        assets=[
            *mimic_assets(settings),
            *recipe_assets(ICD, settings),
            *recipe_assets(REASONING, stages[REASONING.stages[-1].number]),
            *own_assets(stages),
            *(
                asset
                for name, system in WORD_SYSTEMS.items()
                for asset in (*recipe_assets(system.recipe, in_words[name]), *system.own_assets(in_words[name]))
            ),
        ],
        jobs=[
            # What a new release needs before anyone decides to train on it, and everything.
            dg.define_asset_job(
                PREPARE,
                selection=dg.AssetSelection.assets(["icd", "tokens"]).upstream(),
                partitions_def=MIMIC_VERSIONS,
            ),
            dg.define_asset_job(
                TRAIN, selection=dg.AssetSelection.groups("raw", "mimic", "icd"), partitions_def=MIMIC_VERSIONS
            ),
            # A job of its own: neither a release nor `medcode run` starts a search by itself.
            dg.define_asset_job(
                SEARCH,
                selection=dg.AssetSelection.assets(["icd", "search"]).upstream(),
                partitions_def=MIMIC_VERSIONS,
            ),
            dg.define_asset_job(REASON, selection=dg.AssetSelection.groups("reasoning"), partitions_def=CORPORA),
            *(job for system in WORD_SYSTEMS.values() for job in word_jobs(system.recipe)),
        ],
        sensors=[new_releases_sensor(settings.automation)],
        schedules=[stale_versions_schedule(settings.automation)],
        resources={
            "compute": Compute(**settings.compute.model_dump()),
            "home": Home(folder=str(home)),
            "warehouse": Warehouse(database=str(home / "warehouse"), **settings.warehouse.model_dump()),
            **(resource_overrides or {}),
        },
        loggers={"terminal": terminal_logger, "console": dg.colored_console_logger},
        executor=executor,
    )


def word_jobs(recipe: Recipe) -> "list[UnresolvedAssetJobDefinition]":
    """Return the jobs of a recipe that answers in words: `<recipe>` makes it, `<recipe>_search` looks for settings."""
    search = dg.AssetSelection.assets([recipe.name, "search"]).upstream()
    return [
        dg.define_asset_job(
            recipe.name, selection=dg.AssetSelection.groups(recipe.name), partitions_def=recipe.partitions
        ),
        dg.define_asset_job(f"{recipe.name}_{SEARCH}", selection=search, partitions_def=recipe.partitions),
    ]


defs = build_definitions()
