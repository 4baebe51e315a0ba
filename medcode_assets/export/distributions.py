"""How far what a GGUF file computes is from what the model does: distributions, likeliest tokens, greedy answers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medcode_assets.export.reference import LanguageModel

if TYPE_CHECKING:
    import numpy as np

NEW_TOKENS = 32
"""Of each greedy answer."""
_PROMPT_POSITIONS = 16
_MASS_TOLERANCE = 1e-3


@dataclass
class Comparison:
    """Distributions and answers of the prompts seen so far."""

    kl: list[float] = field(default_factory=list)
    same_top: list[bool] = field(default_factory=list)
    overturned: list[float] = field(default_factory=list)
    """Of each position with another likeliest token: by how many nats the merged model preferred its own."""
    differences: list[float] = field(default_factory=list)
    greedy_equal: int = 0
    parted: list[tuple[int, float]] = field(default_factory=list)
    """(number of the prompt, by how many nats the merged model preferred its own token)"""


def compare(
    reference: LanguageModel,
    model: LanguageModel,
    prompts: list[list[int]],
    on_progress: Callable[[int, int], None] | None,
) -> Comparison:
    """Compare distributions at some positions of each prompt and at all of its greedy answer."""
    import numpy as np

    result = Comparison()
    for number, prompt in enumerate(prompts):
        answer = reference.greedy(prompt, NEW_TOKENS)
        ends = np.linspace(0, len(prompt) - 1, min(_PROMPT_POSITIONS, len(prompt))).astype(int)
        positions = sorted({*ends.tolist(), *range(len(prompt) - 1, len(prompt) + len(answer) - 1)})
        tokens = prompt + answer
        expected = reference.log_probabilities(tokens, positions)
        found = model.log_probabilities(tokens, positions)
        result.kl.extend(divergence(expected, found))
        same, overturned = compare_likeliest(expected, found)
        result.same_top.extend(same)
        result.overturned.extend(overturned)
        result.differences.append(_largest_difference(expected, found))
        answer_rows = expected[positions.index(len(prompt) - 1) :]
        preference = parting_preference(answer_rows, answer, model.greedy(prompt, NEW_TOKENS))
        if preference is None:
            result.greedy_equal += 1
        else:
            result.parted.append((number, preference))
        if on_progress is not None:
            on_progress(number + 1, len(prompts))
    return result


def divergence(expected: "np.ndarray", found: "np.ndarray") -> list[float]:
    """Return KL(expected || found) of each row of natural log-probabilities [rows, vocabulary], in nats.

    Where `found` does not tell all tokens (NaN), this is a lower bound by KL's chain rule: the divergence within the
    told tokens, times their mass, plus that between told and untold. The second is left out as long as the masses
    agree within 1e-3: llama.cpp adds up its softmax in fp32, and the sums are off by 1e-5 (seen), which would look
    like a KL of that size. A row that tells nothing gives NaN.
    """
    import numpy as np

    divergences = []
    for p, log_q in zip(np.exp(expected), found, strict=True):
        told = np.isfinite(log_q)
        if not told.any():
            divergences.append(float("nan"))
            continue
        q = np.exp(log_q[told])
        p_mass, q_mass = p[told].sum(), q.sum()
        kl = p_mass * _kl(p[told] / p_mass, q / q_mass)
        if abs(p_mass - q_mass) > _MASS_TOLERANCE:
            kl += _kl(np.array([p_mass, 1 - p_mass]), np.array([q_mass, max(1 - q_mass, 1e-12)]))
        divergences.append(float(kl))
    return divergences


def _kl(p: "np.ndarray", q: "np.ndarray") -> float:
    import numpy as np

    positive = p > 0
    return float((p[positive] * np.log(p[positive] / q[positive])).sum())


def parting_preference(rows: "np.ndarray", expected: list[int], found: list[int]) -> float | None:
    """Return by how many nats the merged model preferred its own token where two greedy answers part.

    Args:
        rows: The merged model's log-probabilities [answer tokens, vocabulary] along its own answer.
        expected: The merged model's answer.
        found: The file's answer.

    Returns:
        None if the answers are equal; infinity if one stops where the other goes on.
    """
    for row, mine, other in zip(rows, expected, found, strict=False):
        if mine != other:
            return float(row[mine] - row[other])
    return None if len(expected) == len(found) else float("inf")


def compare_likeliest(expected: "np.ndarray", found: "np.ndarray") -> tuple[list[bool], list[float]]:
    """Return whether each row has the same likeliest token; and by how many nats each that has not preferred its own.

    That is infinity where no probability is told.
    """
    mine, other = expected.argmax(1), _known_argmax(found)
    overturned = [
        float(row[own] - row[new]) if new >= 0 else float("inf")
        for row, own, new in zip(expected, mine, other, strict=True)
        if own != new
    ]
    return (mine == other).tolist(), overturned


def _known_argmax(found: "np.ndarray") -> "np.ndarray":
    """Return the likeliest token of each row, -1 where no probability is told."""
    import numpy as np

    return np.where(np.isfinite(found).any(1), np.where(np.isfinite(found), found, -np.inf).argmax(1), -1)


def _largest_difference(expected: "np.ndarray", found: "np.ndarray") -> float:
    import numpy as np

    told = (expected > np.log(1e-3)) & np.isfinite(found)
    return float(np.abs(expected - found)[told].max(initial=0.0))
