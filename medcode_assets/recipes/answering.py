"""Engines' answers to the validation and test split, as files: what baselines keep, and evaluations measure."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from medcode_assets.config import EvaluationSettings
from medcode_assets.evaluation.evaluate import Answers
from medcode_assets.evaluation.predictions import LabelledNotes, predict_split, write_predictions
from medcode_assets.locks import waiting_lock
from medcode_assets.recipes.bundling import trained_codes
from medcode_assets.recipes.recipe import Recipe
from medcode_assets.warehouse import inputs, one_value
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import DecodingSettings
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.engines.protocol import Engine

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

ANSWERS = "answers"
"""Folder of an artifact that holds validation.parquet and test.parquet."""
SPLITS = ("validation", "test")
LONGEST_ANSWERING = 7 * 24 * 3600.0
"""Seconds to wait for another run's answers."""


@dataclass(frozen=True)
class EvaluationData:
    """All that an evaluation needs of a warehouse, so that nobody waits for it while models run."""

    validation: LabelledNotes
    test: LabelledNotes
    codes: "pa.Table"
    """The rows of codes.parquet."""
    train_documents: int
    examples: str
    """Fingerprint of the recipe's examples."""


def evaluation_data(con: "duckdb.DuckDBPyConnection", recipe: str, limit: int) -> EvaluationData:
    """Read what an evaluation needs, at most `limit` documents a split (0: all)."""
    return EvaluationData(
        validation=labelled_notes(con, recipe, "validation", limit),
        test=labelled_notes(con, recipe, "test", limit),
        codes=trained_codes(con, recipe),
        train_documents=one_value(con, f"SELECT count(*) FROM {recipe}.examples WHERE split = 'train'"),
        examples=examples_made(con, recipe),
    )


def examples_made(con: "duckdb.DuckDBPyConnection", recipe: str) -> str:
    """Return the fingerprint of a recipe's examples, and so of its labels and splits."""
    return inputs(con, f"{recipe}.examples")[f"{recipe}.examples"]


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


def language_model(
    name: str,
    recipe: Recipe,
    base: LocalModel,
    adapter: Path | None,
    vocabulary: Vocabulary,
    decoding: DecodingSettings,
    evaluation: EvaluationSettings,
    device: str,
) -> Engine:
    """Load the engine of a base model, with an adapter or as it is."""
    from medcode_serving.engines.transformers import TransformersEngine

    return TransformersEngine(
        name,
        base.path,
        adapter,
        vocabulary,
        recipe.prompt,
        decoding,
        device=device,
        batch_size=evaluation.batch_size,
        base_revision=base.revision,
    )


def answer(engine: Engine, data: EvaluationData, parts: Path, folder: Path) -> None:
    """Let an engine answer both splits; write `folder/answers`.

    Args:
        engine: What answers.
        data: The notes.
        parts: Folder of answers so far, for this engine and these notes; a killed run goes on from there.
        folder: Where the answers go.
    """
    with tqdm(total=len(data.validation) + len(data.test), desc=f"answering: {engine.name}", unit="note") as bar:

        def on_progress(more: int) -> None:
            bar.update(more)

        for split in (data.validation, data.test):
            table = predict_split(engine, split, parts, on_progress=on_progress)
            write_predictions(table, folder / ANSWERS / f"{split.split}.parquet")


def alone_answering(target: Path, run_id: str, on_wait: Callable[[str], None]) -> AbstractContextManager[None]:
    """Hold an artifact while it is made: two runs at once would write the same answers, or delete each other's."""
    return waiting_lock(
        target.with_name(f"{target.name}.lock"),
        what=str(target),
        exclusive=True,
        purpose=f"run {run_id[:8]}",
        wait_seconds=LONGEST_ANSWERING,
        on_wait=on_wait,
    )


def read_answers(folder: Path) -> Answers:
    """Return the answers that an artifact holds."""
    import pyarrow.parquet as pq

    return Answers(*(pq.read_table(folder / ANSWERS / f"{split}.parquet") for split in SPLITS))


def parts_to_fill(parts: Path, *, anew: bool) -> Path:
    """Return the folder of answers so far; with `anew`, those that a run left when it was cut off are deleted."""
    if anew:
        discard_parts(parts)
    return parts


def discard_parts(parts: Path) -> None:
    """Delete answers so far, once all are sealed; and those of other settings that were cut off."""
    shutil.rmtree(parts.parent, ignore_errors=True)
