"""Dagster assets that measure: the baselines, the evaluation, the analysis of its errors, and the report."""

from pathlib import Path

import dagster as dg

from medcode_assets.artifacts import making, required, stands
from medcode_assets.config import EvaluationSettings, Settings
from medcode_assets.evaluation.errors.analyse import analyse_errors
from medcode_assets.evaluation.errors.model import read_analysis, write_analysis
from medcode_assets.evaluation.errors.table import findings_table
from medcode_assets.evaluation.history import REPORT
from medcode_assets.evaluation.plots import engine_bars
from medcode_assets.evaluation.report import read_report, report_table
from medcode_assets.launchpad import LaunchConfig, launched_with, read
from medcode_assets.metadata import mlflow_metadata, picture
from medcode_assets.mimic.transform import split_hash
from medcode_assets.recipes.answering import alone_answering, evaluation_data, examples_made, parts_to_fill
from medcode_assets.recipes.baselines import (
    BASELINES,
    FREQUENCY_PRIOR,
    UNTUNED_BASE,
    frequency_prior,
    linear,
    linear_fingerprint,
    make_baseline,
    measured_beside,
    prior_fingerprint,
    skip_baseline,
    untuned_base,
    untuned_base_fingerprint,
)
from medcode_assets.recipes.bundling import bundle_version, refuse_old_answers
from medcode_assets.recipes.evaluating import (
    answers_fingerprint,
    evaluate_adapter,
    evaluation_fingerprint,
    remember,
)
from medcode_assets.recipes.fitting import chosen_base, trained_limits
from medcode_assets.recipes.recipe import Recipe
from medcode_assets.recipes.reporting import ERRORS, LOGGED, PAGE, error_predictions, errors_fingerprint, write_page
from medcode_assets.resources.compute import GPU, Compute, gpu_tags
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse
from medcode_assets.training.tracking import log_evaluation
from medcode_assets.warehouse import built
from medcode_serving.bundle import LINEAR, DecodingSettings


def _parts(
    home: Home,
    recipe: Recipe,
    context: dg.AssetExecutionContext,
    target: Path,
    made_from: str,
    config: LaunchConfig,
) -> Path:
    """Return the folder of a baseline's answers so far; those of a killed run are dropped if all is made anew."""
    parts = home.answering(recipe.name, context.partition_key, target.name, made_from)
    return parts_to_fill(parts, anew=config.drop_existing)


def _baseline_result(target: Path, made_from: str, unchanged: bool) -> dg.MaterializeResult:
    """Return what the UI shows of a baseline; its metrics are the evaluation's."""
    facts = required(target, target.name)
    shown = {name: value for name, value in facts.items() if name not in ("examples", "seal", "fingerprint")}
    return dg.MaterializeResult(
        metadata={**shown, "path": dg.MetadataValue.path(target), "unchanged": unchanged, "fingerprint": made_from},
        data_version=dg.DataVersion(made_from),
    )


