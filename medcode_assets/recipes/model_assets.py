"""Dagster assets of a recipe from its tokens on: adapter, evaluation, bundle, gguf."""

import dagster as dg

from medcode_assets.artifacts import made, required
from medcode_assets.config import (
    EvaluationSettings,
    ExportSettings,
    LoggingSettings,
    LoraSettings,
    SearchSettings,
    Settings,
    TrainingSettings,
)
from medcode_assets.evaluation.plots import engine_bars, loss_curve
from medcode_assets.evaluation.report import EvaluationReport, collapse_problems, read_report, report_table
from medcode_assets.launchpad import LaunchConfig, launched_with, read
from medcode_assets.metadata import mlflow_metadata, picture
from medcode_assets.mimic.versions import registered
from medcode_assets.partitions import check_each_version
from medcode_assets.recipes.bundling import (
    bundle_version,
    compose_bundle,
    data_version,
    examples_settings,
    provenance,
    refuse_unpublishable,
)
from medcode_assets.recipes.evaluating import (
    REPORT,
    evaluate_adapter,
    evaluation_data,
    evaluation_fingerprint,
    examples_made,
)
from medcode_assets.recipes.exporting import export_gguf, exported, sample_prompts
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
from medcode_assets.training.tracking import register_bundle
from medcode_serving.bundle import CODES, DecodingSettings, is_published, latest_version, open_bundle, publish


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
                facts = made(target)
                unchanged = facts is not None and facts["fingerprint"] == made_from and not config.drop_existing
                folder = home.training(recipe.name, partition, made_from)
                if config.drop_existing:
                    discard_training(folder)
                if not unchanged:
                    write_training_data(con, recipe.name, folder, training.metric_documents)
                    decoding = trained_limits(con, recipe.name)
            if not unchanged:
                most = decoding.max_codes if training.metric_documents else 0
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


def evaluation_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """The adapter measured beside its baselines."""
    key = dg.AssetKey([recipe.name, "evaluation"])

    @dg.asset(
        key=key,
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        deps=[[recipe.name, "adapter"], [recipe.name, "examples"]],
        kinds={"pytorch"},
        pool=GPU,
        op_tags=gpu_tags(settings.compute, gpus=1),
        code_version="1",
        check_specs=[
            check_each_version(
                key,
                "not_collapsed",
                "Metrics are finite and the adapter does not give every document the same codes.",
                blocking=True,
                partitions=recipe.partitions,
            ),
            check_each_version(
                key,
                "above_baselines",
                "Test micro F1 above the frequency prior and the untuned base.",
                partitions=recipe.partitions,
            ),
        ],
    )
    @launched_with("evaluation", settings)
    def evaluation(
        context: dg.AssetExecutionContext,
        config: LaunchConfig,
        home: Home,
        warehouse: Warehouse,
        compute: Compute,
    ) -> dg.MaterializeResult:
        """Micro and macro F1, precision and recall on the test split; thresholds chosen on validation."""
        partition = context.partition_key
        target = home.artifact(recipe.name, partition, "evaluation")
        base = chosen_base(home.artifact(recipe.name, partition, "base_model"), recipe.name)
        adapter = home.artifact(recipe.name, partition, "adapter")
        chosen = read(config, "evaluation", EvaluationSettings)
        adapter_facts = required(adapter, f"{recipe.name}/adapter")
        decoding = DecodingSettings(**adapter_facts["decoding"])
        with warehouse.connect(context, read_only=True) as con:
            made_from = evaluation_fingerprint(con, recipe, adapter_facts["seal"], chosen, decoding)
            facts = made(target)
            unchanged = facts is not None and facts["fingerprint"] == made_from and not config.drop_existing
            data = None if unchanged else evaluation_data(con, recipe.name, chosen.max_documents)
        if data is not None:
            evaluate_adapter(
                data,
                recipe,
                base,
                adapter / "weights",
                target,
                made_from,
                chosen,
                decoding,
                adapter_facts["seal"],
                compute.settings.device,
            )
        report = read_report(target / REPORT)
        return dg.MaterializeResult(
            metadata={
                "results": dg.MetadataValue.md(report_table(report)),
                "picture": picture(engine_bars(report), "micro and macro F1 of each engine"),
                "micro_f1": report.engine("adapter").metric("micro_f1", "closed"),
                "threshold": report.engine("adapter").threshold,
                "unchanged": unchanged,
                "fingerprint": made_from,
            },
            data_version=dg.DataVersion(made_from),
            check_results=_evaluation_checks(report),
        )

    return evaluation


