"""Dagster assets of recipe `specialty`: samples before the factory's chain; results, advice and progress behind it."""

from collections.abc import Mapping
from functools import partial

import dagster as dg
from pydantic import BaseModel

from medcode_assets.artifacts import making, required, stands
from medcode_assets.launchpad import LaunchConfig, launched_with_sections, read
from medcode_assets.metadata import markdown_table, picture
from medcode_assets.partitions import check_results, checks_each_version
from medcode_assets.recipes.fitting import chosen_base
from medcode_assets.recipes.specialty.drawing import CHECKS, as_questions, check_samples, fill_samples, plan
from medcode_assets.recipes.specialty.iterations import iteration_of
from medcode_assets.recipes.specialty.progress import (
    PICTURE,
    STEP_COLUMNS,
    collect_progress,
    progress_fingerprint,
    read_progress,
    specialty_rows,
    step_rows,
    write_progress,
)
from medcode_assets.recipes.specialty.recipe import NAME, SPECIALTY
from medcode_assets.recipes.specialty.recommending import (
    RECOMMENDATIONS,
    read_recommendations,
    recommend,
    recommendations_fingerprint,
    recommended_rows,
    write_recommendations,
)
from medcode_assets.recipes.specialty.results import (
    OVERALL_PNG,
    SPECIALTY_PNG,
    comparison_rows,
    read_results,
    results_fingerprint,
    results_rows,
    write_results,
)
from medcode_assets.recipes.specialty.sample_files import (
    SAMPLE_COLUMNS,
    read_samples,
    read_statistics,
    sample_rows,
)
from medcode_assets.recipes.specialty.sampling import counts
from medcode_assets.recipes.specialty.settings import SpecialtySection, SpecialtySettings
from medcode_assets.recipes.words.questions import load_questions
from medcode_assets.resources.compute import Compute
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse

SAMPLES = dg.AssetKey([NAME, "samples"])
RESULTS = dg.AssetKey([NAME, "results"])
ADVICE = dg.AssetKey([NAME, RECOMMENDATIONS])
PROGRESS = dg.AssetKey([NAME, "progress"])


def own_sections(settings: SpecialtySettings) -> dict[dg.AssetKey, dict[str, BaseModel]]:
    """Return the sections of settings that each asset of this module reads."""
    return {key: {NAME: settings.specialty} for key in (SAMPLES, RESULTS, ADVICE, PROGRESS)}


def own_assets(settings: SpecialtySettings) -> list[dg.AssetsDefinition]:
    """Return the assets of this module; the settings are the launchpad's defaults."""
    sections = own_sections(settings)
    return [
        samples_asset(sections[SAMPLES]),
        results_asset(sections[RESULTS]),
        recommendations_asset(sections[ADVICE]),
        progress_asset(sections[PROGRESS]),
    ]


