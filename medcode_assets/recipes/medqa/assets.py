"""Dagster assets of recipe `medqa`: its questions, and what is measured behind the evaluation.

The chain of recipes in words stands in between: examples, base_model, tokens, adapter, evaluation, bundle.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from pydantic import BaseModel
from tqdm import tqdm

from medcode_assets.artifacts import making, required, stands
from medcode_assets.config import EvaluationSettings
from medcode_assets.launchpad import LaunchConfig, launched_with_sections, read
from medcode_assets.metadata import markdown_table, picture, table_metadata
from medcode_assets.partitions import check_results, checks_each_version
from medcode_assets.progress import step
from medcode_assets.recipes.answering import alone_answering, discard_parts, examples_made, parts_to_fill
from medcode_assets.recipes.bundling import refuse_mismatch
from medcode_assets.recipes.fitting import chosen_base
from medcode_assets.recipes.medqa.brevity import read_brevity, told_recommendation, write_brevity
from medcode_assets.recipes.medqa.confidence import (
    SCORES,
    measure_confidence,
    read_confidence,
    write_confidence,
)
from medcode_assets.recipes.medqa.errors import (
    PAGE,
    errors_fingerprint,
    find_errors,
    pattern_lines,
    read_errors,
    write_errors,
)
from medcode_assets.recipes.medqa.loading import (
    CHECKS,
    check_source,
    dropped_rows,
    load_source,
    source_facts,
    subject_rows,
)
from medcode_assets.recipes.medqa.measuring import Tuned, measure_brevity, option_answers
from medcode_assets.recipes.medqa.plots import brevity_points, confidence_curve, error_bars
from medcode_assets.recipes.medqa.recipe import MEDQA, NAME
from medcode_assets.recipes.medqa.settings import BrevitySection, ErrorsSection, MedqaSection, MedqaSettings
from medcode_assets.recipes.words.answers import TUNED, answers_file, read_word_answers
from medcode_assets.recipes.words.questions import SPLITS, asked_questions
from medcode_assets.resources.compute import GPU, Compute, gpu_tags
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse
from medcode_assets.warehouse import fingerprint
from medcode_serving.bundle import DecodingSettings
from medcode_serving.errors import MedcodeError

SOURCE, CONFIDENCE, BREVITY, ERRORS = (
    dg.AssetKey([NAME, name]) for name in ("source", "confidence", "brevity", "errors")
)
EVALUATION = dg.AssetKey([NAME, "evaluation"])


def own_sections(settings: MedqaSettings) -> dict[dg.AssetKey, dict[str, BaseModel]]:
    """Return the sections of settings that each asset of this module reads."""
    return {
        SOURCE: {"medqa": settings.medqa},
        CONFIDENCE: {"evaluation": settings.evaluation},
        BREVITY: {"evaluation": settings.evaluation, "brevity": settings.brevity},
        ERRORS: {"errors": settings.errors},
    }


def own_assets(settings: MedqaSettings) -> list[dg.AssetsDefinition]:
    """Return the assets of this module; the settings are the launchpad's defaults."""
    sections = own_sections(settings)
    return [
        source_asset(sections[SOURCE]),
        confidence_asset(settings, sections[CONFIDENCE]),
        brevity_asset(settings, sections[BREVITY]),
        errors_asset(sections[ERRORS]),
    ]


def source_asset(sections: Mapping[str, BaseModel]) -> dg.AssetsDefinition:
    """What there is to ask."""

    @dg.asset(
        key=SOURCE,
        group_name=NAME,
        partitions_def=MEDQA.partitions,
        kinds={"duckdb", "huggingface"},
        code_version="1",
        check_specs=checks_each_version(SOURCE, CHECKS, partitions=MEDQA.partitions),
    )
    @launched_with_sections("source", sections)
    def source(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, warehouse: Warehouse
    ) -> dg.MaterializeResult:
        """Exam questions from the hub, files or templates: cleaned, split, and augmented for training."""
        cache = home.path / "cache" / "datasets"
        with warehouse.connect(context) as con:
            built = load_source(
                con, read(config, "medqa", MedqaSection), cache, rebuild=config.drop_existing, say=context.log.info
            )
            facts = source_facts(con)
            return dg.MaterializeResult(
                metadata={
                    **table_metadata(con, built),
                    "splits": markdown_table(
                        ["split", "questions"], [(split, facts["preparation"]["kept"][split]) for split in SPLITS]
                    ),
                    "how_split": facts["preparation"]["splits"],
                    "training_examples": facts["preparation"]["examples"],
                    "dropped": markdown_table(["reason", "meaning", "rows"], list(dropped_rows(facts))),
                    "subjects": markdown_table(["subject", *SPLITS], subject_rows(facts)),
                    "options_counted_from": f"{facts['cop_base']}: {facts['cop_base_why']}",
                },
                data_version=dg.DataVersion(built.fingerprint),
                check_results=check_results(check_source(con)),
            )

    return source


