"""The protocol of an objective, and the tensors of a row that each computes its loss on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from medcode_assets.training.attention import RowLayout

if TYPE_CHECKING:
    import torch

    from medcode_assets.training.token_file import TokenFile

Example = Mapping[str, np.ndarray]
"""Token ids by column."""


@dataclass(frozen=True)
class Row:
    """What the device computes at once.

    A packed row is [1, tokens], holds no padding and says in `layout` where its examples lie; a padded one is
    [sequences, longest], with the mask of its real tokens.
    """

    input_ids: "torch.Tensor"
    position_ids: "torch.Tensor"
    predicting: "torch.Tensor"
    """Places of the tokens that predict a label, in the flattened row: [labels]."""
    labels: "torch.Tensor"
    """What they are to predict: [labels]."""
    sequence: "torch.Tensor"
    """Which completion each label belongs to, counted through the row: [labels]."""
    real_tokens: int
    layout: RowLayout | None = None
    attention_mask: "torch.Tensor | None" = None

    def to(self, device: str) -> "Row":
        """Return the row on a device."""
        names = ("input_ids", "position_ids", "predicting", "labels", "sequence", "attention_mask")
        moved = {name: value.to(device) for name in names if (value := getattr(self, name)) is not None}
        return Row(**{**self.__dict__, **moved})

    @property
    def padding(self) -> int:
        """Number of padding tokens."""
        return self.input_ids.numel() - self.real_tokens


def label_logits(model: Any, row: Row) -> "torch.Tensor":
    """Return the logits that predict the row's labels, [labels, vocabulary]; no others are computed if it is packed."""
    if row.layout is not None:
        found = model(
            input_ids=row.input_ids,
            position_ids=row.position_ids,
            layout=row.layout,
            logits_to_keep=row.predicting,
            use_cache=False,
        )
        return found.logits.flatten(0, 1)  # not [0], whose gradient is a copy
    every = model(
        input_ids=row.input_ids, attention_mask=row.attention_mask, position_ids=row.position_ids, use_cache=False
    )
    return every.logits.flatten(0, 1)[row.predicting]


class Objective(Protocol):
    """What a training makes better."""

    columns: tuple[str, ...]
    """Columns of the token file, the prompt's first."""

    def weight(self, data: "TokenFile", places: Sequence[int]) -> int:
        """Return what the summed loss of examples is divided by."""
        ...

    def row(self, examples: Sequence[Example], *, packed: bool, pad: int) -> Row:
        """Lay examples into one row."""
        ...

    def loss(
        self, model: Any, row: Row, data: "TokenFile", places: Sequence[int]
    ) -> "tuple[torch.Tensor, dict[str, float]]":
        """Return the summed loss of a row that holds these examples, and sums of what else is worth seeing."""
        ...