def samples_asset(sections: Mapping[str, BaseModel]) -> dg.AssetsDefinition:
    """What an iteration trains on and is measured with."""

    @dg.asset(
        key=SAMPLES,
        group_name=NAME,
        partitions_def=SPECIALTY.partitions,
        kinds={"json", "duckdb"},
        code_version="1",
        check_specs=checks_each_version(SAMPLES, CHECKS, blocking=CHECKS, partitions=SPECIALTY.partitions),
    )
    @launched_with_sections("samples", sections)
    def samples(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        """Holdout and eval of iteration 1, its training samples, and those that were added from the pool since."""
        iteration = iteration_of(context.partition_key)
        folder = partial(home.artifact, NAME)
        target = folder(iteration.key, "samples")
        planned = plan(iteration, read(config, NAME, SpecialtySection), folder)
        unchanged = stands(target, planned.fingerprint, anew=config.drop_existing)
        if not unchanged:
            with making(target, planned.fingerprint) as (aside, found):
                found.update(fill_samples(planned, aside))
        facts, drawn = required(target, f"{NAME}/samples"), read_samples(target)
        for name in facts["pool_exhausted"]:
            context.log.warning(f"specialty {name}: its pool has fewer samples than were wanted; see statistics.json")
        recorded = {"release": f"{NAME} {iteration.key}", "sources": facts["files"]}
        with warehouse.connect(context) as con:
            load_questions(con, NAME, as_questions(drawn), facts["contents"], recorded, rebuild=config.drop_existing)
        told = read_statistics(target)
        return dg.MaterializeResult(
            metadata={
                "statistics": markdown_table(SAMPLE_COLUMNS, sample_rows(told)),
                **{f"{name}_samples": told["all"][name] for name in ("train", "added", "pool")},
                "path": dg.MetadataValue.path(target.resolve()),
                "unchanged": unchanged,
                "fingerprint": planned.fingerprint,
            },
            data_version=dg.DataVersion(facts["contents"]),
            check_results=check_results(check_samples(drawn, facts), blocking=CHECKS),
        )

    return samples


def results_asset(sections: Mapping[str, BaseModel]) -> dg.AssetsDefinition:
    """Base against tuned."""

    @dg.asset(
        key=RESULTS,
        group_name=NAME,
        partitions_def=SPECIALTY.partitions,
        deps=[[NAME, "evaluation"]],
        kinds={"csv"},
        code_version="1",
    )
    @launched_with_sections("results", sections)
    def results(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, compute: Compute
    ) -> dg.MaterializeResult:
        """Both models on the holdout by every text metric: per answer, per specialty and over all; CSVs, pictures."""
        section = read(config, NAME, SpecialtySection)
        folder = partial(home.artifact, NAME, context.partition_key)
        target = folder("results")
        made_from = results_fingerprint(required(folder("evaluation"), f"{NAME}/evaluation")["seal"], section)
        unchanged = stands(target, made_from, anew=config.drop_existing)
        if not unchanged:
            base = chosen_base(folder("base_model"), NAME)
            with making(target, made_from) as (aside, _):
                write_results(
                    aside,
                    folder("evaluation"),
                    section,
                    base_model=base.id,
                    cache=home.base_models,
                    device=compute.settings.device,
                )
        found = read_results(target)
        overall = found.overall.metric(section.measure)
        compared = ["untuned base", "tuned", "difference [95 %]"]
        return dg.MaterializeResult(
            metadata={
                "metrics": markdown_table(["metric", *compared, "p"], comparison_rows(found)),
                "specialties": markdown_table(
                    ["specialty", "answers", *compared], results_rows(found, section.measure)
                ),
                "picture": picture((target / OVERALL_PNG).read_bytes(), "every metric of both models"),
                "by_specialty": picture((target / SPECIALTY_PNG).read_bytes(), "both models by specialty"),
                "not_measured": dg.MetadataValue.json(found.skipped),
                f"tuned_{section.measure}": overall.finetuned.value,
                f"untuned_{section.measure}": overall.base.value,
                "path": dg.MetadataValue.path(target.resolve()),
                "unchanged": unchanged,
                "fingerprint": made_from,
            },
            data_version=dg.DataVersion(made_from),
        )

    return results


def recommendations_asset(sections: Mapping[str, BaseModel]) -> dg.AssetsDefinition:
    """What the next iteration starts from."""

    @dg.asset(
        key=ADVICE,
        group_name=NAME,
        partitions_def=SPECIALTY.partitions,
        deps=[RESULTS, SAMPLES],
        kinds={"json"},
        code_version="1",
    )
    @launched_with_sections(RECOMMENDATIONS, sections)
    def recommendations(context: dg.AssetExecutionContext, config: LaunchConfig, home: Home) -> dg.MaterializeResult:
        """Which specialties are weak, and how many more samples each should get: training_recommendations.json."""
        section = read(config, NAME, SpecialtySection)
        folder = partial(home.artifact, NAME, context.partition_key)
        target, drawn = folder(RECOMMENDATIONS), required(folder("samples"), f"{NAME}/samples")
        measured = required(folder("results"), f"{NAME}/results")
        made_from = recommendations_fingerprint(measured["seal"], drawn["contents"], section)
        unchanged = stands(target, made_from, anew=config.drop_existing)
        if not unchanged:
            with making(target, made_from) as (aside, facts):
                found = recommend(read_results(folder("results")), counts(read_samples(folder("samples"))), section)
                write_recommendations(aside, found)
                facts["samples"] = drawn["contents"]
        found = read_recommendations(target)
        return dg.MaterializeResult(
            metadata={
                "weak": markdown_table(*recommended_rows(found)),
                "rule": dg.MetadataValue.json(found.rule.model_dump()),
                "weak_specialties": len(found.low_performance_specialties),
                "overall_improvement": found.overall_improvement,
                "path": dg.MetadataValue.path(target.resolve()),
                "unchanged": unchanged,
                "fingerprint": made_from,
            },
            data_version=dg.DataVersion(made_from),
        )

    return recommendations


def progress_asset(sections: Mapping[str, BaseModel]) -> dg.AssetsDefinition:
    """All iterations so far."""

    @dg.asset(
        key=PROGRESS,
        group_name=NAME,
        partitions_def=SPECIALTY.partitions,
        deps=[SAMPLES, RESULTS, ADVICE],
        code_version="1",
    )
    @launched_with_sections("progress", sections)
    def progress(context: dg.AssetExecutionContext, config: LaunchConfig, home: Home) -> dg.MaterializeResult:
        """Iterations 1 to this one: each specialty's measure and its training samples."""
        measure = read(config, NAME, SpecialtySection).measure
        iteration, folder = iteration_of(context.partition_key), partial(home.artifact, NAME)
        target = folder(iteration.key, "progress")
        made_from = progress_fingerprint(iteration, measure, folder)
        unchanged = stands(target, made_from, anew=config.drop_existing)
        if not unchanged:
            with making(target, made_from) as (aside, _):
                write_progress(aside, collect_progress(iteration, measure, folder))
        found = read_progress(target)
        for warning in found.warnings:
            context.log.warning(warning)
        return dg.MaterializeResult(
            metadata={
                "iterations": markdown_table(STEP_COLUMNS, step_rows(found)),
                "specialties": markdown_table(*specialty_rows(found)),
                "picture": picture((target / PICTURE).read_bytes(), "each specialty over the iterations"),
                "warnings": "; ".join(found.warnings) or "none",
                "unchanged": unchanged,
                "fingerprint": made_from,
            },
            data_version=dg.DataVersion(made_from),
        )

    return progress