def confidence_asset(settings: MedqaSettings, sections: Mapping[str, BaseModel]) -> dg.AssetsDefinition:
    """Whether sure answers are right."""

    @dg.asset(
        key=CONFIDENCE,
        group_name=NAME,
        partitions_def=MEDQA.partitions,
        deps=[EVALUATION, [NAME, "adapter"], [NAME, "examples"]],
        kinds={"pytorch"},
        pool=GPU,
        op_tags=gpu_tags(settings.compute, gpus=1),
        code_version="1",
    )
    @launched_with_sections("confidence", sections)
    def confidence(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, warehouse: Warehouse, compute: Compute
    ) -> dg.MaterializeResult:
        """A confidence for each answer: calibrated on the validation split, its worth measured on the test split."""
        partition = context.partition_key
        target = home.artifact(NAME, partition, "confidence")
        chosen = read(config, "evaluation", EvaluationSettings)
        evaluation = home.artifact(NAME, partition, "evaluation")
        answered = required(evaluation, f"{NAME}/evaluation")
        adapter = required(home.artifact(NAME, partition, "adapter"), f"{NAME}/adapter")
        with alone_answering(target, context.run_id, context.log.warning):
            with warehouse.connect(context, read_only=True) as con:
                validation = asked_questions(con, NAME, "validation", chosen.max_documents)
                examples = examples_made(con, NAME)
            refuse_mismatch(NAME, adapter, answered, examples)  # one adapter's temperature is not for another's answers
            tuned = tuned_model(home, partition, compute.settings.device, chosen.batch_size)
            made_from = fingerprint(
                evaluation=answered["seal"], examples=examples, questions=len(validation), version=2
            )
            unchanged = stands(target, made_from, anew=config.drop_existing)
            if not unchanged:
                parts = parts_to_fill(
                    home.answering(NAME, partition, "confidence", made_from), anew=config.drop_existing
                )
                with answering_bar("confidence", len(validation)) as on_progress:
                    told = option_answers(tuned, validation, parts, on_progress)
                test = read_word_answers(answers_file(evaluation, TUNED))
                with making(target, made_from) as (folder, facts):
                    write_confidence(measure_confidence((validation, told), test), test, folder)
                    facts["evaluation"] = answered["seal"]
                discard_parts(parts)
        report = read_confidence(target)
        return dg.MaterializeResult(
            metadata={
                **report.model_dump(exclude={"before", "after"}, exclude_none=True),
                "temperature_is_a_bound": report.at_bound,
                "reliability": picture(confidence_curve(report), "share of right answers by confidence"),
                "scores": dg.MetadataValue.path((target / SCORES).resolve()),
                "unchanged": unchanged,
                "fingerprint": made_from,
            },
            data_version=dg.DataVersion(made_from),
        )

    return confidence


