"""An adapter measured beside its baselines on the same splits, through the engines that serving uses."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_assets.artifacts import link_or_copy, made, making, required
from medcode_assets.config import EvaluationSettings
from medcode_assets.evaluation.evaluate import evaluate_answers
from medcode_assets.evaluation.history import (
    ADAPTER,
    REPORT,
    EvaluationAbout,
    KeptEvaluation,
    gold_hash,
    gold_table,
    keep_evaluation,
)
from medcode_assets.evaluation.report import EvaluationReport, write_report
from medcode_assets.recipes.answering import (
    ANSWERS,
    SPLITS,
    EvaluationData,
    answer,
    discard_parts,
    examples_made,
    language_model,
    read_answers,
)
from medcode_assets.recipes.recipe import Recipe
from medcode_assets.warehouse import fingerprint
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import CODES, DecodingSettings
from medcode_serving.codes.vocabulary import Vocabulary

if TYPE_CHECKING:
    import duckdb

GOLD = "gold.parquet"


def answers_fingerprint(
    con: "duckdb.DuckDBPyConnection",
    recipe: Recipe,
    adapter: str,
    decoding: DecodingSettings,
    evaluation: EvaluationSettings,
) -> str:
    """Return the fingerprint of an adapter's answers; `adapter` is the seal of its artifact.

    How they are measured is not in it: another number of resamples does not ask the model again.
    """
    return fingerprint(
        adapter=adapter,
        examples=examples_made(con, recipe.name),
        prompt=recipe.prompt.model_dump(),
        decoding=decoding.model_dump(exclude={"max_answer_tokens"}),
        max_documents=evaluation.max_documents,
        version=2,
    )


def evaluation_fingerprint(answers: str, baselines: Mapping[str, str], evaluation: EvaluationSettings) -> str:
    """Return the fingerprint of an evaluation: the adapter's answers, the baselines' seals, how they are measured."""
    return fingerprint(
        answers=answers,
        baselines=dict(baselines),
        calibration=evaluation.calibration,
        resamples=evaluation.resamples,
        version=2,
    )


def evaluate_adapter(
    data: EvaluationData,
    recipe: Recipe,
    base: LocalModel,
    adapter: Path,
    target: Path,
    parts: Path,
    *,
    answers_from: str,
    made_from: str,
    baselines: Mapping[str, Path],
    seals: Mapping[str, str],
    evaluation: EvaluationSettings,
    decoding: DecodingSettings,
    adapter_seal: str,
    device: str,
    ask_again: bool = False,
) -> EvaluationReport:
    """Let the adapter answer, unless it has, and measure it beside the baselines; write report, answers and gold.

    Args:
        data: Notes and gold codes.
        recipe: What is evaluated.
        base: The adapter's base model.
        adapter: Folder of its weights.
        target: Folder of the artifact; replaced only by a complete one.
        parts: Folder of answers so far.
        answers_from: `answers_fingerprint`.
        made_from: `evaluation_fingerprint`.
        baselines: Artifact of each baseline (`measured_beside`).
        seals: Seal of each.
        evaluation: How to measure.
        decoding: The adapter's limits.
        adapter_seal: Seal of its artifact.
        device: auto, cpu, cuda or mps.
        ask_again: Do not take over answers that an earlier evaluation kept.
    """
    import pyarrow.parquet as pq

    earlier = made(target)
    if ask_again:
        discard_parts(parts)
    with making(target, made_from) as (folder, facts):
        pq.write_table(data.codes, folder / CODES)
        vocabulary = Vocabulary.read(folder / CODES)
        if not ask_again and earlier is not None and earlier.get("answers") == answers_from:
            (folder / ANSWERS).mkdir()
            for split in SPLITS:
                link_or_copy(target / ANSWERS / f"{split}.parquet", folder / ANSWERS / f"{split}.parquet")
        else:
            engine = language_model(ADAPTER, recipe, base, adapter, vocabulary, decoding, evaluation, device)
            answer(engine, data, parts, folder)
        report = evaluate_answers(
            {ADAPTER: read_answers(folder), **{name: read_answers(path) for name, path in baselines.items()}},
            data.validation,
            data.test,
            vocabulary,
            method=evaluation.calibration,
            resamples=evaluation.resamples,
        )
        write_report(report, folder / REPORT)
        gold = gold_table(data.test)
        pq.write_table(gold, folder / GOLD, compression="zstd")
        facts.update(
            decoding=decoding.model_dump(),
            adapter=adapter_seal,
            examples=data.examples,
            train_documents=data.train_documents,
            answers=answers_from,
            baselines=dict(seals),
            gold=gold_hash(gold),
        )
    discard_parts(parts)
    return report


def remember(
    home: Path,
    recipe: str,
    partition: str,
    version: str,
    split_hash: str,
    base: LocalModel,
    evaluation: Path,
    baselines: Mapping[str, Path],
    report: EvaluationReport,
) -> KeptEvaluation:
    """Put a sealed evaluation into the history, under the version of the bundle that it belongs to."""
    import pyarrow.parquet as pq

    facts = required(evaluation, f"{recipe}/evaluation")
    about = EvaluationAbout(
        recipe=recipe,
        version=version,
        partition=partition,
        split_hash=split_hash,
        gold_hash=facts["gold"],
        base_model=base.id,
        made=datetime.fromtimestamp((evaluation / REPORT).stat().st_mtime, UTC),
    )
    test = f"{ANSWERS}/test.parquet"
    answers = {name: folder / test for name, folder in {ADAPTER: evaluation, **baselines}.items()}
    gold = pq.read_table(evaluation / GOLD)
    return keep_evaluation(home, about, report, codes=evaluation / CODES, gold=gold, answers=answers)
