"""How likely a causal language model finds completions: token log-probabilities and perplexity."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import torch


def perplexity(token_log_probabilities: Sequence[Sequence[float]]) -> float:
    """Return exp(-mean log p) over the tokens of all completions: long ones weigh more, as in the training loss.

    Args:
        token_log_probabilities: Natural logarithms, at most 0, of each completion's tokens.

    Returns:
        At least 1; infinite if a token is impossible. Only numbers of one tokenizer compare.

    Raises:
        MedcodeError: there is no token, or a number is NaN: the model diverged.
        ValueError: a number is above 0, and so is no log-probability.
    """
    flat = [value for completion in token_log_probabilities for value in completion]
    if not flat:
        raise MedcodeError("there is no token to take a perplexity over; check that the split has examples")
    if any(map(math.isnan, flat)):
        raise MedcodeError("a token log-probability is NaN: the model diverged; train with a lower learning rate")
    if max(flat) > 1e-6:  # a certain token may be a rounding error above 0
        raise ValueError(f"{max(flat)} is no log-probability")
    mean = -sum(flat) / len(flat)
    try:
        return math.exp(max(mean, 0.0))
    except OverflowError:
        return math.inf


def completion_log_probabilities(
    model: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *, batch_size: int = 8
) -> list[list[float]]:
    """Return the natural log-probability of each completion token, given the prompt and the tokens before it.

    Args:
        model: A transformers causal language model in evaluation mode.
        prompts: Token ids, at least one a prompt (`medcode_serving.prompts.encode_prompts`).
        completions: Token ids (`medcode_serving.prompts.encode_completions`).
        batch_size: Sequences in one forward pass, padded on the right.

    Returns:
        One list a completion, in the order given, as long as the completion.

    Raises:
        ValueError: prompts and completions are not as many, a prompt is empty, or the model is in training mode.
    """
    if len(prompts) != len(completions):
        raise ValueError(f"there are {len(prompts)} prompts and {len(completions)} completions")
    if not all(map(len, prompts)):
        raise ValueError("a prompt is empty: nothing predicts its completion's first token")
    if model.training:
        raise ValueError("the model is in training mode, where dropout makes probabilities random: call eval()")
    # Prompts of like length together: little padding, and few positions need logits.
    order = sorted(range(len(prompts)), key=lambda place: (len(prompts[place]), len(completions[place])))
    found: dict[int, list[float]] = {}
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        rows = _batch_log_probabilities(model, [prompts[at] for at in places], [completions[at] for at in places])
        found.update(zip(places, rows, strict=True))
    return [found[place] for place in range(len(prompts))]


def _batch_log_probabilities(
    model: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> list[list[float]]:
    import torch

    texts = [torch.tensor([*prompt, *completion]) for prompt, completion in zip(prompts, completions, strict=True)]
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    lengths = torch.tensor([len(text) for text in texts])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    # Logits are [batch, positions, vocabulary]: only positions from the shortest prompt's last token on.
    first = min(map(len, prompts)) - 1
    kept = torch.arange(first, ids.shape[1])
    with torch.inference_mode():
        logits = model(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            logits_to_keep=kept.to(model.device),
            use_cache=False,
        ).logits
        scores = _log_probabilities(logits[:, :-1], ids[:, first + 1 :].to(model.device)).cpu()
    return [
        scores[row, len(prompt) - 1 - first : len(prompt) - 1 - first + len(completion)].tolist()
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
    ]


def _log_probabilities(logits: "torch.Tensor", tokens: "torch.Tensor") -> "torch.Tensor":
    """Return log p of each token under the logits that predict it: float32 [batch, positions]."""
    logits = logits.float()
    return logits.gather(-1, tokens[..., None])[..., 0] - logits.logsumexp(-1)
