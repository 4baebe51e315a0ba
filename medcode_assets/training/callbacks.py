"""What happens beside the training loop: losses and metrics, the progress bar, checkpoints by the clock."""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from medcode_assets.training.sft import LogMetrics, TrainingResult

COMPLETE = "COMPLETE"
"""Marks a checkpoint whose files are all written; the Trainer itself would resume from half of one."""


def complete_checkpoint(checkpoints: Path) -> Path | None:
    """Return the newest complete checkpoint of a folder, or None."""
    complete = [path.parent for path in checkpoints.glob(f"checkpoint-*/{COMPLETE}")]
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def trainer_callbacks(
    result: "TrainingResult", checkpoint_minutes: float, log: "LogMetrics | None"
) -> list["TrainerCallback"]:
    """Return the trainer's callbacks; they fill `result` with the losses.

    Defined inside a function because their base class comes with transformers, which is slow to import.
    """
    from tqdm import tqdm
    from transformers import TrainerCallback

    class Losses(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            numbers = {name: float(value) for name, value in logs.items() if isinstance(value, int | float)}
            for name, points in (("loss", result.losses), ("eval_loss", result.validation_losses)):
                if name in numbers:
                    points.append((state.global_step, numbers[name]))
                    if not math.isfinite(numbers[name]):
                        raise MedcodeError(
                            f"training step {state.global_step}: {name} is {numbers[name]}; "
                            "lower training.learning_rate or training.max_grad_norm"
                        )
            if log:
                log(state.global_step, numbers)

    class Bar(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step")

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.update(state.global_step - self.bar.n)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" in logs:
                self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.close()

    class Checkpoints(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.saved_at = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            due = time.monotonic() - self.saved_at >= checkpoint_minutes * 60
            if due and state.global_step < state.max_steps:
                control.should_save = True

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()
            self.saved_at = time.monotonic()

    return [Losses(), Bar(), Checkpoints()]