def brevity_asset(settings: MedqaSettings, sections: Mapping[str, BaseModel]) -> dg.AssetsDefinition:
    """What a shorter answer costs."""

    @dg.asset(
        key=BREVITY,
        group_name=NAME,
        partitions_def=MEDQA.partitions,
        deps=[EVALUATION, [NAME, "adapter"], [NAME, "examples"]],
        kinds={"pytorch"},
        pool=GPU,
        op_tags=gpu_tags(settings.compute, gpus=1),
        code_version="1",
    )
    @launched_with_sections("brevity", sections)
    def brevity(
        context: dg.AssetExecutionContext, config: LaunchConfig, home: Home, warehouse: Warehouse, compute: Compute
    ) -> dg.MaterializeResult:
        """Length penalties and limits at generation: words and accuracy of the answers to validation questions."""
        partition = context.partition_key
        target = home.artifact(NAME, partition, "brevity")
        chosen, section = read(config, "evaluation", EvaluationSettings), read(config, "brevity", BrevitySection)
        adapter = required(home.artifact(NAME, partition, "adapter"), f"{NAME}/adapter")
        with alone_answering(target, context.run_id, context.log.warning):
            with warehouse.connect(context, read_only=True) as con:
                asked = asked_questions(con, NAME, "validation", section.questions)
                examples = examples_made(con, NAME)
            tuned = tuned_model(home, partition, compute.settings.device, chosen.batch_size)
            made_from = fingerprint(adapter=adapter["seal"], examples=examples, section=section.model_dump(), version=2)
            unchanged = stands(target, made_from, anew=config.drop_existing)
            if not unchanged:
                parts = parts_to_fill(home.answering(NAME, partition, "brevity", made_from), anew=config.drop_existing)
                settings_tried = len(section.length_penalties) * len(section.max_sentences) * len(section.max_tokens)
                with answering_bar("brevity", len(asked) * settings_tried) as on_progress:
                    report = measure_brevity(tuned, asked, section, parts, on_progress)
                with making(target, made_from) as (folder, _):
                    write_brevity(report, folder)
                discard_parts(parts)
        report = read_brevity(target)
        names = ["words", "verbosity", "accuracy_generated", "readable", "rouge_l", "cut"]
        rows = [(row.label, *(getattr(row, name) for name in names)) for row in report.rows]
        return dg.MaterializeResult(
            metadata={
                "recommended": told_recommendation(report),
                "settings": markdown_table(["control", *names], rows),
                "picture": picture(brevity_points(report), "accuracy by words"),
                "unchanged": unchanged,
                "fingerprint": made_from,
            },
            data_version=dg.DataVersion(made_from),
        )

    return brevity


def errors_asset(sections: Mapping[str, BaseModel]) -> dg.AssetsDefinition:
    """What goes wrong, and what to do about it."""

    @dg.asset(
        key=ERRORS, group_name=NAME, partitions_def=MEDQA.partitions, deps=[EVALUATION, CONFIDENCE], code_version="1"
    )
    @launched_with_sections("errors", sections)
    def errors(context: dg.AssetExecutionContext, config: LaunchConfig, home: Home) -> dg.MaterializeResult:
        """Patterns among the wrong answers to the test split, with what would help against each."""
        partition = context.partition_key
        target, evaluation = (home.artifact(NAME, partition, name) for name in ("errors", "evaluation"))
        section = read(config, "errors", ErrorsSection)
        answered = required(evaluation, f"{NAME}/evaluation")
        calibrated = home.artifact(NAME, partition, "confidence")
        if required(calibrated, f"{NAME}/confidence").get("evaluation") != answered["seal"]:
            raise MedcodeError(f"asset {NAME}/confidence is older than {NAME}/evaluation; materialize it first")
        temperature = read_confidence(calibrated).temperature
        made_from = errors_fingerprint(answered["seal"], temperature, section)
        unchanged = stands(target, made_from, anew=config.drop_existing)
        if not unchanged:
            asked, answers = read_word_answers(answers_file(evaluation, TUNED))
            with making(target, made_from) as (folder, _):
                write_errors(find_errors(asked, answers, temperature, section), folder)
        report = read_errors(target)
        return dg.MaterializeResult(
            metadata={
                "wrong": report.wrong,
                "answers": report.answers,
                "findings": sum(one.finding for one in report.patterns) + report.prefers_positions,
                "patterns": dg.MetadataValue.md("\n".join(pattern_lines(report))),
                "picture": picture(error_bars(report), "share of wrong answers by trait"),
                "page": dg.MetadataValue.path((target / PAGE).resolve()),
                "unchanged": unchanged,
                "fingerprint": made_from,
            },
            data_version=dg.DataVersion(made_from),
        )

    return errors


def tuned_model(home: Home, partition: str, device: str, batch_size: int) -> Tuned:
    """Return the partition's adapter. Raises MedcodeError if it is not trained yet."""
    base = chosen_base(home.artifact(NAME, partition, "base_model"), NAME)
    adapter: Path = home.artifact(NAME, partition, "adapter")
    decoding = DecodingSettings(**required(adapter, f"{NAME}/adapter")["decoding"])
    return Tuned(MEDQA.for_base(base).prompt, base, adapter / "weights", decoding, device, batch_size)


@contextmanager
def answering_bar(what: str, questions: int) -> Iterator[Callable[[int], None]]:
    """Show how many questions are answered; gives what is to be told of more."""
    with tqdm(total=questions, desc=f"{NAME}: {what}", unit="question", delay=1) as bar:
        yield lambda more: step(bar, more)
