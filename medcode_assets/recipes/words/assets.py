"""Dagster assets of a recipe that answers in words, where they differ from those of recipes with codes."""

from pathlib import Path
from typing import Any

import dagster as dg

from medcode_assets.artifacts import made, making, required, stands
from medcode_assets.config import WORD_GATES, DataSettings, EvaluationSettings, GateSettings, Settings
from medcode_assets.launchpad import LaunchConfig, launched_with, read
from medcode_assets.metadata import mlflow_metadata, picture, table_metadata
from medcode_assets.partitions import checks_each_version
from medcode_assets.recipes.answering import alone_answering, discard_parts, examples_made, parts_to_fill
from medcode_assets.recipes.bundling import (
    bundle_version,
    examples_settings,
    provenance,
    publish_passed,
    refuse_mismatch,
    trained_codes,
)
from medcode_assets.recipes.fitting import chosen_base, trained_limits
from medcode_assets.recipes.model_assets import gate_result
from medcode_assets.recipes.recipe import Recipe, Words
from medcode_assets.recipes.reporting import LOGGED
from medcode_assets.recipes.words.answers import TUNED, UNTUNED, answers_file
from medcode_assets.recipes.words.bundling import compose_word_bundle
from medcode_assets.recipes.words.evaluating import (
    PICTURES,
    evaluate_words,
    keep_answers,
    word_answers_fingerprint,
    word_evaluation_fingerprint,
)
from medcode_assets.recipes.words.gates import ASKED, check_word_gates, served_headline
from medcode_assets.recipes.words.measuring import logged_metrics, read_word_report, word_table
from medcode_assets.recipes.words.questions import asked_hash, asked_questions
from medcode_assets.resources.compute import GPU, Compute, gpu_tags
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse
from medcode_assets.training.tracking import log_evaluation, register_bundle
from medcode_assets.warehouse import one_value
from medcode_serving.bundle import DecodingSettings, is_published, latest_version
from medcode_serving.errors import MedcodeError


def words_of(recipe: Recipe) -> Words:
    """Return how a recipe's answers in words are measured. Raises ValueError if it answers with codes."""
    if recipe.words is None:
        raise ValueError(f"recipe {recipe.name} answers with codes")
    return recipe.words


def word_examples_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """What training teaches."""

    @dg.asset(
        key=[recipe.name, "examples"],
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        deps=recipe.sources,
        kinds={"duckdb", "sql"},
        code_version="1",
    )
    @launched_with("examples", settings)
    def examples(context: dg.AssetExecutionContext, config: LaunchConfig, warehouse: Warehouse) -> dg.MaterializeResult:
        """Each question with the answer that training teaches."""
        with warehouse.connect(context) as con:
            built = recipe.build_examples(con, read(config, "data", DataSettings), rebuild=config.drop_existing)
            preview = (
                'SELECT split, count(*) AS questions, count(DISTINCT group_id) AS "groups", '
                "avg(len(string_split(question, ' '))) AS words_a_question, "
                "avg(len(string_split(answer, ' '))) AS words_an_answer "
                f"FROM {recipe.name}.questions GROUP BY split ORDER BY questions DESC"
            )
            return dg.MaterializeResult(
                metadata=table_metadata(con, built, preview), data_version=dg.DataVersion(built.fingerprint)
            )

    return examples


