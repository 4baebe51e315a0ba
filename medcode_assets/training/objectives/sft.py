"""Supervised fine-tuning: the completion's tokens become likelier; the prompt's are not learned."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medcode_assets.training.objectives.objective import Example, Row, label_logits
from medcode_assets.training.objectives.rows import packed_row, padded_row

if TYPE_CHECKING:
    import torch

    from medcode_assets.training.token_file import TokenFile


class SupervisedFineTuning:
    """Mean cross entropy over all completion tokens of a step, in nats a token."""

    columns: tuple[str, ...] = ("prompt_ids", "completion_ids")

    def weight(self, data: "TokenFile", places: Sequence[int]) -> int:
        """Return the number of completion tokens."""
        return int(data.lengths["completion_ids"][list(places)].sum())

    def row(self, examples: Sequence[Example], *, packed: bool, pad: int) -> Row:
        """Lay prompts with their completions into one row."""
        pairs = [(example["prompt_ids"], [example["completion_ids"]]) for example in examples]
        return packed_row(pairs) if packed else padded_row(pairs, pad)

    def loss(
        self, model: Any, row: Row, data: "TokenFile", places: Sequence[int]
    ) -> "tuple[torch.Tensor, dict[str, float]]":
        """Return the summed cross entropy, and how many tokens the model would have chosen itself."""
        from torch.nn.functional import cross_entropy

        logits = label_logits(model, row).float()
        correct = (logits.detach().argmax(-1) == row.labels).sum()
        return cross_entropy(logits, row.labels, reduction="sum"), {"token_accuracy": float(correct)}
