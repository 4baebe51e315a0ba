"""Dagster assets of recipe `consult` around the factory's: conversations, conversion, comparison, rating sheet."""

from collections.abc import Mapping

import dagster as dg
from pydantic import BaseModel

from medcode_assets.artifacts import required, stands
from medcode_assets.config import EvaluationSettings
from medcode_assets.launchpad import LaunchConfig, launched_with_sections, read
from medcode_assets.metadata import markdown_table, picture, table_metadata
from medcode_assets.partitions import check_results, checks_each_version
from medcode_assets.recipes.answering import alone_answering, discard_parts, parts_to_fill
from medcode_assets.recipes.consult.comparing import candidates, compare_models, compared_fingerprint
from medcode_assets.recipes.consult.converted import (
    BLOCKING,
    CHECKS,
    DATASET,
    check_converted,
    convert_source,
    measure_rows,
    to_convert,
)
from medcode_assets.recipes.consult.converting.convert import JOURNAL, conversion_fingerprint
from medcode_assets.recipes.consult.questions import (
    QUESTIONS_OF_EACH_SPLIT,
    ROWS,
    load_converted,
    make_conversations,
    read_rows,
)
from medcode_assets.recipes.consult.rating import SHEET, make_rating_sheet, sheet_fingerprint
from medcode_assets.recipes.consult.recipe import CONSULT, NAME
from medcode_assets.recipes.consult.settings import ConsultSection, ConsultSettings
from medcode_assets.recipes.consult.sources import source_fingerprint
from medcode_assets.recipes.fitting import chosen_base
from medcode_assets.recipes.words.assets import words_of
from medcode_assets.recipes.words.measuring import read_word_report, word_table
from medcode_assets.recipes.words.plots import word_bars
from medcode_assets.resources.compute import GPU, Compute, gpu_tags
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse
from medcode_serving.bundle import DecodingSettings

CONVERSATIONS = dg.AssetKey([NAME, "conversations"])
CONVERTED = dg.AssetKey([NAME, "converted"])
COMPARISON = dg.AssetKey([NAME, "comparison"])
RATING_SHEET = dg.AssetKey([NAME, "rating_sheet"])
EVALUATION = dg.AssetKey([NAME, "evaluation"])


def own_sections(settings: ConsultSettings) -> dict[dg.AssetKey, dict[str, BaseModel]]:
    """Return the sections of settings that each asset of this module reads."""
    own: dict[str, BaseModel] = {NAME: settings.consult}
    return {
        CONVERSATIONS: own,
        CONVERTED: own,
        COMPARISON: {**own, "evaluation": settings.evaluation},
        RATING_SHEET: own,
    }


def own_assets(settings: ConsultSettings) -> list[dg.AssetsDefinition]:
    """Return the assets of this module; the settings are the launchpad's defaults."""
    sections = own_sections(settings)
    return [
        conversations_asset(sections[CONVERSATIONS]),
        converted_asset(sections[CONVERTED]),
        comparison_asset(settings, sections[COMPARISON]),
        rating_sheet_asset(sections[RATING_SHEET]),
    ]


def conversations_asset(sections: Mapping[str, BaseModel]) -> dg.AssetsDefinition:
    """What patients asked and doctors answered."""

    @dg.asset(
        key=CONVERSATIONS, group_name=NAME, partitions_def=CONSULT.partitions, kinds={"parquet"}, code_version="1"
    )
    @launched_with_sections("conversations", sections)
    def conversations(context: dg.AssetExecutionContext, config: LaunchConfig, home: Home) -> dg.MaterializeResult:
        """Rows of the source, read once and kept; those without a question or an answer left out and counted."""
        section = read(config, NAME, ConsultSection)
        target = home.artifact(NAME, context.partition_key, "conversations")
        made_from = source_fingerprint(section)
        unchanged = stands(target, made_from, anew=config.drop_existing)
        if not unchanged:
            make_conversations(section, home.path / "cache" / "datasets", target, made_from)
        facts = required(target, f"{NAME}/conversations")
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": facts["counts"]["kept"],
                "counts": markdown_table(["rows", "number"], list(facts["counts"].items())),
                "converted_already": facts["converted"],
                "unchanged": unchanged,
                "fingerprint": made_from,
            },
            data_version=dg.DataVersion(facts["content"]),
        )

    return conversations


