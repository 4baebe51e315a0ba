"""Dagster assets of recipe `reasoning`: its corpus, its three stages, their comparison, and the adapter that goes on.

The factory's assets stand around them: examples, base_model and tokens before, baselines and evaluation behind.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import BaseModel
from tqdm import tqdm

from medcode_assets.artifacts import link_or_copy, making, required, stands
from medcode_assets.config import DataSettings, EvaluationSettings, LoggingSettings, Settings
from medcode_assets.evaluation.plots import loss_curve
from medcode_assets.launchpad import (
    LaunchConfig,
    launched_with_sections,
    read,
    sections_config,
    sections_of,
)
from medcode_assets.metadata import markdown_table, mlflow_metadata, picture
from medcode_assets.partitions import check_results, checks_each_version
from medcode_assets.recipes.answering import alone_answering
from medcode_assets.recipes.fitting import alone_in, chosen_base, discard_training, fit_adapter, trained_limits
from medcode_assets.recipes.reasoning.comparing import (
    COMPARISON,
    PAGE,
    compare_stages,
    comparison_data,
    comparison_fingerprint,
)
from medcode_assets.recipes.reasoning.comparison import comparison_table, read_comparison
from medcode_assets.recipes.reasoning.comparison_plots import stage_bars
from medcode_assets.recipes.reasoning.corpus.build import build_corpus, corpus_fingerprint
from medcode_assets.recipes.reasoning.corpus.mimic import mimic_fingerprint, mimic_lines
from medcode_assets.recipes.reasoning.examples import load_stage
from medcode_assets.recipes.reasoning.inspecting import BLOCKING, CHECKS, check_corpus, corpus_tables
from medcode_assets.recipes.reasoning.recipe import REASONING, STAGES
from medcode_assets.recipes.reasoning.settings import ReasoningSettings, StageSettings
from medcode_assets.recipes.reasoning.staging import (
    stage_fingerprint,
    stage_job,
    stage_limits,
    write_stage_tokens,
)
from medcode_assets.recipes.recipe import Stage
from medcode_assets.resources.compute import GPU, Compute, gpu_tags
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse
from medcode_assets.training.settings import LoraSettings, PreferenceSettings, TrainingSettings
from medcode_assets.warehouse import fingerprint
from medcode_serving.codes.tables import code_tables

NAME = REASONING.name
CORPUS = dg.AssetKey([NAME, "corpus"])
COMPARED = dg.AssetKey([NAME, "stages"])
ADAPTER = dg.AssetKey([NAME, "adapter"])
GATES = {
    "stage_1_better": "Stage 1 finds the code more often than the untuned base.",
    "stage_2_better": "Stage 2 gives valid reasoning in over 90 % of its answers, and more often than stage 1.",
    "stage_3_better": "Stage 3 prefers the better answer more often than stage 2 does.",
    "nothing_lost": "Stages 2 and 3 lose no more than 0.05 of accuracy and valid reasoning against the one before.",
}
GATES_OF = {
    "stage_1_better": ("stage_1_above_untuned_base", "stage_1_above_frequency_prior"),
    "stage_2_better": ("stage_2_reasons", "stage_2_above_stage_1"),
    "stage_3_better": ("stage_3_prefers",),
    "nothing_lost": ("stage_2_keeps_accuracy", "stage_3_keeps_accuracy", "stage_3_keeps_reasoning"),
}
"""The comparison's gates behind each check."""
STAGE_SECTIONS = ("data", "lora", "training", "preference", "logging")


def own_sections(settings: Mapping[int, StageSettings]) -> dict[dg.AssetKey, dict[str, BaseModel]]:
    """Return the sections of settings that each asset of this module reads."""
    return {
        CORPUS: {f"stage_{stage}": found.reasoning for stage, found in settings.items()},
        **{
            dg.AssetKey([NAME, stage.name]): {name: getattr(settings[stage.number], name) for name in STAGE_SECTIONS}
            for stage in STAGES
        },
        COMPARED: {"evaluation": settings[STAGES[-1].number].evaluation},
        ADAPTER: {},
    }


def reasoning_config(
    assets: Sequence[dg.AssetKey], settings: Mapping[int, StageSettings], *, drop_existing: bool = False
) -> dict[str, Any]:
    """Return the run config that gives assets of the recipe the stages' settings."""
    own, last = own_sections(settings), settings[STAGES[-1].number]
    sections = {key: own[key] if key in own else sections_of(key.path[-1], last) for key in assets}
    return sections_config(sections, drop_existing=drop_existing)


def own_assets(settings: Mapping[int, StageSettings]) -> list[dg.AssetsDefinition]:
    """Return the assets of this module; the settings are the launchpad's defaults."""
    sections = own_sections(settings)
    last = settings[STAGES[-1].number]
    return [
        corpus_asset(sections[CORPUS]),
        *(stage_asset(stage, settings[stage.number], sections) for stage in STAGES),
        comparison_asset(last, sections[COMPARED]),
        adapter_asset(),
    ]