def _evaluation_checks(report: EvaluationReport) -> list[dg.AssetCheckResult]:
    problems = collapse_problems(report, "adapter")
    scores = {engine.engine: engine.metric("micro_f1", "closed") for engine in report.engines}
    return [
        dg.AssetCheckResult(
            check_name="not_collapsed", passed=not problems, metadata={"problems": "; ".join(problems)}
        ),
        dg.AssetCheckResult(
            check_name="above_baselines",
            passed=all(scores["adapter"] > score for engine, score in scores.items() if engine != "adapter"),
            severity=dg.AssetCheckSeverity.WARN,
            metadata=scores,
        ),
    ]


def bundle_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """The published bundle."""

    @dg.asset(
        key=[recipe.name, "bundle"],
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        deps=[[recipe.name, "evaluation"]],
        code_version="1",
    )
    @launched_with("bundle", settings)
    def bundle(
        context: dg.AssetExecutionContext,
        config: LaunchConfig,
        home: Home,
        warehouse: Warehouse,
    ) -> dg.MaterializeResult:
        """Everything that serving needs, sealed; LATEST names it. Made only after the blocking checks passed."""
        partition = context.partition_key
        base = chosen_base(home.artifact(recipe.name, partition, "base_model"), recipe.name)
        adapter_folder = home.artifact(recipe.name, partition, "adapter")
        adapter_facts = required(adapter_folder, f"{recipe.name}/adapter")
        evaluation_folder = home.artifact(recipe.name, partition, "evaluation")
        evaluation_facts = required(evaluation_folder, f"{recipe.name}/evaluation")
        report = read_report(evaluation_folder / REPORT)
        with warehouse.connect(context, read_only=True) as con:
            refuse_unpublishable(recipe.name, report, adapter_facts, evaluation_facts, examples_made(con, recipe.name))
            sealed, unchanged = compose_bundle(
                home.bundles,
                recipe=recipe.name,
                version=bundle_version(partition, base, evaluation_facts),
                base=base,
                prompt=recipe.prompt,
                decoding=DecodingSettings(**evaluation_facts["decoding"]),
                threshold=report.engine("adapter").threshold,
                metrics=report.metrics,
                data=data_version(con, partition, registered(home.path, partition).release),
                provenance=provenance(
                    {**adapter_facts["settings"], "data": examples_settings(con, recipe.name)},
                    mlflow_run=adapter_facts["mlflow_run"],
                    dagster_run=context.run_id,
                ),
                adapter=adapter_folder / "weights",
                codes=evaluation_folder / CODES,
            )
        if not unchanged or not is_published(home.bundles, recipe.name):
            publish(sealed)  # a bundle that was there already does not push away a newer one
        manifest = sealed.manifest
        latest = latest_version(home.bundles, recipe.name)
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
                "latest": latest,
                "unchanged": unchanged,
            },
            data_version=dg.DataVersion(manifest.version),
        )

    return bundle


def gguf_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """The merged model as one GGUF file."""
    key = dg.AssetKey([recipe.name, "gguf"])

    @dg.asset(
        key=key,
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        deps=[[recipe.name, "bundle"]],
        pool=GPU,
        code_version="1",
        check_specs=[
            check_each_version(
                key,
                "answers_like_the_merged_model",
                "Weights, tokenization and next-token distributions equal the merged model's.",
                blocking=True,
                partitions=recipe.partitions,
            ),
        ],
    )
    @launched_with("gguf", settings)
    def gguf(
        context: dg.AssetExecutionContext,
        config: LaunchConfig,
        home: Home,
        warehouse: Warehouse,
    ) -> dg.MaterializeResult:
        """The merged model for llama.cpp, LM Studio and Ollama, in the bundle's gguf/ folder."""
        partition = context.partition_key
        base = chosen_base(home.artifact(recipe.name, partition, "base_model"), recipe.name)
        file_type = read(config, "export", ExportSettings).file_type
        evaluated = required(home.artifact(recipe.name, partition, "evaluation"), f"{recipe.name}/evaluation")
        version = bundle_version(partition, base, evaluated)
        bundle = open_bundle(home.bundles / recipe.name / version)
        manifest = None if config.drop_existing else exported(bundle, file_type)
        unchanged = manifest is not None
        if manifest is None:
            with warehouse.connect(context, read_only=True) as con:
                prompts = sample_prompts(con, bundle, base)
            manifest = export_gguf(bundle, base, file_type, prompts)
        verification = manifest["verification"]
        return dg.MaterializeResult(
            metadata={
                "file": dg.MetadataValue.path(bundle.path / "gguf" / manifest["file"]),
                "sha256": manifest["sha256"],
                "megabytes": round(manifest["size_bytes"] / 1e6, 1),
                "verification": dg.MetadataValue.json(verification),
                "unchanged": unchanged,
            },
            data_version=dg.DataVersion(manifest["sha256"]),
            check_results=[
                dg.AssetCheckResult(
                    passed=not verification["problems"], metadata={"problems": "; ".join(verification["problems"])}
                )
            ],
        )

    return gguf
