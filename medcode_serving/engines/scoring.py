"""How sure a model is of an answer that it is given, prompt by prompt."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medcode_serving.decoding import GivenAnswer
from medcode_serving.decoding.trie import Floats
from medcode_serving.engines.generation import SharedPrefix, begin, forward
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import torch

LOGITS_AT_ONCE = 2**26
"""Numbers in the logits of one batch at most: 256 MB."""


def log_confidences(
    model: Callable[[], Any],
    prompts: Sequence[list[int]],
    answer: GivenAnswer,
    *,
    pad: int,
    batch_size: int,
    prefix: SharedPrefix | None = None,
) -> Floats:
    """Return [prompts, codes] the logarithm of the confidence of each code of an answer, as `DecodedCode` defines it.

    Args:
        model: Returns a causal language model in evaluation mode; asked before each batch.
        prompts: Token ids of each prompt.
        answer: What is written after each of them.
        pad: Token that fills shorter prompts up.
        batch_size: Prompts in one forward pass at most.
        prefix: Beginning of the prompts that need not be computed.

    Raises:
        MedcodeError: the model gives no finite numbers.
    """
    import torch

    found = np.zeros((len(prompts), answer.codes))
    order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    numbers = len(answer.decisions) * model().config.get_text_config().vocab_size
    size = max(1, min(batch_size, LOGITS_AT_ONCE // numbers))
    with torch.inference_mode():
        for start in range(0, len(order), size):
            places = order[start : start + size]
            logits = _decision_logits(model(), [prompts[place] for place in places], answer, pad, prefix)
            found[places] = _by_code(logits, answer)
    if not np.isfinite(found).all():
        raise MedcodeError("the model gives logits that are no finite numbers; train the adapter anew")
    return found


def _decision_logits(
    model: Any, prompts: Sequence[list[int]], answer: GivenAnswer, pad: int, prefix: SharedPrefix | None
) -> "torch.Tensor":
    """Return [prompts, decisions, vocabulary]."""
    import torch

    ids, mask, cache = begin(model, [[*prompt, *answer.tokens] for prompt in prompts], pad, prefix)
    behind_prompt = ids.shape[1] - len(answer.tokens) - 1
    asked = torch.tensor([behind_prompt + decision.position for decision in answer.decisions], device=ids.device)
    logits: torch.Tensor = forward(model, ids, mask, cache, logits=asked).logits
    return logits if logits.shape[1] == len(asked) else logits[:, asked]


def _by_code(logits: "torch.Tensor", answer: GivenAnswer) -> Floats:
    found = np.zeros((len(logits), answer.codes))
    code = 0
    for place, decision in enumerate(answer.decisions):
        allowed = logits[:, place, decision.tokens].double().cpu().numpy()
        log_p = allowed - np.logaddexp.reduce(allowed, axis=1, keepdims=True)
        chosen = log_p[:, decision.chosen]
        if not decision.closing[decision.chosen]:
            found[:, code] += chosen
            continue
        close = np.logaddexp.reduce(log_p[:, decision.closing], axis=1)
        found[:, code] += close
        code += 1
        if code < answer.codes:  # that another code follows counts for that one
            found[:, code] += chosen - close
    return np.minimum(found, 0.0)