def corpus_asset(sections: Mapping[str, BaseModel]) -> dg.AssetsDefinition:
    """What all stages learn from."""

    @dg.asset(
        key=CORPUS,
        group_name=NAME,
        partitions_def=REASONING.partitions,
        kinds={"duckdb", "json"},
        code_version="1",
        check_specs=checks_each_version(CORPUS, CHECKS, blocking=BLOCKING, partitions=REASONING.partitions),
    )
    @launched_with_sections("corpus", sections)
    def corpus(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        """Sources mixed, checked, de-duplicated and split: JSONL files of the three stages, and their tables."""
        chosen = {stage.number: read(config, stage.name, ReasoningSettings) for stage in STAGES}
        target = home.artifact(NAME, context.partition_key, "corpus")
        made_from = corpus_fingerprint(chosen, mimic=lambda name: mimic_fingerprint(warehouse.file(name)))
        unchanged = stands(target, made_from, anew=config.drop_existing)
        if not unchanged:
            described = chosen[1].cpt_descriptions
            tables = code_tables(Path(described) if described else None)
            with making(target, made_from) as (folder, facts), tqdm(desc="corpus", unit="line", delay=1) as bar:

                def on_progress(step: str, done: int, total: int) -> None:
                    bar.set_description(step)
                    bar.total, bar.n = total, done
                    bar.refresh()

                found = build_corpus(
                    chosen,
                    folder / "corpus",
                    tables=tables,
                    mimic=lambda name: mimic_lines(warehouse.file(name)),
                    on_progress=on_progress,
                )
                facts.update(check_corpus(folder / "corpus", chosen, tables), corpus=found.model_dump(mode="json"))
        facts = required(target, f"{NAME}/corpus")
        with warehouse.connect(context) as con:
            for stage in STAGES:
                load_stage(con, stage.number, target / "corpus", rebuild=config.drop_existing)
        return dg.MaterializeResult(
            metadata={
                **{name: markdown_table(*table) for name, table in corpus_tables(facts["corpus"]).items()},
                "reports": dg.MetadataValue.path((target / "corpus").resolve()),
                "unchanged": unchanged,
                "fingerprint": made_from,
            },
            data_version=dg.DataVersion(made_from),
            check_results=check_results(facts["checks"], blocking=BLOCKING),
        )

    return corpus


def stage_asset(
    stage: Stage, settings: StageSettings, sections: Mapping[dg.AssetKey, Mapping[str, BaseModel]]
) -> dg.AssetsDefinition:
    """One stage's adapter."""
    key = dg.AssetKey([NAME, stage.name])
    before = next((earlier for earlier in STAGES if earlier.number == stage.number - 1), None)

    @dg.asset(
        key=key,
        group_name=NAME,
        partitions_def=REASONING.partitions,
        deps=[CORPUS, [NAME, "base_model"], *([[NAME, before.name]] if before else [])],
        kinds={"pytorch", "mlflow"},
        pool=GPU,
        op_tags=gpu_tags(settings.compute),
        code_version="1",
        description=f"The adapter that learned {stage.learns}"
        + (f", starting from {before.name}'s." if before else "."),
    )
    @launched_with_sections(stage.name, sections[key])
    def adapter(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, warehouse: Warehouse, compute: Compute
    ) -> dg.MaterializeResult:
        partition = context.partition_key
        target = home.artifact(NAME, partition, stage.name)
        base = chosen_base(home.artifact(NAME, partition, "base_model"), NAME)
        chosen = _stage_settings(settings, config, compute)
        start = home.artifact(NAME, partition, before.name) if before else None
        seal = required(start, f"{NAME}/{start.name}")["seal"] if start else None
        with alone_in(target, context.run_id, context.log.warning):
            with warehouse.connect(context, read_only=True) as con:
                made_from = stage_fingerprint(con, stage, base, chosen, seal)
                unchanged = stands(target, made_from, anew=config.drop_existing)
                folder = home.training(NAME, partition, made_from)
                if config.drop_existing:
                    discard_training(folder)
                if not unchanged:
                    most = chosen.data.max_prompt_tokens
                    lengths = write_stage_tokens(con, stage, base, most, folder)
            if not unchanged:
                fit_adapter(
                    stage_job(stage, base, made_from, chosen, start / "weights" if start else None),
                    folder,
                    target,
                    decoding=stage_limits(stage, most, lengths),
                    train=lambda: compute.train(context, folder),
                    home=home.path,
                    tags={
                        "medcode.partition": partition,
                        "medcode.stage": str(stage.number),
                        "medcode.dagster_run": context.run_id,
                    },
                    warn=context.log.warning,
                )
        return dg.MaterializeResult(
            metadata={**_training_metadata(required(target, stage.name)), "unchanged": unchanged},
            data_version=dg.DataVersion(made_from),
        )

    return adapter


def _stage_settings(settings: StageSettings, config: LaunchConfig, compute: Compute) -> StageSettings:
    """Return a stage's settings as the launchpad has them."""
    return settings.model_copy(
        update={
            "compute": compute.settings,
            "data": read(config, "data", DataSettings),
            "lora": read(config, "lora", LoraSettings),
            "training": read(config, "training", TrainingSettings),
            "preference": read(config, "preference", PreferenceSettings),
            "logging": read(config, "logging", LoggingSettings),
        }
    )


def _training_metadata(facts: dict[str, Any]) -> dict[str, Any]:
    hidden = {"losses", "validation", "decoding", "settings", "seal", "mlflow_link"}
    return {
        **{name: value for name, value in facts.items() if value is not None and name not in hidden},
        **mlflow_metadata(facts),
        "settings": dg.MetadataValue.json(facts["settings"]),
        "loss": picture(loss_curve(facts["losses"], facts["validation"]), "training loss"),
    }


def comparison_asset(settings: Settings, sections: Mapping[str, BaseModel]) -> dg.AssetsDefinition:
    """The stages side by side."""

    @dg.asset(
        key=COMPARED,
        group_name=NAME,
        partitions_def=REASONING.partitions,
        deps=[[NAME, "examples"], [NAME, "tokens"], *([NAME, stage.name] for stage in STAGES)],
        kinds={"pytorch"},
        pool=GPU,
        op_tags=gpu_tags(settings.compute, gpus=1),
        code_version="1",
        check_specs=checks_each_version(COMPARED, GATES, partitions=REASONING.partitions),
    )
    @launched_with_sections("stages", sections)
    def stages(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, warehouse: Warehouse, compute: Compute
    ) -> dg.MaterializeResult:
        """What each stage writes freely on the test split, and which answers it prefers: is each better than before?"""
        partition = context.partition_key
        target = home.artifact(NAME, partition, "stages")
        base = chosen_base(home.artifact(NAME, partition, "base_model"), NAME)
        evaluation = read(config, "evaluation", EvaluationSettings)
        adapters = {stage.number: home.artifact(NAME, partition, stage.name) for stage in STAGES}
        seals = [required(folder, f"{NAME}/{folder.name}")["seal"] for folder in adapters.values()]
        with alone_answering(target, context.run_id, context.log.warning):
            with warehouse.connect(context, read_only=True) as con:
                made_from = comparison_fingerprint(con, base, seals, evaluation)
                unchanged = stands(target, made_from, anew=config.drop_existing)
                data = None if unchanged else comparison_data(con, base, evaluation.max_documents)
            if data is not None:
                compare_stages(data, target, made_from, base, adapters, evaluation, compute.settings.device, partition)
        found = read_comparison(target / COMPARISON)
        return dg.MaterializeResult(
            metadata={
                "results": dg.MetadataValue.md(comparison_table(found)),
                "picture": picture(stage_bars(found), "the stages' measures"),
                "page": dg.MetadataValue.path((target / PAGE).resolve()),
                "unchanged": unchanged,
                "fingerprint": made_from,
            },
            data_version=dg.DataVersion(made_from),
            check_results=[
                dg.AssetCheckResult(
                    check_name=name,
                    passed=bool(gates) and all(gate.passed for gate in gates),
                    severity=dg.AssetCheckSeverity.WARN,
                    metadata={"reason": "; ".join(gate.reason for gate in gates) or "not measured"},
                )
                for name in GATES
                for gates in [[gate for gate in found.gates if gate.name in GATES_OF[name]]]
            ],
        )

    return stages


def adapter_asset() -> dg.AssetsDefinition:
    """The last stage's adapter, as what is evaluated and served."""

    @dg.asset(
        key=ADAPTER,
        group_name=NAME,
        partitions_def=REASONING.partitions,
        deps=[[NAME, STAGES[-1].name], [NAME, "tokens"]],
        code_version="1",
    )
    @launched_with_sections("adapter", {})
    def adapter(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        """The adapter of the last stage, with the limits of the tokens: what evaluation and bundle take."""
        partition = context.partition_key
        target, source = (home.artifact(NAME, partition, name) for name in ("adapter", STAGES[-1].name))
        stage = required(source, f"{NAME}/{source.name}")
        base = chosen_base(home.artifact(NAME, partition, "base_model"), NAME)
        with warehouse.connect(context, read_only=True) as con:
            decoding = trained_limits(con, REASONING.for_base(base))
        made_from = fingerprint(stage=stage["seal"], decoding=decoding.model_dump(exclude={"max_answer_tokens"}))
        unchanged = stands(target, made_from, anew=config.drop_existing)
        if not unchanged:
            with making(target, made_from) as (folder, facts):
                (folder / "weights").mkdir()
                for file in sorted((source / "weights").iterdir()):
                    link_or_copy(file, folder / "weights" / file.name)
                facts.update({**stage, "decoding": decoding.model_dump()})
        return dg.MaterializeResult(
            metadata={"from": dg.MetadataValue.asset(dg.AssetKey([NAME, source.name])), "unchanged": unchanged},
            data_version=dg.DataVersion(made_from),
        )

    return adapter
