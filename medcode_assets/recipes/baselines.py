"""What an adapter is measured beside: each baseline a model that can be served, and its answers to both splits."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from medcode_assets.artifacts import making, required
from medcode_assets.baselines.linear import CandidateCode, LinearSettings, fit_linear
from medcode_assets.config import EvaluationSettings
from medcode_assets.recipes.answering import EvaluationData, answer, discard_parts, examples_made, language_model
from medcode_assets.recipes.fitting import trained_limits
from medcode_assets.recipes.recipe import Recipe
from medcode_assets.warehouse import fingerprint, one_value, second_cursor
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import CODES, LINEAR, DecodingSettings
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.engines.baseline import FrequencyPriorEngine
from medcode_serving.engines.protocol import Engine
from medcode_serving.errors import MedcodeError
from medcode_serving.linear.files import FORMAT

if TYPE_CHECKING:
    import duckdb

FREQUENCY_PRIOR = "frequency_prior"
UNTUNED_BASE = "untuned_base"
BASELINES = (LINEAR, UNTUNED_BASE, FREQUENCY_PRIOR)
"""Names of the assets and of the engines, in the order in which reports show them."""

NOTES_AT_ONCE = 512
"""Training notes in memory while the linear model is fitted."""


def prior_fingerprint(con: "duckdb.DuckDBPyConnection", recipe: Recipe, evaluation: EvaluationSettings) -> str:
    """Return the fingerprint of the frequency prior and its answers."""
    return _fingerprint(con, recipe, FREQUENCY_PRIOR, evaluation)


def linear_fingerprint(con: "duckdb.DuckDBPyConnection", recipe: Recipe, evaluation: EvaluationSettings) -> str:
    """Return the fingerprint of the linear model and its answers: also its settings, its format and the titles."""
    titles = "string_agg(system || ' ' || code || ' ' || description, chr(10) ORDER BY system, code)"
    return _fingerprint(
        con,
        recipe,
        LINEAR,
        evaluation,
        settings=asdict(LinearSettings()),
        format=FORMAT,
        dictionary=one_value(con, f"SELECT sha256({titles}) FROM {recipe.name}.dictionary"),
    )


def untuned_base_fingerprint(
    con: "duckdb.DuckDBPyConnection", recipe: Recipe, base: LocalModel, evaluation: EvaluationSettings
) -> str:
    """Return the fingerprint of the untuned base's answers; also of leaving it out."""
    return _fingerprint(
        con,
        recipe,
        UNTUNED_BASE,
        evaluation,
        asked=evaluation.untuned_base,
        base=base.revision,
        prompt=recipe.prompt.model_dump(),
        decoding=trained_limits(con, recipe).model_dump(),
    )


def _fingerprint(
    con: "duckdb.DuckDBPyConnection", recipe: Recipe, name: str, evaluation: EvaluationSettings, **more: Any
) -> str:
    return fingerprint(
        baseline=name,
        examples=examples_made(con, recipe.name),
        max_documents=evaluation.max_documents,
        version=1,
        **more,
    )


def measured_beside(folders: Mapping[str, Path], expected: Mapping[str, str], recipe: str) -> dict[str, dict[str, Any]]:
    """Return the facts of the baselines to measure beside, those left out by the settings not among them.

    Args:
        folders: Artifact of each baseline.
        expected: The fingerprint that each must have now.
        recipe: For the message.

    Raises:
        MedcodeError: one was not made yet, or of other examples, settings or another base model.
    """
    facts = {name: required(folder, f"{recipe}/{name}") for name, folder in folders.items()}
    for name, found in facts.items():
        if found["fingerprint"] != expected[name]:
            raise MedcodeError(
                f"asset {recipe}/{name} is of other examples, settings or another base model than the adapter; "
                f"materialize {recipe}/{name} first"
            )
    return {name: found for name, found in facts.items() if not found.get("skipped")}


