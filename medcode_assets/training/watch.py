"""What is counted along the loop: throughput, and whether the loss still behaves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from medcode_assets.training.steps import Sums
from medcode_serving.errors import MedcodeError


@dataclass
class Throughput:
    """Sums over steps."""

    sums: Sums = field(default_factory=Sums)
    seconds: float = 0.0

    def count(self, step: Sums, seconds: float) -> None:
        """Add a step."""
        total = self.sums
        total.loss += step.loss
        total.weight += step.weight
        total.tokens += step.tokens
        total.padding += step.padding
        for name, value in step.metrics.items():
            total.metrics[name] = total.metrics.get(name, 0.0) + value
        self.seconds += seconds

    @property
    def tokens_per_second(self) -> float:
        """Real tokens a second."""
        return self.sums.tokens / self.seconds if self.seconds else 0.0

    @property
    def padding_share(self) -> float:
        """Share of what was computed that is padding."""
        return self.sums.padding / max(1, self.sums.tokens + self.sums.padding)

    @property
    def metrics(self) -> dict[str, float]:
        """What is logged."""
        return {
            "loss": self.sums.mean_loss,
            **self.sums.means,
            "tokens_per_second": self.tokens_per_second,
            "padding_share": self.padding_share,
        }


EARLY_STEPS = 20


@dataclass
class LossWatch:
    """Stops a training whose loss explodes, before hours are spent on it.

    Exploded is a loss of three times the running mean that is also twice as high as any of the first steps: small
    steps of single notes vary, but not to where the model was worse than before it learned anything. Checkpoints keep
    what was seen, so that a resumed training judges as an undisturbed one.
    """

    steps: int = 0
    mean: float = 0.0
    highest_early: float = 0.0

    def refuse_explosion(self, loss: float, norm: float, step: int, example_ids: Sequence[int]) -> None:
        """Raise MedcodeError if a step's mean loss exploded or its gradients are not finite."""
        exploded = self.steps >= EARLY_STEPS and loss > max(3 * self.mean, 2 * self.highest_early)
        if exploded or not math.isfinite(norm):
            what = f"loss jumped from {self.mean:.3g} to {loss:.3g}" if exploded else f"gradient norm is {norm}"
            ids = ", ".join(map(str, example_ids))
            raise MedcodeError(
                f"training step {step}: {what} at example_id {ids}; "
                "lower training.learning_rate or training.max_grad_norm"
            )
        if self.steps < EARLY_STEPS:
            self.highest_early = max(self.highest_early, loss)
        self.steps += 1
        weight = max(0.05, 1 / self.steps)
        self.mean += weight * (loss - self.mean)
