"""Tokenized examples to padded tensors: loss on the completion only."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""Label that the loss leaves out (PyTorch's ignore_index)."""


def collate(examples: Sequence[dict[str, list[int]]], pad_token_id: int) -> "dict[str, torch.Tensor]":
    """Return input_ids, attention_mask and labels, each [examples, longest], padded on the right.

    Labels are the completion's tokens; prompt and padding carry `IGNORED`.
    """
    import torch

    rows = [[*example["prompt_ids"], *example["completion_ids"]] for example in examples]
    width = max(map(len, rows))
    input_ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, IGNORED)
    for index, (row, example) in enumerate(zip(rows, examples, strict=True)):
        input_ids[index, : len(row)] = torch.tensor(row)
        attention_mask[index, : len(row)] = 1
        labels[index, len(example["prompt_ids"]) : len(row)] = torch.tensor(example["completion_ids"])
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
