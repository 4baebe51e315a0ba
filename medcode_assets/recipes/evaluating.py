"""An adapter beside its baselines on the same splits, through the engines that serving uses."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from medcode_assets.artifacts import making
from medcode_assets.config import EvaluationSettings
from medcode_assets.evaluation.evaluate import LabelledNotes, evaluate_engines
from medcode_assets.evaluation.report import EvaluationReport, write_report
from medcode_assets.recipes.bundling import write_codes
from medcode_assets.recipes.recipe import Recipe
from medcode_assets.warehouse import fingerprint, inputs, one_value
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import DecodingSettings
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.engines.protocol import Engine

if TYPE_CHECKING:
    import duckdb

REPORT = "evaluation.json"
NOT_IN_FINGERPRINT = {"device", "batch_size"}
"""How fast, not what."""


def evaluation_fingerprint(
    con: "duckdb.DuckDBPyConnection",
    recipe: Recipe,
    adapter: str,
    evaluation: EvaluationSettings,
    decoding: DecodingSettings,
) -> str:
    """Return the fingerprint of all that an evaluation comes from; `adapter` is the seal of its artifact."""
    return fingerprint(
        adapter=adapter,
        examples=examples_made(con, recipe.name),
        prompt=recipe.prompt.model_dump(),
        decoding=decoding.model_dump(),
        settings=evaluation.model_dump(exclude=NOT_IN_FINGERPRINT),
        version=1,
    )


def evaluate_adapter(
    con: "duckdb.DuckDBPyConnection",
    recipe: Recipe,
    base: LocalModel,
    adapter: Path,
    target: Path,
    made_from: str,
    evaluation: EvaluationSettings,
    decoding: DecodingSettings,
    adapter_seal: str,
) -> EvaluationReport:
    """Evaluate adapter, untuned base and frequency prior; write report and predictions (no text) to `target`."""
    limit = evaluation.max_documents
    validation = labelled_notes(con, recipe.name, "validation", limit)
    test = labelled_notes(con, recipe.name, "test", limit)
    with making(target, made_from) as (folder, facts):
        vocabulary = Vocabulary.read(write_codes(con, recipe.name, folder / "codes.parquet"))
        engines = _engines(con, recipe, base, adapter, vocabulary, decoding, evaluation)
        total = len(engines) * (len(validation) + len(test))
        with tqdm(total=total, desc="evaluating", unit="note") as bar:

            def on_progress(engine: str, more: int) -> None:
                bar.set_postfix_str(engine, refresh=False)
                bar.update(more)

            report = evaluate_engines(
                engines, validation, test, vocabulary, predictions=folder / "predictions", on_progress=on_progress
            )
        write_report(report, folder / REPORT)
        facts.update(decoding=decoding.model_dump(), adapter=adapter_seal, examples=examples_made(con, recipe.name))
    return report


def examples_made(con: "duckdb.DuckDBPyConnection", recipe: str) -> str:
    """Return the fingerprint of a recipe's examples, and so of its labels and splits."""
    return inputs(con, f"{recipe}.examples")[f"{recipe}.examples"]


def _engines(
    con: "duckdb.DuckDBPyConnection",
    recipe: Recipe,
    base: LocalModel,
    adapter: Path,
    vocabulary: Vocabulary,
    decoding: DecodingSettings,
    evaluation: EvaluationSettings,
) -> Mapping[str, Engine]:
    from medcode_serving.engines.baseline import FrequencyPriorEngine
    from medcode_serving.engines.transformers import TransformersEngine

    adapters = {"adapter": adapter, "base_model": None} if evaluation.untuned_base else {"adapter": adapter}
    language_models = {
        name: TransformersEngine(
            name,
            base.path,
            weights,
            vocabulary,
            recipe.prompt,
            decoding,
            device=evaluation.device,
            batch_size=evaluation.batch_size,
        )
        for name, weights in adapters.items()
    }
    train = one_value(con, f"SELECT count(*) FROM {recipe.name}.examples WHERE split = 'train'")
    return {**language_models, "frequency_prior": FrequencyPriorEngine(vocabulary, train)}


def labelled_notes(con: "duckdb.DuckDBPyConnection", recipe: str, split: str, limit: int) -> LabelledNotes:
    """Return the notes of a split with their gold codes; at most `limit` (0: all), the same ones each time."""
    rows = con.execute(
        f"""
        WITH chosen AS (
            SELECT example_id, gold FROM {recipe}.examples WHERE split = ?
            ORDER BY md5(CAST(example_id AS VARCHAR)), example_id
            LIMIT CASE WHEN ? = 0 THEN 9223372036854775807 ELSE ? END
        ),
        coded AS (
            SELECT example_id, list((system, code) ORDER BY label) AS gold
            FROM (SELECT example_id, unnest(gold) AS label FROM chosen) JOIN {recipe}.labels USING (label)
            GROUP BY example_id
        )
        SELECT example_id, note, gold FROM coded JOIN {recipe}.notes USING (example_id) ORDER BY example_id
        """,
        [split, limit, limit],
    ).fetchall()
    return LabelledNotes(
        split,
        ids=[row[0] for row in rows],
        notes=[row[1] for row in rows],
        gold=[[tuple(code) for code in row[2]] for row in rows],
    )
