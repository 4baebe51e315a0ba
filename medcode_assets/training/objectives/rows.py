"""Examples to rows: packed without padding, or padded for models that have not been shown to pack right."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medcode_assets.training.attention import RowLayout, Span
from medcode_assets.training.objectives.objective import Row

if TYPE_CHECKING:
    from collections.abc import Iterable


def packed_row(examples: Sequence[tuple[np.ndarray, Sequence[np.ndarray]]]) -> Row:
    """Lay (prompt, completions) one after the other.

    One completion is the prompt's continuation; several are branches that share the prompt: they take the same
    positions, and the first token of each is predicted by the prompt's last.
    """
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    spans, predicting, labels, sequence = [], [], [], []
    at = completion_number = 0
    for prompt, completions in examples:
        lengths = [len(completion) for completion in completions]
        start, end = at, at + len(prompt)
        ids += [prompt, *completions]
        positions += [np.arange(len(prompt)), *(len(prompt) + np.arange(length) for length in lengths)]
        branch = end
        for completion, length in zip(completions, lengths, strict=True):
            predicting.append(np.concatenate([[end - 1], np.arange(branch, branch + length - 1)]))
            labels.append(completion)
            sequence.append(np.full(length, completion_number))
            branch += length
            completion_number += 1
        alone = len(completions) == 1
        spans.append(Span(start, branch - start) if alone else Span(start, len(prompt), tuple(lengths)))
        at = branch
    return Row(
        input_ids=_tensor(ids)[None],
        position_ids=_tensor(positions)[None],
        predicting=_tensor(predicting),
        labels=_tensor(labels),
        sequence=_tensor(sequence),
        real_tokens=at,
        layout=RowLayout(tuple(spans)),
    )


def padded_row(examples: Sequence[tuple[np.ndarray, Sequence[np.ndarray]]], pad: int) -> Row:
    """Lay each completion with its prompt into a sequence of its own, padded on the right to the longest."""
    import torch

    pairs = [(prompt, completion) for prompt, completions in examples for completion in completions]
    width = max(len(prompt) + len(completion) for prompt, completion in pairs)
    input_ids = np.full((len(pairs), width), pad, dtype=np.int64)
    mask = np.zeros((len(pairs), width), dtype=np.int64)
    predicting, labels, sequence = [], [], []
    for number, (prompt, completion) in enumerate(pairs):
        length = len(prompt) + len(completion)
        input_ids[number, :length] = np.concatenate([prompt, completion])
        mask[number, :length] = 1
        predicting.append(number * width + np.arange(len(prompt) - 1, length - 1))
        labels.append(completion)
        sequence.append(np.full(len(completion), number))
    return Row(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.arange(width).expand(len(pairs), -1),
        predicting=_tensor(predicting),
        labels=_tensor(labels),
        sequence=_tensor(sequence),
        real_tokens=int(mask.sum()),
        attention_mask=torch.from_numpy(mask),
    )


def _tensor(parts: "Iterable[np.ndarray]") -> Any:
    import torch

    return torch.from_numpy(np.concatenate(list(parts)).astype(np.int64))
