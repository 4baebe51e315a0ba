"""Proof that an adapter's GGUF file, laid over its base model's, answers as the merged model does."""

from collections.abc import Sequence
from pathlib import Path

from medcode_assets.export.distributions import divergence
from medcode_assets.export.llamacpp import LlamaCppModel
from medcode_assets.export.quantizations import QUANTIZATIONS
from medcode_assets.export.reference import TransformersModel
from medcode_serving.prompts import PromptTemplate

_NEW_TOKENS = 32
_GATE = QUANTIZATIONS["f16"].gate
"""Both are fp32, but sum in another order."""


def lora_problems(
    lora: Path,
    base_gguf: Path,
    reference: TransformersModel,
    prompts: Sequence[str],
    prompt: PromptTemplate | None = None,
) -> list[str]:
    """Compare next-token distributions along the merged model's greedy answers; return what is wrong, no text in it.

    Args:
        lora: `write_lora_gguf`'s file.
        base_gguf: The base model as GGUF, f32.
        reference: The merged model.
        prompts: Rendered prompts, at least one.
        prompt: What they were rendered from; None: a template without markup.

    Raises:
        MedcodeError: llama.cpp does not load the files.
    """
    import numpy as np

    limit = reference.context_length - _NEW_TOKENS - 8
    encoded = [reference.prompt_tokens(text, prompt)[:limit] for text in prompts]
    found: list[float] = []
    with LlamaCppModel(base_gguf, max(map(len, encoded)) + _NEW_TOKENS + 8, lora) as model:
        for asked in encoded:
            tokens = asked + reference.greedy(asked, _NEW_TOKENS)
            positions = list(range(len(asked) - 1, len(tokens) - 1))
            expected = reference.log_probabilities(tokens, positions)
            found += divergence(expected, model.log_probabilities(tokens, positions))
    kl = float(np.mean(found))
    if kl <= _GATE.kl:
        return []
    return [f"next-token distributions differ: KL {kl:.2g}, at most {_GATE.kl:.0e} is expected"]