def converted_asset(sections: Mapping[str, BaseModel]) -> dg.AssetsDefinition:
    """The doctors' answers as hierarchical lists, and the questions that are learned."""

    @dg.asset(
        key=CONVERTED,
        group_name=NAME,
        partitions_def=CONSULT.partitions,
        deps=[CONVERSATIONS],
        kinds={"duckdb", "huggingface"},
        code_version="1",
        check_specs=checks_each_version(CONVERTED, CHECKS, blocking=BLOCKING, partitions=CONSULT.partitions),
    )
    @launched_with_sections("converted", sections)
    def converted(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        """Each doctor's answer as a hierarchical list; rows that got no reply from the model are asked for again."""
        partition = context.partition_key
        section = read(config, NAME, ConsultSection)
        target = home.artifact(NAME, partition, "converted")
        source = home.artifact(NAME, partition, "conversations")
        read_before = required(source, f"{NAME}/conversations")
        made_from = conversion_fingerprint(read_before["content"], section)
        with alone_answering(target, context.run_id, context.log.warning):
            unchanged = not to_convert(target, made_from, anew=config.drop_existing)
            if not unchanged:
                journal = home.artifact(NAME, partition, "converting") / made_from[:12] / JOURNAL
                convert_source(source, section, journal, target, made_from, anew=config.drop_existing)
        facts = required(target, f"{NAME}/converted")
        if facts["unanswered"]:
            why = f" ({facts['failures']})" if facts.get("failures") else ""
            context.log.warning(f"{facts['unanswered']:,} rows got no reply{why}; materialize again to ask for them")
        rows = read_rows(target / ROWS)
        with warehouse.connect(context) as con:
            built = load_converted(con, rows, section, read_before, rebuild=config.drop_existing)
            metadata = table_metadata(con, built, QUESTIONS_OF_EACH_SPLIT)
        checks = check_converted(read_rows(source / ROWS), rows, facts["measured"], section)
        return dg.MaterializeResult(
            metadata={
                **metadata,
                "structure": markdown_table(["measure", "value"], measure_rows(facts["measured"])),
                "levels": markdown_table(["levels", "answers"], list(facts["measured"]["levels"].items())),
                "dataset": dg.MetadataValue.path((target / DATASET).resolve()),
                "unchanged": unchanged,
            },
            data_version=dg.DataVersion(built.fingerprint),
            check_results=check_results(checks, blocking=BLOCKING),
        )

    return converted


def comparison_asset(settings: ConsultSettings, sections: Mapping[str, BaseModel]) -> dg.AssetsDefinition:
    """Base and instruct models beside the adapter."""

    @dg.asset(
        key=COMPARISON,
        group_name=NAME,
        partitions_def=CONSULT.partitions,
        deps=[EVALUATION],
        kinds={"pytorch"},
        pool=GPU,
        op_tags=gpu_tags(settings.compute, gpus=1),
        code_version="1",
    )
    @launched_with_sections("comparison", sections)
    def comparison(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, compute: Compute
    ) -> dg.MaterializeResult:
        """Untuned base and instruct models (consult.compare_models) asked the test split, beside the adapter."""
        partition = context.partition_key
        section = read(config, NAME, ConsultSection)
        target = home.artifact(NAME, partition, "comparison")
        evaluation = home.artifact(NAME, partition, "evaluation")
        evaluated = required(evaluation, f"{NAME}/evaluation")
        base = chosen_base(home.artifact(NAME, partition, "base_model"), NAME)
        others = candidates(section.compare_models, base, home.base_models)
        made_from = compared_fingerprint(evaluated["seal"], others)
        with alone_answering(target, context.run_id, context.log.warning):
            unchanged = stands(target, made_from, anew=config.drop_existing)
            if not unchanged:
                parts = parts_to_fill(
                    home.answering(NAME, partition, "comparison", made_from), anew=config.drop_existing
                )
                compare_models(
                    evaluation,
                    others,
                    words_of(CONSULT),
                    target,
                    parts,
                    made_from=made_from,
                    decoding=DecodingSettings(**evaluated["decoding"]),
                    batch_size=read(config, "evaluation", EvaluationSettings).batch_size,
                    device=compute.settings.device,
                )
                discard_parts(parts)
        report = read_word_report(target)
        return dg.MaterializeResult(
            metadata={
                "results": dg.MetadataValue.md(word_table(report)),
                "picture": picture(word_bars(report), "models side by side"),
                "unchanged": unchanged,
                "fingerprint": made_from,
            },
            data_version=dg.DataVersion(made_from),
        )

    return comparison


def rating_sheet_asset(sections: Mapping[str, BaseModel]) -> dg.AssetsDefinition:
    """What people are given to rate."""

    @dg.asset(
        key=RATING_SHEET,
        group_name=NAME,
        partitions_def=CONSULT.partitions,
        deps=[EVALUATION],
        kinds={"csv"},
        code_version="1",
    )
    @launched_with_sections("rating_sheet", sections)
    def rating_sheet(context: dg.AssetExecutionContext, config: LaunchConfig, home: Home) -> dg.MaterializeResult:
        """A blinded CSV for human raters: question, answers A and B, empty columns. The key lies beside it, apart."""
        section = read(config, NAME, ConsultSection)
        target = home.artifact(NAME, context.partition_key, "rating_sheet")
        evaluation = home.artifact(NAME, context.partition_key, "evaluation")
        seal = required(evaluation, f"{NAME}/evaluation")["seal"]
        made_from = sheet_fingerprint(seal, section.rated, section.seed)
        unchanged = stands(target, made_from, anew=config.drop_existing)
        if not unchanged:
            make_rating_sheet(evaluation, target, made_from=made_from, rated=section.rated, seed=section.seed)
        facts = required(target, f"{NAME}/rating_sheet")
        return dg.MaterializeResult(
            metadata={
                "questions": facts["rated"],
                "sheet": dg.MetadataValue.path((target / SHEET).resolve()),
                "then": f"medcode consult ratings --name {context.partition_key} FILE FILE ...",
                "unchanged": unchanged,
            },
            data_version=dg.DataVersion(made_from),
        )

    return rating_sheet