def word_untuned_base_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """What the adapter has to beat."""

    @dg.asset(
        key=[recipe.name, UNTUNED],
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        deps=[[recipe.name, "tokens"], [recipe.name, "base_model"]],
        kinds={"pytorch"},
        pool=GPU,
        op_tags=gpu_tags(settings.compute, gpus=1),
        code_version="1",
    )
    @launched_with(UNTUNED, settings)
    def untuned_base(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, warehouse: Warehouse, compute: Compute
    ) -> dg.MaterializeResult:
        """The base model's answers to the test split, without an adapter; with evaluation.untuned_base: false, none."""
        partition = context.partition_key
        target = home.artifact(recipe.name, partition, UNTUNED)
        base = chosen_base(home.artifact(recipe.name, partition, "base_model"), recipe.name)
        prompted, chosen = recipe.for_base(base), read(config, "evaluation", EvaluationSettings)
        with alone_answering(target, context.run_id, context.log.warning):
            with warehouse.connect(context, read_only=True) as con:
                decoding = trained_limits(con, prompted)
                answers_from = word_answers_fingerprint(con, prompted, base.revision, decoding, chosen)
                made_from = answers_from if chosen.untuned_base else "left out"
                unchanged = stands(target, made_from, anew=config.drop_existing)
                asked = asked_questions(con, recipe.name, "test", chosen.max_documents)
            if not unchanged:
                parts = parts_to_fill(
                    home.answering(recipe.name, partition, UNTUNED, answers_from), anew=config.drop_existing
                )
                with making(target, made_from) as (folder, _):
                    if chosen.untuned_base:
                        file, device = answers_file(folder, UNTUNED), compute.settings.device
                        keep_answers(asked, UNTUNED, prompted, base, None, decoding, chosen, file, parts, device)
                discard_parts(parts)
        return dg.MaterializeResult(
            metadata={"answers": len(asked) if chosen.untuned_base else 0, "unchanged": unchanged},
            data_version=dg.DataVersion(made_from),
        )

    return untuned_base


def word_evaluation_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """The adapter measured beside its base."""

    @dg.asset(
        key=[recipe.name, "evaluation"],
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        deps=[[recipe.name, name] for name in ("adapter", "examples", UNTUNED)],
        kinds={"pytorch", "mlflow"},
        pool=GPU,
        op_tags=gpu_tags(settings.compute, gpus=1),
        code_version="1",
    )
    @launched_with("evaluation", settings)
    def evaluation(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, warehouse: Warehouse, compute: Compute
    ) -> dg.MaterializeResult:
        """The adapter's answers to the test split beside the untuned base's: every measure with its interval."""
        partition = context.partition_key
        target = home.artifact(recipe.name, partition, "evaluation")
        base = chosen_base(home.artifact(recipe.name, partition, "base_model"), recipe.name)
        prompted, chosen = recipe.for_base(base), read(config, "evaluation", EvaluationSettings)
        adapter = home.artifact(recipe.name, partition, "adapter")
        adapter_facts = required(adapter, f"{recipe.name}/adapter")
        decoding = DecodingSettings(**adapter_facts["decoding"])
        untuned = home.artifact(recipe.name, partition, UNTUNED)
        untuned_facts = required(untuned, f"{recipe.name}/{UNTUNED}")
        beside = {UNTUNED: untuned} if answers_file(untuned, UNTUNED).exists() else {}
        with alone_answering(target, context.run_id, context.log.warning):
            with warehouse.connect(context, read_only=True) as con:
                expected = word_answers_fingerprint(con, prompted, base.revision, trained_limits(con, prompted), chosen)
                if beside and untuned_facts["fingerprint"] != expected:
                    raise MedcodeError(f"asset {recipe.name}/{UNTUNED} is older than its tokens; materialize it first")
                answers_from = word_answers_fingerprint(con, prompted, adapter_facts["seal"], decoding, chosen)
                made_from = word_evaluation_fingerprint(answers_from, untuned_facts["seal"], recipe, None)
                unchanged = stands(target, made_from, anew=config.drop_existing)
                asked = asked_questions(con, recipe.name, "test", chosen.max_documents)
                trained = one_value(con, f"SELECT count(*) FROM {recipe.name}.examples WHERE split = 'train'")
                examples = examples_made(con, recipe.name)
            if not unchanged:
                parts = parts_to_fill(
                    home.answering(recipe.name, partition, TUNED, answers_from), anew=config.drop_existing
                )
                earlier = made(target) or {}
                evaluate_words(
                    asked,
                    prompted,
                    words_of(recipe),
                    base,
                    adapter / "weights",
                    target,
                    parts,
                    made_from=made_from,
                    answers_from=answers_from,
                    beside=beside,
                    facts_of={
                        "adapter": adapter_facts["seal"],
                        "examples": examples,
                        "train_documents": trained,
                        ASKED: asked_hash(asked),
                    },
                    evaluation=chosen,
                    decoding=decoding,
                    device=compute.settings.device,
                    earlier_answers=None if config.drop_existing else earlier.get("answers"),
                )
        if not (target / LOGGED).exists():
            metrics = logged_metrics(read_word_report(target))
            if log_evaluation(adapter_facts["mlflow_uri"], adapter_facts["mlflow_run"], metrics, target / PICTURES):
                (target / LOGGED).touch()
            else:
                context.log.warning("not in MLflow: see the warning above; materialize again to log it")
        return dg.MaterializeResult(
            metadata={**_evaluation_metadata(target), "unchanged": unchanged, "fingerprint": made_from},
            data_version=dg.DataVersion(made_from),
        )

    return evaluation


