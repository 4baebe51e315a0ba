"""Dagster asset of a recipe beside its chain: the search for better settings of the adapter."""

import shutil
from typing import Any

import dagster as dg

from medcode_assets.artifacts import required, stands
from medcode_assets.config import LoggingSettings, Settings
from medcode_assets.evaluation.plots import search_trials
from medcode_assets.launchpad import LaunchConfig, launched_with, read
from medcode_assets.metadata import markdown_table, mlflow_metadata, picture
from medcode_assets.recipes.fitting import alone_in, chosen_base, training_job, write_training_data
from medcode_assets.recipes.recipe import Recipe
from medcode_assets.recipes.searching import ASSET, find_settings, search_fingerprint
from medcode_assets.resources.compute import GPU, Compute, gpu_tags
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse
from medcode_assets.training.search import Search, data_folder
from medcode_assets.training.settings import LoraSettings, SearchSettings, TrainingSettings


def search_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """The search, in a group of its own: no job of the chain selects it, and `materialize all` of the chain does not.

    Nothing depends on it in the graph, either. Dagster has no dependency that only shows lineage: with one, every
    `medcode run` and every new release would search first, and an adapter without a search would be shown as waiting
    for one for ever. The adapter that used it links to it in its metadata instead.
    """

    @dg.asset(
        key=[recipe.name, ASSET],
        group_name=f"{recipe.name}_search",
        partitions_def=recipe.partitions,
        deps=[[recipe.name, "tokens"], [recipe.name, "base_model"]],
        kinds={"pytorch", "mlflow"},
        pool=GPU,
        op_tags=gpu_tags(settings.compute),
        code_version="1",
    )
    @launched_with("search", settings)
    def search(
        context: dg.AssetExecutionContext,
        config: LaunchConfig,
        home: Home,
        warehouse: Warehouse,
        compute: Compute,
    ) -> dg.MaterializeResult:
        """The learning rate, rank and dropout that short trainings did best with on the validation split.

        Runs only when it is asked for: materialize it here, or `medcode search`. Then materialize the adapter with
        `search.use_best: true`. A run that was cut off goes on; more `search.trials` add to those that are there.
        """
        partition = context.partition_key
        target = home.artifact(recipe.name, partition, ASSET)
        folder = home.artifact(recipe.name, partition, "searching")
        base = chosen_base(home.artifact(recipe.name, partition, "base_model"), recipe.name)
        lora, training = read(config, "lora", LoraSettings), read(config, "training", TrainingSettings)
        chosen, logging = read(config, "search", SearchSettings), read(config, "logging", LoggingSettings)
        with alone_in(target, context.run_id, context.log.warning):
            with warehouse.connect(context, read_only=True) as con:
                made_from = search_fingerprint(con, recipe.name, base, lora, training, chosen)
                name = f"{recipe.name}/{ASSET}"
                found = stands(target, made_from, anew=config.drop_existing)
                unchanged = found and required(target, name)["counted"] >= chosen.trials
                if not unchanged:
                    tokens = data_folder(folder, made_from)
                    if config.drop_existing:
                        shutil.rmtree(tokens, ignore_errors=True)
                    write_training_data(con, recipe.name, tokens, 0, chosen.max_examples)
            if not unchanged:
                job = training_job(recipe.name, base, made_from, compute.settings, lora, training, logging)
                study = Search(
                    job,
                    chosen,
                    folder,
                    train=lambda trial, on_metrics: compute.train(context, trial, on_metrics),
                    home=home.path,
                    tags={"medcode.partition": partition, "medcode.dagster_run": context.run_id},
                    say=context.log.info,
                )
                find_settings(study, target, anew=config.drop_existing)
        facts = required(target, name)
        return dg.MaterializeResult(
            metadata={**_metadata(facts), "unchanged": unchanged, "fingerprint": made_from},
            data_version=dg.DataVersion(facts["seal"]),
        )

    return search


def _metadata(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what the UI shows of a search: the facts of its seal."""
    trials = facts["trials"]
    names = list(facts["best"])
    rows = [
        (t["number"], t["state"], *(t["settings"].get(name) for name in names), t["value"], t["seconds"], t["reason"])
        for t in trials
    ]
    measured = [
        (t["number"], t["value"], t["state"] == "pruned")
        for t in trials
        if t["state"] in ("complete", "pruned") and t["value"] is not None
    ]
    return {
        "best": dg.MetadataValue.json(facts["best"]),
        "best_validation_loss": facts["best_value"],
        "best_trial": facts["best_trial"],
        "trials": markdown_table(["trial", "state", *names, "validation loss", "seconds", "reason"], rows),
        "picture": picture(search_trials(measured), "validation loss of each trial"),
        **mlflow_metadata(facts),
    }
