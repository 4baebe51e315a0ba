"""An adapter beside its baselines on the same splits, through the engines that serving uses."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from medcode_assets.artifacts import making
from medcode_assets.config import EvaluationSettings
from medcode_assets.evaluation.evaluate import LabelledNotes, evaluate_engines
from medcode_assets.evaluation.report import EvaluationReport, write_report
from medcode_assets.recipes.bundling import trained_codes
from medcode_assets.recipes.recipe import Recipe
from medcode_assets.warehouse import fingerprint, inputs, one_value
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import CODES, DecodingSettings
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.engines.protocol import Engine

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

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


@dataclass(frozen=True)
class EvaluationData:
    """All that an evaluation needs of a warehouse, so that nobody waits for it while models run."""

    validation: LabelledNotes
    test: LabelledNotes
    codes: "pa.Table"
    """The rows of codes.parquet."""
    train_examples: int
    examples: str
    """Fingerprint of the recipe's examples."""


def evaluation_data(con: "duckdb.DuckDBPyConnection", recipe: str, limit: int) -> EvaluationData:
    """Read what an evaluation needs, at most `limit` documents a split (0: all)."""
    return EvaluationData(
        validation=labelled_notes(con, recipe, "validation", limit),
        test=labelled_notes(con, recipe, "test", limit),
        codes=trained_codes(con, recipe),
        train_examples=one_value(con, f"SELECT count(*) FROM {recipe}.examples WHERE split = 'train'"),
        examples=examples_made(con, recipe),
    )


def evaluate_adapter(
    data: EvaluationData,
    recipe: Recipe,
    base: LocalModel,
    adapter: Path,
    target: Path,
    made_from: str,
    evaluation: EvaluationSettings,
    decoding: DecodingSettings,
    adapter_seal: str,
    device: str,
) -> EvaluationReport:
    """Evaluate adapter, untuned base and frequency prior; write report and predictions (no text) to `target`."""
    import pyarrow.parquet as parquet

    validation, test = data.validation, data.test
    with making(target, made_from) as (folder, facts):
        parquet.write_table(data.codes, folder / CODES)
        vocabulary = Vocabulary.read(folder / CODES)
        engines = _engines(data.train_examples, recipe, base, adapter, vocabulary, decoding, evaluation, device)
        total = len(engines) * (len(validation) + len(test))
        with tqdm(total=total, desc="evaluating", unit="note") as bar:

            def on_progress(engine: str, more: int) -> None:
                bar.set_postfix_str(engine, refresh=False)
                bar.update(more)

            report = evaluate_engines(
                engines, validation, test, vocabulary, predictions=folder / "predictions", on_progress=on_progress
            )
        write_report(report, folder / REPORT)
        facts.update(decoding=decoding.model_dump(), adapter=adapter_seal, examples=data.examples)
    return report


def examples_made(con: "duckdb.DuckDBPyConnection", recipe: str) -> str:
    """Return the fingerprint of a recipe's examples, and so of its labels and splits."""
    return inputs(con, f"{recipe}.examples")[f"{recipe}.examples"]


def _engines(
    train_examples: int,
    recipe: Recipe,
    base: LocalModel,
    adapter: Path,
    vocabulary: Vocabulary,
    decoding: DecodingSettings,
    evaluation: EvaluationSettings,
    device: str,
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
            device=device,
            batch_size=evaluation.batch_size,
            base_revision=base.revision,
        )
        for name, weights in adapters.items()
    }
    return {**language_models, "frequency_prior": FrequencyPriorEngine(vocabulary, train_examples)}


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
