"""Dagster assets of a recipe from its tokens on: adapter, bundle."""

import dagster as dg

from medcode_assets.artifacts import made, required, stands
from medcode_assets.config import GATES, GateSettings, LoggingSettings, Settings
from medcode_assets.evaluation.gates import check_gates
from medcode_assets.evaluation.history import REPORT
from medcode_assets.evaluation.plots import loss_curve
from medcode_assets.evaluation.report import read_report
from medcode_assets.launchpad import LaunchConfig, launched_with, read
from medcode_assets.metadata import mlflow_metadata, picture
from medcode_assets.partitions import checks_each_version
from medcode_assets.recipes.answering import examples_made
from medcode_assets.recipes.bundling import (
    against_served,
    bundle_version,
    compose_bundle,
    examples_settings,
    provenance,
    publish_passed,
    refuse_mismatch,
    refuse_other_linear,
)
from medcode_assets.recipes.fitting import (
    adapter_fingerprint,
    alone_in,
    chosen_base,
    discard_training,
    fit_adapter,
    trained_limits,
    training_job,
    write_training_data,
)
from medcode_assets.recipes.recipe import Recipe
from medcode_assets.recipes.searching import ASSET as SEARCH
from medcode_assets.recipes.searching import search_fingerprint, use_best
from medcode_assets.resources.compute import GPU, Compute, gpu_tags
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse
from medcode_assets.training.settings import LoraSettings, SearchSettings, TrainingSettings
from medcode_assets.training.tracking import register_bundle
from medcode_serving.bundle import (
    CODES,
    LINEAR,
    DecodingSettings,
    Gate,
    is_published,
    latest_version,
)


def adapter_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """The adapter, or the whole model after full fine-tuning."""

    @dg.asset(
        key=[recipe.name, "adapter"],
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        deps=[[recipe.name, "tokens"], [recipe.name, "base_model"]],
        kinds={"pytorch", "mlflow"},
        pool=GPU,
        op_tags=gpu_tags(settings.compute),
        code_version="2",
    )
    @launched_with("adapter", settings)
    def adapter(
        context: dg.AssetExecutionContext,
        config: LaunchConfig,
        home: Home,
        warehouse: Warehouse,
        compute: Compute,
    ) -> dg.MaterializeResult:
        """What training learned from the completions of the training split; metrics in MLflow."""
        partition = context.partition_key
        target = home.artifact(recipe.name, partition, "adapter")
        base = chosen_base(home.artifact(recipe.name, partition, "base_model"), recipe.name)
        lora, training = read(config, "lora", LoraSettings), read(config, "training", TrainingSettings)
        search, logging = read(config, "search", SearchSettings), read(config, "logging", LoggingSettings)
        with alone_in(target, context.run_id, context.log.warning):
            with warehouse.connect(context, read_only=True) as con:
                if search.use_best:
                    searched_from = search_fingerprint(con, recipe.name, base, lora, training, search)
                    best = home.artifact(recipe.name, partition, SEARCH)
                    lora, training = use_best(best, recipe.name, searched_from, lora, training, context.log)
                made_from = adapter_fingerprint(con, recipe.name, base, lora, training)
                unchanged = stands(target, made_from, anew=config.drop_existing)
                folder = home.training(recipe.name, partition, made_from)
                if config.drop_existing:
                    discard_training(folder)
                if not unchanged:
                    write_training_data(con, recipe.name, folder, training.metric_documents)
                    decoding = trained_limits(con, recipe)
            if not unchanged:
                most = decoding.max_codes if training.metric_documents and recipe.words is None else 0
                job = training_job(recipe.name, base, made_from, compute.settings, lora, training, logging, most)
                fit_adapter(
                    job,
                    folder,
                    target,
                    decoding=decoding,
                    train=lambda: compute.train(context, folder),
                    home=home.path,
                    tags={"medcode.partition": partition, "medcode.dagster_run": context.run_id},
                    warn=context.log.warning,
                )
        facts = required(target, f"{recipe.name}/adapter")
        curves = loss_curve(facts["losses"], facts["validation"])
        hidden = {"losses", "validation", "decoding", "settings", "seal", "fingerprint", "mlflow_link"}
        return dg.MaterializeResult(
            metadata={
                **{name: value for name, value in facts.items() if value is not None and name not in hidden},
                **mlflow_metadata(facts),
                "settings": dg.MetadataValue.json(facts["settings"]),
                **(_searched(recipe) if search.use_best else {}),
                "unchanged": unchanged,
                "fingerprint": made_from,
                "loss": picture(curves, "training loss"),
            },
            data_version=dg.DataVersion(made_from),
        )

    return adapter


