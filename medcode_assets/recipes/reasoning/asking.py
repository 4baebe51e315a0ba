"""What a stage's model answers freely, and how likely it finds the two answers of a pair."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medcode_assets.recipes.reasoning.measuring import Asked
from medcode_assets.recipes.reasoning.staging import stage_prompt
from medcode_assets.recipes.recipe import Stage
from medcode_serving.adapters import load_adapted_model
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import DecodingSettings
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.device import resolve_device
from medcode_serving.prompts import encode_completions, encode_prompts

if TYPE_CHECKING:
    import duckdb
    from numpy.typing import NDArray

PAIRS_AT_ONCE = 8


@dataclass(frozen=True)
class Pair:
    """A narrative with the answer that is preferred and the one that is not."""

    narrative: str
    chosen: str
    rejected: str


def asked_narratives(con: "duckdb.DuckDBPyConnection", limit: int) -> list[Asked]:
    """Return narratives of stage 2's test split, at most `limit` (0: all), the same ones each time."""
    rows = con.execute(
        "SELECT narrative, system, code, description FROM reasoning.stage_2 WHERE split = 'test' "
        "ORDER BY md5(CAST(example_id AS VARCHAR)), example_id "
        "LIMIT CASE WHEN $limit = 0 THEN 9223372036854775807 ELSE $limit END",
        {"limit": limit},
    ).fetchall()
    return [Asked(*row) for row in rows]


def asked_pairs(con: "duckdb.DuckDBPyConnection", limit: int) -> list[Pair]:
    """Return pairs of stage 3's test split, at most `limit` (0: all), the same ones each time."""
    rows = con.execute(
        "SELECT narrative, completion, worse FROM reasoning.stage_3 WHERE split = 'test' "
        "ORDER BY md5(CAST(example_id AS VARCHAR)), example_id "
        "LIMIT CASE WHEN $limit = 0 THEN 9223372036854775807 ELSE $limit END",
        {"limit": limit},
    ).fetchall()
    return [Pair(*row) for row in rows]


def written_answers(
    asked: list[Asked],
    stage: Stage,
    base: LocalModel,
    adapter: Path | None,
    vocabulary: Vocabulary,
    decoding: DecodingSettings,
    *,
    max_tokens: int,
    device: str,
    batch_size: int,
    on_progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Return what a stage's model writes about each narrative, without constraint.

    Args:
        asked: The narratives.
        stage: Whose prompt.
        base: The base model.
        adapter: The stage's; None: the base model alone.
        vocabulary: The codes of the recipe.
        decoding: Limit of the prompt.
        max_tokens: Of an answer at most.
        device: auto, cpu, cuda or mps.
        batch_size: Narratives in one forward pass.
        on_progress: Is told how many more are answered.
    """
    from medcode_serving.engines.transformers import TransformersEngine

    engine = TransformersEngine(
        stage.name,
        base.path,
        adapter,
        vocabulary,
        stage_prompt(stage, base),
        decoding,
        device=device,
        batch_size=batch_size,
        base_revision=base.revision,
    )
    try:
        return engine.write([one.narrative for one in asked], max_tokens, on_progress=on_progress)
    finally:
        engine.close()


def pair_log_probabilities(
    pairs: list[Pair],
    stage: Stage,
    base: LocalModel,
    adapter: Path,
    *,
    max_prompt_tokens: int,
    device: str,
    on_progress: Callable[[int], None] | None = None,
) -> "tuple[NDArray[np.float64], NDArray[np.int64]]":
    """Return the log-probabilities of pairs' answers under a model, in nats, and their lengths in tokens.

    Returns:
        Both [pairs, 2]: chosen, rejected.
    """
    import torch

    from medcode_assets.training.objectives.dpo import answer_log_probabilities
    from medcode_assets.training.objectives.rows import padded_row
    from medcode_serving.engines.adapted import default_dtype
    from medcode_serving.engines.transformers import load_tokenizer

    tokenizer = load_tokenizer(base.path)
    prompt = stage_prompt(stage, base)
    where = resolve_device(device)
    model = load_adapted_model(
        base.path, adapter, dtype=default_dtype(where), merge=True, base_revision=base.revision
    ).to(torch.device(where))  # type: ignore[arg-type]
    model.eval()
    prompts = encode_prompts(tokenizer, prompt, [pair.narrative for pair in pairs], max_prompt_tokens)
    texts = [[pair.chosen for pair in pairs], [pair.rejected for pair in pairs]]
    answers = [encode_completions(tokenizer, side) for side in texts]
    found = np.zeros((len(pairs), 2))
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        places = range(start, min(start + PAIRS_AT_ONCE, len(pairs)))
        rows = [
            (np.array(prompts[place].input_ids), [np.array(answers[side][place]) for side in (0, 1)])
            for place in places
        ]
        row = padded_row(rows, int(tokenizer.pad_token_id))
        with torch.inference_mode():
            found[places] = answer_log_probabilities(model, row.to(where)).double().cpu().numpy()
        if on_progress:
            on_progress(len(places))
    lengths = np.array([[len(ids) for ids in pair] for pair in zip(*answers, strict=True)], dtype=np.int64)
    return found, lengths.reshape(-1, 2)
