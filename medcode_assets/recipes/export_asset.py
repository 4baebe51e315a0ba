"""Dagster asset of a recipe: gguf."""

import dagster as dg

from medcode_assets.artifacts import required
from medcode_assets.config import ExportSettings, Settings
from medcode_assets.export.exporting import bundle_folder, export_gguf
from medcode_assets.export.table import report_rows
from medcode_assets.export.validation import invented_sample, measured
from medcode_assets.launchpad import LaunchConfig, launched_with, read
from medcode_assets.metadata import markdown_table
from medcode_assets.partitions import check_each_version
from medcode_assets.recipes.bundling import bundle_version
from medcode_assets.recipes.exporting import SPLIT_CHANGED, UNMEASURED, validation_sample
from medcode_assets.recipes.fitting import chosen_base
from medcode_assets.recipes.recipe import Recipe
from medcode_assets.resources.compute import GPU
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse
from medcode_assets.warehouse import fingerprint
from medcode_serving.bundle import open_bundle


def gguf_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """The merged model as GGUF files, one a number format."""
    key = dg.AssetKey([recipe.name, "gguf"])

    @dg.asset(
        key=key,
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        deps=[[recipe.name, "bundle"]],
        pool=GPU,
        code_version="2",
        check_specs=[
            check_each_version(
                key,
                "answers_like_the_merged_model",
                "Weights, tokenization, next-token distributions"
                f"{'' if recipe.words else ' and micro F1'} of every file, against the merged model.",
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
        export = read(config, "export", ExportSettings)
        base = chosen_base(home.artifact(recipe.name, partition, "base_model"), recipe.name)
        evaluated = required(home.artifact(recipe.name, partition, "evaluation"), f"{recipe.name}/evaluation")
        bundle = open_bundle(home.bundles / recipe.name / bundle_version(partition, base, evaluated))
        with warehouse.connect(context, read_only=True) as con:
            f1_notes = export.f1_notes if recipe.words is None else 0  # answers in words have none
            sample = validation_sample(con, bundle, base, prompts=export.prompts, f1_notes=f1_notes)
        if sample is None:
            context.log.warning(SPLIT_CHANGED + (UNMEASURED if recipe.words is None else ""))
            sample = invented_sample(bundle, export.prompts)
        done = export_gguf(
            bundle,
            base,
            export.quantizations,
            target=bundle_folder(bundle),
            sample=sample,
            most_f1_lost=export.most_f1_lost,
            anew=config.drop_existing,
            on_wait=context.log.warning,
        )
        headings, *rows = report_rows(done.reports)
        check = {"problems": "; ".join(done.problems), **measured(sample, done.reports)}
        if f1_notes and not check["f1_notes"]:
            check["micro_f1"] = f"not measured, although export.f1_notes is {export.f1_notes}"
            context.log.warning(f"micro F1 {check['micro_f1']}")
        return dg.MaterializeResult(
            metadata={
                "files": markdown_table(list(headings), rows),
                "folder": dg.MetadataValue.path(done.folder),
                "version": bundle.manifest.version,
                "verification": dg.MetadataValue.json([report.as_json() for report in done.reports]),
                "unchanged": done.unchanged,
            },
            data_version=dg.DataVersion(fingerprint(files=done.checksums)),
            check_results=[dg.AssetCheckResult(passed=done.manifest is not None, metadata=check)],
        )

    return gguf
