"""One optimizer step's gradients, in as many rows as memory allows."""

import gc
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medcode_assets.training.objectives.objective import Objective, Row
from medcode_assets.training.order import balanced_rows, grouped_rows
from medcode_assets.training.token_file import TokenFile
from medcode_assets.training.world import World
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


@dataclass
class Sums:
    """What rows add up to, over all processes."""

    loss: float = 0.0
    weight: int = 0
    tokens: int = 0
    padding: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def mean_loss(self) -> float:
        """Loss a unit of weight: a completion token or a pair."""
        return self.loss / max(1, self.weight)

    @property
    def means(self) -> dict[str, float]:
        """The metrics a unit of weight."""
        return {name: value / max(1, self.weight) for name, value in self.metrics.items()}

    def plus(self, world: World) -> "Sums":
        """Return the sums over all processes; every process has the same weight already."""
        names = sorted(self.metrics)
        loss, tokens, padding, *metrics = world.add(
            self.loss, self.tokens, self.padding, *(self.metrics[name] for name in names)
        )
        return Sums(loss, self.weight, int(tokens), int(padding), dict(zip(names, metrics, strict=True)))


@dataclass
class RowComputer:
    """Lays examples into rows and computes them on this process's device."""

    model: Any
    objective: Objective
    packed: bool
    pad: int
    device: str
    compute: "torch.dtype"
    world: World
    rows: int
    """Rows of a step, over all processes; doubled when memory runs out."""
    scaler: Any = None
    """Loss scaler, for fp16."""

    def autocast(self) -> "torch.autocast":
        """Return the context in which products are computed in the precision asked for."""
        import torch

        kind = self.device.partition(":")[0]
        return torch.autocast(kind, dtype=self.compute, enabled=self.compute != torch.float32)

    def gradients(self, data: TokenFile, places: Sequence[int], seed: int, step: int) -> Sums:
        """Leave the gradients of a step's mean loss in the parameters.

        Raises:
            MedcodeError: a loss is not finite, or one example alone does not fit into memory.
        """
        weight = self.objective.weight(data, places)
        while True:
            sums = Sums(weight=weight)
            ran_out = False
            try:
                for number, (row_places, counts) in self._dealt(data, places):
                    # By step and row, so that dropout is the same after a kill and for any number of processes.
                    _seed(seed, step, number)
                    self._row_gradients(data, row_places, sums, counts)
                    refuse_not_finite(sums.loss, f"training step {step + 1}", data.example_ids[row_places].tolist())
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self.world.sharded:
                    raise
                ran_out = True
            if not self.world.any(ran_out):
                self.world.add_gradients([p for p in self.model.parameters() if p.requires_grad])
                return sums.plus(self.world)
            self._use_less_memory(data, places)

    def _row_gradients(self, data: TokenFile, places: list[int], sums: Sums, counts: bool) -> None:
        """Add a row's gradients; a function of its own, so that the row is let go of even where memory ran out."""
        loss = self._row_loss(data, places, sums, counts)
        scaled = loss / sums.weight if counts else loss * 0
        (self.scaler.scale(scaled) if self.scaler else scaled).backward()

    def evaluate(self, data: TokenFile, batch_size: int) -> Sums:
        """Return loss and metrics over a whole token file, without gradients, in smaller rows if memory runs out.

        Raises:
            MedcodeError: the loss is not finite.
        """
        self.model.eval()
        try:
            while True:
                try:
                    sums, ran_out = self._evaluated(data, batch_size), False
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error) or self.world.sharded or batch_size == 1:
                        raise
                    ran_out = True
                if not self.world.any(ran_out):
                    return sums.plus(self.world)
                batch_size = max(1, batch_size // 2)
        finally:
            self.model.train()

    def _evaluated(self, data: TokenFile, batch_size: int) -> Sums:
        import torch

        places = list(range(len(data)))
        sums = Sums(weight=self.objective.weight(data, places))
        with torch.no_grad():
            for start in range(0, len(places), batch_size * self.world.size):
                some = places[start : start + batch_size * self.world.size]
                for _, (row_places, counts) in self._dealt(data, some, rows=self.world.size):
                    self._row_loss(data, row_places, sums, counts)
                    refuse_not_finite(sums.loss, "validation", data.example_ids[row_places].tolist())
        return sums

    def _dealt(
        self, data: TokenFile, places: Sequence[int], rows: int | None = None
    ) -> list[tuple[int, tuple[list[int], bool]]]:
        """Return this process's rows with their numbers, and whether each counts."""
        lengths = [sum(int(data.lengths[name][place]) for name in self.objective.columns) for place in places]
        deal = balanced_rows if self.packed else grouped_rows
        dealt = [([places[index] for index in row], True) for row in deal(lengths, rows or self.rows)]
        if self.world.sharded or len(dealt) < self.world.size:
            # Shares of weights are exchanged in every forward pass: each process needs as many rows as the others.
            # And each needs at least one, or it would have neither gradients nor metrics to add to theirs.
            dealt += [([places[0]], False)] * (-len(dealt) % self.world.size)
        return list(enumerate(dealt))[self.world.rank :: self.world.size]

    def _row_loss(self, data: TokenFile, places: list[int], sums: Sums, counts: bool) -> "torch.Tensor":
        """Compute a row's summed loss and add it, and what else was seen, to the sums."""
        row: Row = self.objective.row([data[place] for place in places], packed=self.packed, pad=self.pad)
        with self.autocast():
            loss, metrics = self.objective.loss(self.model, row.to(self.device), data, places)
        if counts:
            sums.loss += float(loss.detach())
            sums.tokens += row.real_tokens
            sums.padding += row.padding
        for name, value in metrics.items():
            sums.metrics[name] = sums.metrics.get(name, 0.0) + value * counts
        return loss

    def _use_less_memory(self, data: TokenFile, places: Sequence[int]) -> None:
        """Forget the step and deal its examples to twice as many rows."""
        import torch

        for parameter in self.model.parameters():
            parameter.grad = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.rows >= len(places):
            longest = max(sum(int(data.lengths[name][place]) for name in self.objective.columns) for place in places)
            raise MedcodeError(
                f"out of memory with one example of {longest} tokens at a time; lower data.max_prompt_tokens, set "
                "training.gradient_checkpointing=true or training.mode=qlora, or choose a smaller base (medcode plan)"
            )
        before, self.rows = self.rows, self.rows * 2
        logger.warning(
            "out of memory: a step's examples go into %d rows from here on instead of %d; the result is the same",
            self.rows,
            before,
        )


def refuse_not_finite(loss: float, where: str, example_ids: Sequence[int]) -> None:
    """Raise MedcodeError if a loss is NaN or infinite."""
    if not math.isfinite(loss):
        ids = ", ".join(map(str, example_ids))
        raise MedcodeError(
            f"{where}: loss is {loss} at example_id {ids}; lower training.learning_rate or training.max_grad_norm"
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's memory ran out."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)


def _seed(seed: int, step: int, row: int) -> None:
    import torch

    torch.manual_seed(((seed * 1_000_003 + step) * 65_536 + row) % 2**63)
