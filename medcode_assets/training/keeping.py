"""When the loop saves, what it goes on from, and which weights come out."""

import logging
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.training.checkpoints import (
    BEST,
    OPTIMIZER,
    WEIGHTS,
    best_checkpoint,
    drop_older,
    load_optimizer_state,
    load_trained_state,
    newest_checkpoint,
    optimizer_state,
    refuse_other_makers,
    save_checkpoint,
    step_folder,
    trained_state,
)
from medcode_assets.training.job import CHECKPOINTS, TrainingJob, TrainingResult
from medcode_assets.training.job import WEIGHTS as FINAL_WEIGHTS
from medcode_assets.training.models import save_weights
from medcode_assets.training.steps import RowComputer
from medcode_assets.training.watch import LossWatch
from medcode_assets.training.world import World

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


@dataclass
class Keeper:
    """Saves and restores what a training has come to."""

    job: TrainingJob
    folder: Path
    parameters: "dict[str, torch.nn.Parameter]"
    optimizer: "torch.optim.Optimizer"
    computer: RowComputer
    watch: LossWatch
    made_with: dict[str, str]
    _saved_at: float = field(default_factory=time.monotonic)

    @property
    def world(self) -> World:
        """The processes of the training."""
        return self.computer.world

    def resume(self) -> TrainingResult:
        """Restore the newest valid checkpoint and return how far it is; or return an empty result.

        Raises:
            MedcodeError: it was made with other libraries or on another device, and `training.resume` is exact.
        """
        # Restarted processes go on with what this very start came to. On several machines, not all may know of it.
        if self.job.training.resume == "never" and not self.world.any(self.world.restarted):
            if self.world.first:
                shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
            self.world.wait()
            return TrainingResult()
        checkpoint = newest_checkpoint(self.folder, self.job.fingerprint)
        if checkpoint is None:
            return TrainingResult()
        if self.job.training.resume == "exact":
            refuse_other_makers(checkpoint, self.made_with)
        load_trained_state(self.parameters, checkpoint.folder / WEIGHTS)
        load_optimizer_state(self.optimizer, self.parameters, checkpoint.folder / OPTIMIZER)
        self.computer.rows = max(self.computer.rows, checkpoint.manifest["rows"])
        if self.computer.scaler and checkpoint.manifest["scaler"]:
            self.computer.scaler.load_state_dict(checkpoint.manifest["scaler"])
        for name, value in checkpoint.manifest["watch"].items():
            setattr(self.watch, name, value)
        result = TrainingResult.model_validate(checkpoint.manifest["result"])
        result.resumed_from = result.steps
        return result

    def save_if_due(self, result: TrainingResult) -> None:
        """Save a checkpoint if the first process's clock says so."""
        due = time.monotonic() - self._saved_at >= self.job.training.checkpoint_minutes * 60
        if self.world.any(due and self.world.first):
            folder = step_folder(self.folder, result.steps)
            self._save(folder, result, with_optimizer=True)
            if self.world.first:
                drop_older(self.folder, keep=folder)
            self._saved_at = time.monotonic()

    def keep_if_best(self, result: TrainingResult, look: dict[str, float]) -> None:
        """Keep the weights of the lowest validation loss, if those are to come out; stop if none was lower for long."""
        if "loss" not in look:
            return
        losses = [look["loss"] for _, look in result.validation]
        if look["loss"] <= min(losses):
            result.best_step = result.steps
            if self.job.training.keep == "best":
                self._save(self.folder / CHECKPOINTS / BEST, result, with_optimizer=False)
        patience = self.job.training.early_stopping
        since_best = len(losses) - 1 - losses.index(min(losses))
        result.stopped_early = bool(patience) and since_best >= patience

    def finish(self, result: TrainingResult, model: Any, mode: str) -> None:
        """Write the weights that come out."""
        if self.job.training.keep == "best" and result.best_step not in (None, result.steps):
            best = best_checkpoint(self.folder, self.job.fingerprint)
            if best is None:
                logger.warning("the best weights, of step %s, are damaged: the last ones come out", result.best_step)
                result.best_step = None
            else:
                load_trained_state(self.parameters, best.folder / WEIGHTS)
        self.world.wait()  # before the first process deletes what the others may still be reading
        if not self.world.writes_or_shares:
            return
        state = trained_state(self.parameters)
        if self.world.first:
            save_weights(model, self.folder / FINAL_WEIGHTS, self.job, mode, state)

    def _save(self, folder: Path, result: TrainingResult, *, with_optimizer: bool) -> None:
        if not self.world.writes_or_shares:
            return
        files = {WEIGHTS: trained_state(self.parameters)}
        if with_optimizer:
            files[OPTIMIZER] = optimizer_state(self.optimizer, self.parameters)
        if self.world.first:
            save_checkpoint(
                folder,
                files,
                step=result.steps,
                fingerprint=self.job.fingerprint,
                made_with=self.made_with,
                result=result,
                more={
                    "rows": self.computer.rows,
                    "watch": asdict(self.watch),
                    "scaler": self.computer.scaler.state_dict() if self.computer.scaler else None,
                },
            )
