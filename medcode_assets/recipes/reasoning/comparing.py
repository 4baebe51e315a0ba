"""Every stage asked the same narratives and pairs, and measured; written as one artifact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from medcode_assets.artifacts import making, required
from medcode_assets.config import EvaluationSettings
from medcode_assets.progress import step
from medcode_assets.recipes.bundling import trained_codes
from medcode_assets.recipes.reasoning.asking import (
    Pair,
    asked_narratives,
    asked_pairs,
    pair_log_probabilities,
    written_answers,
)
from medcode_assets.recipes.reasoning.comparison import Comparison, StageResult, compare, write_result
from medcode_assets.recipes.reasoning.comparison_page import comparison_page
from medcode_assets.recipes.reasoning.measuring import Asked, measure_answers
from medcode_assets.recipes.reasoning.preferences import measure_preferences
from medcode_assets.recipes.reasoning.recipe import STAGES
from medcode_assets.recipes.recipe import Stage
from medcode_assets.warehouse import fingerprint, inputs
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import CODES, DecodingSettings
from medcode_serving.codes.tables import code_tables, tables_hash
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.prompts import encode_completions
from medcode_serving.reasoned import code_line

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

COMPARISON, PAGE = "comparison.json", "stages.html"


def comparison_fingerprint(
    con: "duckdb.DuckDBPyConnection", base: LocalModel, seals: Sequence[str], evaluation: EvaluationSettings
) -> str:
    """Return the fingerprint of a comparison of the stages whose seals are given."""
    return fingerprint(
        examples=inputs(con, "reasoning.examples", "reasoning.stage_3"),
        base=base.revision,
        stages=list(seals),
        max_documents=evaluation.max_documents,
        resamples=evaluation.resamples,
        tables=tables_hash(),
        version=1,
    )


@dataclass(frozen=True)
class ComparisonData:
    """All that a comparison needs of a warehouse, so that nobody waits for it while models run."""

    asked: list[Asked]
    pairs: list[Pair]
    frequencies: dict[tuple[str, str], int]
    """Training examples by system and code."""
    codes: "pa.Table"
    """The rows of codes.parquet."""
    longest: dict[int, int]
    """Tokens of the longest answer that a stage is taught, by its number."""


def comparison_data(con: "duckdb.DuckDBPyConnection", base: LocalModel, limit: int) -> ComparisonData:
    """Read what a comparison needs, at most `limit` narratives and pairs (0: all)."""
    rows = con.execute("SELECT system, code, frequency FROM reasoning.labels").fetchall()
    return ComparisonData(
        asked=asked_narratives(con, limit),
        pairs=asked_pairs(con, limit),
        frequencies={(system, code): frequency for system, code, frequency in rows},
        codes=trained_codes(con, "reasoning"),
        longest={stage.number: _longest_answer(con, stage, base) for stage in STAGES},
    )


def compare_stages(
    data: ComparisonData,
    target: Path,
    made_from: str,
    base: LocalModel,
    adapters: Mapping[int, Path],
    evaluation: EvaluationSettings,
    device: str,
    partition: str,
) -> Comparison:
    """Let the untuned base and every stage answer the test split, measure and compare; write an artifact.

    The untuned base is asked as stage 1 asks. All write freely: what they would be held to in serving is not counted
    for them.

    Args:
        data: Narratives, pairs and codes.
        target: Folder of the artifact.
        made_from: `comparison_fingerprint`.
        base: The base model.
        adapters: Artifact of each stage, by number.
        evaluation: How much is measured.
        device: auto, cpu, cuda or mps.
        partition: For the page.
    """
    import pyarrow.parquet as pq

    asked, tables = data.asked, code_tables()
    with making(target, made_from) as (folder, _):
        pq.write_table(data.codes, folder / CODES)
        vocabulary = Vocabulary.read(folder / CODES)
        measure = partial(
            measure_answers, asked=asked, tables=tables, frequencies=data.frequencies, resamples=evaluation.resamples
        )
        results = [StageResult(name="frequency_prior", answers=measure(_most_frequent(vocabulary, asked)))]
        for stage, adapter in [(STAGES[0], None), *((stage, adapters[stage.number]) for stage in STAGES)]:
            most = data.longest[stage.number]
            texts = _written(asked, stage, base, adapter, adapters, vocabulary, evaluation, device, most)
            preferences = _preferences(data.pairs, stage, base, adapter, evaluation, device) if adapter else None
            name: Any = stage.name if adapter else "untuned_base"
            results.append(StageResult(name=name, answers=measure(texts), preferences=preferences))
        found = compare(results, resamples=evaluation.resamples)
        write_result(found, folder / COMPARISON)
        facts = [("Corpus", partition), ("Base model", base.id)]
        (folder / PAGE).write_text(comparison_page(found, title="Recipe reasoning: its stages", facts=facts))
    return found


def _most_frequent(vocabulary: Vocabulary, asked: Sequence[Asked]) -> list[str]:
    """Return the most frequent code of training as the answer to every narrative."""
    first = max(vocabulary.codes, key=lambda code: code.frequency)
    return [code_line(first.system, first.code, first.description)] * len(asked)


def _longest_answer(con: "duckdb.DuckDBPyConnection", stage: Stage, base: LocalModel) -> int:
    """Return the tokens of the longest answer that a stage is taught: of those with most characters."""
    from medcode_serving.engines.transformers import load_tokenizer

    rows = con.execute(
        f"SELECT completion FROM reasoning.{stage.name} WHERE split = 'train' "
        "ORDER BY length(completion) DESC LIMIT 100"
    ).fetchall()
    return max(map(len, encode_completions(load_tokenizer(base.path), [row[0] for row in rows])))


def _written(
    asked: list[Asked],
    stage: Stage,
    base: LocalModel,
    adapter: Path | None,
    adapters: Mapping[int, Path],
    vocabulary: Vocabulary,
    evaluation: EvaluationSettings,
    device: str,
    max_tokens: int,
) -> list[str]:
    limits = DecodingSettings(**required(adapters[stage.number], stage.name)["decoding"])
    who = stage.name if adapter else "untuned base"
    with tqdm(total=len(asked), desc=f"writing: {who}", unit="narrative") as bar:
        return written_answers(
            asked,
            stage,
            base,
            adapter / "weights" if adapter else None,
            vocabulary,
            limits,
            max_tokens=max_tokens,
            device=device,
            batch_size=evaluation.batch_size,
            on_progress=partial(step, bar),
        )


def _preferences(
    pairs: list[Pair], stage: Stage, base: LocalModel, adapter: Path, evaluation: EvaluationSettings, device: str
) -> Any:
    # Pairs are answers with reasoning: every stage is asked for them as the last one asks.
    limits = DecodingSettings(**required(adapter, stage.name)["decoding"])
    with tqdm(total=len(pairs), desc=f"preferring: {stage.name}", unit="pair") as bar:
        found, lengths = pair_log_probabilities(
            pairs,
            STAGES[-1],
            base,
            adapter / "weights",
            max_prompt_tokens=limits.max_prompt_tokens,
            device=device,
            on_progress=partial(step, bar),
        )
    return measure_preferences(found, lengths, resamples=evaluation.resamples)