def _searched(recipe: Recipe) -> dict[str, dg.MetadataValue[dg.AssetKey]]:
    """Return the link to the search whose settings were taken, which is no dependency in the graph."""
    return {"settings_from": dg.MetadataValue.asset(dg.AssetKey([recipe.name, SEARCH]))}


def bundle_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """The bundle, and the gates before LATEST."""
    key = dg.AssetKey([recipe.name, "bundle"])

    @dg.asset(
        key=key,
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        # The report, so that an adapter that does not pass the gates has one.
        deps=[[recipe.name, name] for name in ("evaluation", "report", LINEAR)],
        code_version="2",
        check_specs=checks_each_version(key, GATES, blocking=GATES, partitions=recipe.partitions),
    )
    @launched_with("bundle", settings)
    def bundle(
        context: dg.AssetExecutionContext,
        config: LaunchConfig,
        home: Home,
        warehouse: Warehouse,
    ) -> dg.MaterializeResult:
        """Everything that serving needs, sealed; LATEST names it if it passes the gates. Else it stays, with why."""
        partition = context.partition_key
        base = chosen_base(home.artifact(recipe.name, partition, "base_model"), recipe.name)
        adapter_folder = home.artifact(recipe.name, partition, "adapter")
        adapter_facts = required(adapter_folder, f"{recipe.name}/adapter")
        evaluation_folder = home.artifact(recipe.name, partition, "evaluation")
        evaluation_facts = required(evaluation_folder, f"{recipe.name}/evaluation")
        linear = home.artifact(recipe.name, partition, LINEAR)
        report = read_report(evaluation_folder / REPORT)
        with warehouse.connect(context, read_only=True) as con:
            refuse_mismatch(recipe.name, adapter_facts, evaluation_facts, examples_made(con, recipe.name))
            refuse_other_linear(recipe.name, evaluation_facts, made(linear))
            sealed, unchanged = compose_bundle(
                home.bundles,
                recipe=recipe.name,
                version=bundle_version(partition, base, evaluation_facts),
                base=base,
                prompt=recipe.for_base(base).prompt,
                decoding=DecodingSettings(**evaluation_facts["decoding"]),
                report=report,
                data=recipe.data_version(con, home.path, partition, evaluation_facts["train_documents"]),
                provenance=provenance(
                    {**adapter_facts["settings"], "data": examples_settings(con, recipe.name)},
                    mlflow_run=adapter_facts["mlflow_run"],
                    dagster_run=context.run_id,
                ),
                adapter=adapter_folder / "weights",
                codes=evaluation_folder / CODES,
                linear=linear / LINEAR,
            )
        manifest = sealed.manifest
        served = against_served(home.path, recipe.name, manifest.version, report.resamples)
        gates = check_gates(report, read(config, "gates", GateSettings), served)
        publish_passed(sealed, gates)
        latest = latest_version(home.bundles, recipe.name) if is_published(home.bundles, recipe.name) else None
        model = register_bundle(sealed, latest, adapter_facts["mlflow_uri"], adapter_facts["mlflow_run"])
        if model is None:
            context.log.warning("not in MLflow's registry: see the warning above; materialize again to register it")
        return dg.MaterializeResult(
            metadata={
                "version": manifest.version,
                "mlflow_model": f"{model.name} version {model.version}" if model else "not registered",
                **mlflow_metadata(adapter_facts),
                "path": dg.MetadataValue.path(sealed.path),
                "manifest": dg.MetadataValue.json(manifest.model_dump(mode="json", exclude={"files"})),
                "megabytes": round(sum(file.stat().st_size for file in sealed.path.rglob("*")) / 1e6, 1),
                "latest": latest or "nothing is published",
                "unchanged": unchanged,
            },
            data_version=dg.DataVersion(manifest.version),
            check_results=[gate_result(gate) for gate in gates],
        )

    return bundle


def gate_result(gate: Gate) -> dg.AssetCheckResult:
    """Return a gate as Dagster shows it: one that was relaxed is a warning, and blocks nothing."""
    return dg.AssetCheckResult(
        check_name=gate.name,
        passed=gate.passed,
        severity=dg.AssetCheckSeverity.WARN if gate.relaxed else dg.AssetCheckSeverity.ERROR,
        metadata={"reason": gate.reason, "relaxed": gate.relaxed},
    )