def frequency_prior_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """The least that any model must beat."""

    @dg.asset(
        key=[recipe.name, FREQUENCY_PRIOR],
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        deps=[[recipe.name, "examples"]],
        code_version="1",
    )
    @launched_with(FREQUENCY_PRIOR, settings)
    def frequency_prior_baseline(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        """Answers every note with the codes that training notes have most often."""
        target = home.artifact(recipe.name, context.partition_key, FREQUENCY_PRIOR)
        evaluation = read(config, "evaluation", EvaluationSettings)
        with alone_answering(target, context.run_id, context.log.warning):
            with warehouse.connect(context, read_only=True) as con:
                made_from = prior_fingerprint(con, recipe, evaluation)
                unchanged = stands(target, made_from, anew=config.drop_existing)
                data = None if unchanged else evaluation_data(con, recipe.name, evaluation.max_documents)
            if data is not None:
                parts = _parts(home, recipe, context, target, made_from, config)
                make_baseline(data, target, parts, made_from, frequency_prior(data))
        return _baseline_result(target, made_from, unchanged)

    return frequency_prior_baseline


def linear_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """The best that is to be had without a language model."""

    @dg.asset(
        key=[recipe.name, LINEAR],
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        deps=[[recipe.name, "examples"]],
        code_version="1",
    )
    @launched_with(LINEAR, settings)
    def linear_baseline(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        """Telling words, one-vs-rest on TF-IDF, and titles: milliseconds a note, and what serving falls back to."""
        target = home.artifact(recipe.name, context.partition_key, LINEAR)
        evaluation = read(config, "evaluation", EvaluationSettings)
        with (
            alone_answering(target, context.run_id, context.log.warning),
            warehouse.connect(context, read_only=True) as con,
        ):
            made_from = linear_fingerprint(con, recipe, evaluation)
            unchanged = stands(target, made_from, anew=config.drop_existing)
            if not unchanged:
                data = evaluation_data(con, recipe.name, evaluation.max_documents)
                parts = _parts(home, recipe, context, target, made_from, config)
                make_baseline(data, target, parts, made_from, linear(con, recipe.name))
        return _baseline_result(target, made_from, unchanged)

    return linear_baseline


def untuned_base_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """What fine-tuning adds is the difference to this."""

    @dg.asset(
        key=[recipe.name, UNTUNED_BASE],
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        deps=[[recipe.name, "tokens"], [recipe.name, "base_model"]],
        kinds={"pytorch"},
        pool=GPU,
        op_tags=gpu_tags(settings.compute, gpus=1),
        code_version="1",
    )
    @launched_with(UNTUNED_BASE, settings)
    def untuned_base_baseline(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, warehouse: Warehouse, compute: Compute
    ) -> dg.MaterializeResult:
        """The base model without an adapter, held to the same codes; with evaluation.untuned_base: false, left out."""
        partition = context.partition_key
        target = home.artifact(recipe.name, partition, UNTUNED_BASE)
        base = chosen_base(home.artifact(recipe.name, partition, "base_model"), recipe.name)
        prompted = recipe.for_base(base)
        chosen = read(config, "evaluation", EvaluationSettings)
        with alone_answering(target, context.run_id, context.log.warning):
            with warehouse.connect(context, read_only=True) as con:
                made_from = untuned_base_fingerprint(con, prompted, base, chosen)
                unchanged = stands(target, made_from, anew=config.drop_existing)
                decoding = trained_limits(con, prompted)
                asks = chosen.untuned_base and not unchanged
                data = evaluation_data(con, recipe.name, chosen.max_documents) if asks else None
            if data is not None:
                parts = _parts(home, recipe, context, target, made_from, config)
                load = untuned_base(prompted, base, decoding, chosen, compute.settings.device)
                make_baseline(data, target, parts, made_from, load)
            elif not unchanged:
                skip_baseline(target, made_from)
        return _baseline_result(target, made_from, unchanged)

    return untuned_base_baseline


def evaluation_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """The adapter measured beside its baselines."""

    @dg.asset(
        key=[recipe.name, "evaluation"],
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        deps=[[recipe.name, name] for name in ("adapter", "examples", *BASELINES)],
        kinds={"pytorch"},
        pool=GPU,
        op_tags=gpu_tags(settings.compute, gpus=1),
        code_version="2",
    )
    @launched_with("evaluation", settings)
    def evaluation(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, warehouse: Warehouse, compute: Compute
    ) -> dg.MaterializeResult:
        """Every metric on the test split with its interval; calibration and thresholds from validation."""
        partition = context.partition_key
        target = home.artifact(recipe.name, partition, "evaluation")
        base = chosen_base(home.artifact(recipe.name, partition, "base_model"), recipe.name)
        prompted = recipe.for_base(base)
        adapter = home.artifact(recipe.name, partition, "adapter")
        chosen = read(config, "evaluation", EvaluationSettings)
        adapter_facts = required(adapter, f"{recipe.name}/adapter")
        decoding = DecodingSettings(**adapter_facts["decoding"])
        folders = {name: home.artifact(recipe.name, partition, name) for name in BASELINES}
        with alone_answering(target, context.run_id, context.log.warning):
            with warehouse.connect(context, read_only=True) as con:
                expected = {
                    LINEAR: linear_fingerprint(con, recipe, chosen),
                    UNTUNED_BASE: untuned_base_fingerprint(con, prompted, base, chosen),
                    FREQUENCY_PRIOR: prior_fingerprint(con, recipe, chosen),
                }
                beside = measured_beside(folders, expected, recipe.name)
                seals = {name: facts["seal"] for name, facts in beside.items()}
                answers_from = answers_fingerprint(con, prompted, adapter_facts["seal"], decoding, chosen)
                made_from = evaluation_fingerprint(answers_from, seals, chosen)
                unchanged = stands(target, made_from, anew=config.drop_existing)
                data = None if unchanged else evaluation_data(con, recipe.name, chosen.max_documents)
                split = split_hash(con)
            baselines = {name: folders[name] for name in beside}
            if data is not None:
                evaluate_adapter(
                    data,
                    prompted,
                    base,
                    adapter / "weights",
                    target,
                    home.answering(recipe.name, partition, "adapter", answers_from),
                    answers_from=answers_from,
                    made_from=made_from,
                    baselines=baselines,
                    seals=seals,
                    evaluation=chosen,
                    decoding=decoding,
                    adapter_seal=adapter_facts["seal"],
                    device=compute.settings.device,
                    ask_again=config.drop_existing,
                )
            report = read_report(target / REPORT)
            version = bundle_version(partition, base, required(target, "evaluation"))
            remember(home.path, recipe.name, partition, version, split, base, target, baselines, report)
        return dg.MaterializeResult(
            metadata={
                "results": dg.MetadataValue.md(report_table(report)),
                "picture": picture(engine_bars(report), "micro and macro F1 of each engine"),
                "micro_f1": report.engine("adapter").metric("micro_f1", "open"),
                "threshold": report.engine("adapter").threshold,
                "calibration_error": report.engine("adapter").calibration_error,
                "version": version,
                "unchanged": unchanged,
                "fingerprint": made_from,
            },
            data_version=dg.DataVersion(made_from),
        )

    return evaluation


def errors_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """What the adapter gets wrong, and what to do about it."""

    @dg.asset(
        key=[recipe.name, "errors"],
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        deps=[[recipe.name, "evaluation"], [recipe.name, "tokens"]],
        kinds={"duckdb", "sql"},
        code_version="1",
    )
    @launched_with("errors", settings)
    def errors(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        """Missed and spurious codes by pattern; each in the warehouse's table `errors`, to be read with its note."""
        partition = context.partition_key
        target = home.artifact(recipe.name, partition, "errors")
        evaluation = home.artifact(recipe.name, partition, "evaluation")
        facts = required(evaluation, f"{recipe.name}/evaluation")
        made_from = errors_fingerprint(facts["seal"])
        predictions = error_predictions(evaluation)
        with warehouse.connect(context) as con:
            refuse_old_answers(recipe.name, facts, examples_made(con, recipe.name))
            unchanged = (
                stands(target, made_from, anew=config.drop_existing) and built(con, f"{recipe.name}.errors") is not None
            )
            analysis = None if unchanged else analyse_errors(con, recipe.name, predictions)
        if analysis is not None:
            with making(target, made_from) as (folder, _):
                write_analysis(analysis, folder / ERRORS)
        analysis = read_analysis(target / ERRORS)
        return dg.MaterializeResult(
            metadata={
                "findings": dg.MetadataValue.md(findings_table(analysis)),
                "table": f"{recipe.name}.errors",
                "unchanged": unchanged,
                "fingerprint": made_from,
            },
            data_version=dg.DataVersion(made_from),
        )

    return errors


def report_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """One page for people."""

    @dg.asset(
        key=[recipe.name, "report"],
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        deps=[[recipe.name, name] for name in ("evaluation", "errors")],
        kinds={"mlflow"},
        code_version="1",
    )
    @launched_with("report", settings)
    def report(context: dg.AssetExecutionContext, config: LaunchConfig, home: Home) -> dg.MaterializeResult:
        """Everything that was measured on one HTML page with its pictures; also in the adapter's MLflow run."""
        partition = context.partition_key
        target = home.artifact(recipe.name, partition, "report")
        folders = {name: home.artifact(recipe.name, partition, name) for name in ("adapter", "evaluation", "errors")}
        base = chosen_base(home.artifact(recipe.name, partition, "base_model"), recipe.name)
        page = write_page(home.path, recipe.name, partition, base, folders, target, anew=config.drop_existing)
        adapter_facts = required(folders["adapter"], f"{recipe.name}/adapter")
        if not (target / LOGGED).exists():
            if log_evaluation(adapter_facts["mlflow_uri"], adapter_facts["mlflow_run"], page.metrics, target):
                (target / LOGGED).touch()
            else:
                context.log.warning("not in MLflow: see the warning above; materialize again to log it")
        return dg.MaterializeResult(
            metadata={
                "page": dg.MetadataValue.path((target / PAGE).resolve()),
                "megabytes": round((target / PAGE).stat().st_size / 1e6, 2),
                **mlflow_metadata(adapter_facts),
                **{name: picture(png, name.replace("_", " ")) for name, png in page.pictures.items()},
                "unchanged": page.unchanged,
                "fingerprint": page.fingerprint,
            },
            data_version=dg.DataVersion(page.fingerprint),
        )

    return report