def _evaluation_metadata(target: Path) -> dict[str, Any]:
    report = read_word_report(target)
    pictures = sorted((target / PICTURES).glob("*.png"))
    return {
        "results": dg.MetadataValue.md(word_table(report)),
        **{file.stem: picture(file.read_bytes(), file.stem) for file in pictures},
        report.headline: report.models[TUNED].value(report.headline),
        "not_measured": dg.MetadataValue.json(report.models[TUNED].skipped),
    }


def word_bundle_asset(recipe: Recipe, settings: Settings) -> dg.AssetsDefinition:
    """The bundle, and the gates before LATEST."""
    key = dg.AssetKey([recipe.name, "bundle"])

    @dg.asset(
        key=key,
        group_name=recipe.name,
        partitions_def=recipe.partitions,
        deps=[[recipe.name, "evaluation"]],
        code_version="1",
        check_specs=checks_each_version(key, WORD_GATES, blocking=WORD_GATES, partitions=recipe.partitions),
    )
    @launched_with("bundle", settings)
    def bundle(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        """Everything that serving needs, sealed; LATEST names it if it passes the gates. Else it stays, with why."""
        partition = context.partition_key
        base = chosen_base(home.artifact(recipe.name, partition, "base_model"), recipe.name)
        adapter = home.artifact(recipe.name, partition, "adapter")
        adapter_facts = required(adapter, f"{recipe.name}/adapter")
        evaluation = home.artifact(recipe.name, partition, "evaluation")
        facts = required(evaluation, f"{recipe.name}/evaluation")
        report = read_word_report(evaluation)
        version = bundle_version(partition, base, facts)
        with warehouse.connect(context, read_only=True) as con:
            refuse_mismatch(recipe.name, adapter_facts, facts, examples_made(con, recipe.name))
            data = recipe.data_version(con, home.path, partition, facts["train_documents"])
            sealed, unchanged = compose_word_bundle(
                home.bundles,
                recipe=recipe.name,
                version=version,
                base=base,
                prompt=recipe.for_base(base).prompt,
                decoding=DecodingSettings(**facts["decoding"]),
                report=report,
                data=data,
                provenance=provenance(
                    {
                        **adapter_facts["settings"],
                        "data": examples_settings(con, recipe.name),
                        ASKED: facts[ASKED],
                    },
                    mlflow_run=adapter_facts["mlflow_run"],
                    dagster_run=context.run_id,
                ),
                adapter=adapter / "weights",
                codes=trained_codes(con, recipe.name),
            )
        served = served_headline(home.bundles, recipe.name, version, facts[ASKED], report.headline)
        gates = check_word_gates(report, words_of(recipe).form, read(config, "gates", GateSettings), served)
        publish_passed(sealed, gates)
        latest = latest_version(home.bundles, recipe.name) if is_published(home.bundles, recipe.name) else None
        model = register_bundle(sealed, latest, adapter_facts["mlflow_uri"], adapter_facts["mlflow_run"])
        return dg.MaterializeResult(
            metadata={
                "version": version,
                "mlflow_model": f"{model.name} version {model.version}" if model else "not registered",
                **mlflow_metadata(adapter_facts),
                "path": dg.MetadataValue.path(sealed.path),
                "manifest": dg.MetadataValue.json(sealed.manifest.model_dump(mode="json", exclude={"files"})),
                "latest": latest or "nothing is published",
                "unchanged": unchanged,
            },
            data_version=dg.DataVersion(version),
            check_results=[gate_result(gate) for gate in gates],
        )

    return bundle