def make_baseline(
    data: EvaluationData,
    target: Path,
    parts: Path,
    made_from: str,
    load: Callable[[Path, Vocabulary], Engine],
) -> None:
    """Let a baseline answer both splits and seal the artifact.

    Args:
        data: The notes.
        target: Folder of the artifact; replaced only by a complete one.
        parts: Folder of answers so far.
        made_from: Fingerprint.
        load: Given the new artifact's folder, in which it may put a model, and the trained codes, returns the engine.
    """
    import pyarrow.parquet as pq

    with making(target, made_from) as (folder, facts):
        pq.write_table(data.codes, folder / CODES)
        answer(load(folder, Vocabulary.read(folder / CODES)), data, parts, folder)
        facts.update(documents=len(data.validation) + len(data.test))
    discard_parts(parts)


def skip_baseline(target: Path, made_from: str) -> None:
    """Seal an artifact that says that the settings leave this baseline out."""
    with making(target, made_from) as (_, facts):
        facts.update(skipped=True)


def frequency_prior(data: EvaluationData) -> Callable[[Path, Vocabulary], Engine]:
    """Return what loads the frequency prior."""
    return lambda _, vocabulary: FrequencyPriorEngine(vocabulary, data.train_documents)


def untuned_base(
    recipe: Recipe, base: LocalModel, decoding: DecodingSettings, evaluation: EvaluationSettings, device: str
) -> Callable[[Path, Vocabulary], Engine]:
    """Return what loads the base model as it is."""
    return lambda _, vocabulary: language_model(
        UNTUNED_BASE, recipe, base, None, vocabulary, decoding, evaluation, device
    )


def linear(con: "duckdb.DuckDBPyConnection", recipe: str) -> Callable[[Path, Vocabulary], Engine]:
    """Return what fits the linear model on the training split and loads it.

    Notes stream out of the warehouse, once a pass.
    """

    def load(folder: Path, _: Vocabulary) -> Engine:
        from medcode_serving.engines.linear import LinearEngine

        with tqdm(total=100, desc="fitting: linear", unit="%", delay=1) as bar:

            def on_progress(stage: str, share: float) -> None:
                bar.set_postfix_str(stage, refresh=False)
                bar.update(round(100 * share) - bar.n)

            chunks = partial(training_chunks, con, recipe)
            fit_linear(chunks, candidate_codes(con, recipe), folder / LINEAR, on_progress=on_progress)
        return LinearEngine.load(folder / LINEAR)

    return load


def training_chunks(
    con: "duckdb.DuckDBPyConnection", recipe: str
) -> Iterator[tuple[list[str], list[list[tuple[str, str]]]]]:
    """Give the training notes with their gold codes, `NOTES_AT_ONCE` at a time, in the same order each time."""
    query = f"""
        WITH coded AS (
            SELECT example_id, list((system, code) ORDER BY label) AS gold
            FROM (SELECT example_id, unnest(gold) AS label FROM {recipe}.examples WHERE split = 'train')
            JOIN {recipe}.labels USING (label)
            GROUP BY example_id
        )
        SELECT note, gold FROM coded JOIN {recipe}.notes USING (example_id) ORDER BY example_id
        """
    with second_cursor(con) as cursor:
        rows = cursor.execute(query)
        while chunk := rows.fetchmany(NOTES_AT_ONCE):
            yield [note for note, _ in chunk], [[tuple(code) for code in gold] for _, gold in chunk]


def candidate_codes(con: "duckdb.DuckDBPyConnection", recipe: str) -> list[CandidateCode]:
    """Return the codes that the linear model may name: the trained ones, then the others of the recipe's dictionary.

    A code is reached through its title even if no training note has it. View `<recipe>.dictionary` is empty where
    the settings close the task (`data.min_frequency`, `data.top_codes`).
    """
    rows = con.execute(
        f"""
        SELECT system, code, description, frequency FROM {recipe}.labels WHERE frequency > 0
        UNION ALL
        SELECT system, code, description, 0 FROM {recipe}.dictionary
        ANTI JOIN (FROM {recipe}.labels WHERE frequency > 0) USING (system, code)
        ORDER BY frequency DESC, system, code
        """
    ).fetchall()
    return [CandidateCode(*row) for row in rows]
