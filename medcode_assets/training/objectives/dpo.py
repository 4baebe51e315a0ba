"""Direct preference optimisation (Rafailov et al. 2023): the chosen answer gains on the rejected one.

The reference is the model as it is before training, which for an adapter is the model with the adapter off. Its
log-probabilities do not change, so they are computed once and kept (`choose.add_reference`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medcode_assets.training.objectives.objective import Example, Row, label_logits
from medcode_assets.training.objectives.rows import packed_row, padded_row

if TYPE_CHECKING:
    import torch

    from medcode_assets.training.token_file import TokenFile


class DirectPreference:
    """Mean of -log sigmoid(beta * ((chosen - its reference) - (rejected - its reference))) over pairs.

    Chosen and rejected answer share one prompt in the row, which is computed once.
    """

    columns: tuple[str, ...] = ("prompt_ids", "chosen_ids", "rejected_ids")

    def __init__(self, beta: float) -> None:
        """Take how far the model may move from its reference; less beta, further."""
        self.beta = beta

    def weight(self, data: "TokenFile", places: Sequence[int]) -> int:
        """Return the number of pairs."""
        return len(places)

    def row(self, examples: Sequence[Example], *, packed: bool, pad: int) -> Row:
        """Lay prompts with both their answers into one row."""
        pairs = [(example["prompt_ids"], [example["chosen_ids"], example["rejected_ids"]]) for example in examples]
        return packed_row(pairs) if packed else padded_row(pairs, pad)

    def loss(
        self, model: Any, row: Row, data: "TokenFile", places: Sequence[int]
    ) -> "tuple[torch.Tensor, dict[str, float]]":
        """Return the summed loss; how many pairs are told apart, and by how much (in nats, scaled by beta)."""
        import torch
        from torch.nn.functional import logsigmoid

        if data.reference is None:
            raise ValueError("the pairs have no log-probabilities of the reference")
        reference = torch.from_numpy(data.reference[list(places)]).to(row.labels.device)
        gains = self.beta * (answer_log_probabilities(model, row).double() - reference)
        margins = gains[:, 0] - gains[:, 1]
        told = margins.detach()
        seen = {"reward_accuracy": float((told > 0).sum()), "reward_margin": float(told.sum())}
        return -logsigmoid(margins).sum(), seen


def answer_log_probabilities(model: Any, row: Row) -> "torch.Tensor":
    """Return the log-probability of each answer given its prompt, [pairs, 2]."""
    import torch

    logits = label_logits(model, row).float()
    chosen = logits.gather(-1, row.labels[:, None])[:, 0] - logits.logsumexp(-1)
    sums = torch.zeros(int(row.sequence.max()) + 1, dtype=chosen.dtype, device=chosen.device)
    return sums.index_add(0, row.sequence, chosen).view(-1, 2)
