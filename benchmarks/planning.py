"""How near the planned memory of a training step is to the measured one, on this machine's CPU.

    python benchmarks/planning.py

Each shape is trained for two steps in a process of its own, on random weights and tokens. Measured is what the
process's peak resident memory rises above what it was once everything was imported and a tiny model was trained.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medcode_assets.training.settings import LoraSettings, TrainingSettings

MIB = 2**20


@dataclass(frozen=True)
class Shape:
    """A model, how it is trained, and the row that it is trained on."""

    mode: str = "lora"
    checkpointing: bool = False
    hidden: int = 256
    layers: int = 4
    vocabulary: int = 32_000
    notes: int = 1
    tokens: int = 3_000
    answer: int = 50
    attention: str = "auto"
    objective: str = "sft"

    @property
    def training(self) -> TrainingSettings:
        """Return its settings."""
        return TrainingSettings.model_validate(
            {"mode": self.mode, "gradient_checkpointing": self.checkpointing, "attention": self.attention}
        )

    @property
    def lengths(self) -> list[tuple[int, ...]]:
        """Return the tokens of each example in the row."""
        answers = (self.answer,) * (1 if self.objective == "sft" else 2)
        return [(self.tokens - self.answer, *answers)] * self.notes

    def config(self) -> Any:
        """Return the model's configuration."""
        from transformers import Qwen2Config

        return Qwen2Config(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=3 * self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=max(1, self.hidden // 64),
            num_key_value_heads=max(1, self.hidden // 128),
            max_position_embeddings=32_768,
            tie_word_embeddings=False,
        )


SHAPES = [
    Shape(),
    Shape(checkpointing=True, tokens=4_000),
    Shape(mode="full"),
    Shape(mode="full", checkpointing=True),
    Shape(mode="qlora"),
    Shape(notes=3, tokens=1_500),
    Shape(attention="sdpa", notes=2, tokens=1_500),
    Shape(objective="dpo", tokens=2_000, answer=200),
    Shape(vocabulary=152_000, answer=500, tokens=2_000),
    Shape(hidden=512, tokens=2_000, mode="full"),
]


def train_two_steps(shape: Shape, folder: Path) -> None:
    """Write a random model into the folder and take two steps of its training, with the training's own parts."""
    import torch
    from transformers import AutoModelForCausalLM

    from medcode_assets.training.job import TrainingJob
    from medcode_assets.training.loop import clip_and_step, make_optimizer
    from medcode_assets.training.models import Precision, load_trainable
    from medcode_assets.training.rehearsal import Rows, computer_for
    from medcode_assets.training.settings import ComputeSettings

    AutoModelForCausalLM.from_config(shape.config()).save_pretrained(folder)
    job = TrainingJob(
        recipe="benchmark",
        base_model="random",
        base_path=folder,
        base_revision="0",
        fingerprint="0",
        objective=shape.objective,  # type: ignore[arg-type]
        compute=ComputeSettings(device="cpu", precision="fp32"),
        training=shape.training,
    )
    reset_peak()
    model = load_trainable(job, "cpu", Precision("fp32"))
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = make_optimizer(parameters, job.training)
    computer = computer_for(model, shape.objective, shape.training, torch.float32)
    rows: Any = Rows(shape.lengths, shape.objective)
    for weight in model.parameters():
        weight.float().sum()  # weights are mapped from their file and come into memory when they are read
    for step in range(2):
        computer.gradients(rows, range(len(rows)), seed=0, step=step)
        clip_and_step(optimizer, 1e-4, 1.0, None)


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def status(name: str) -> int:
    """Return a size of this process in bytes, as Linux has it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def measure(shape: Shape, *, keep_freed: bool = False) -> dict[str, int]:
    """Return this process's memory before a training and at its peak; for a process of its own."""
    from medcode_assets.training.allocator import give_freed_memory_back

    if not keep_freed:
        give_freed_memory_back()
    with tempfile.TemporaryDirectory() as folder:
        tiny = Shape(**{**asdict(shape), "hidden": 64, "layers": 2, "vocabulary": 100, "tokens": 64, "answer": 8})
        train_two_steps(tiny, Path(folder) / "tiny")
        before = status("VmRSS")
        train_two_steps(shape, Path(folder) / "model")
        return {"before": before, "peak": status("VmHWM")}


def measured_apart(shape: Shape) -> dict[str, int]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--measure", json.dumps(asdict(shape))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shape}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, int] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def planned(shape: Shape) -> int:
    """Return the planned bytes, without the process's own."""
    from medcode_assets.training.models import Precision
    from medcode_assets.training.planning import plan
    from medcode_assets.training.rehearsal import Stage

    stage = Stage(
        config=shape.config(),
        mode=shape.mode,  # type: ignore[arg-type]
        lora=LoraSettings(),
        training=shape.training,
        precision=Precision("fp32"),
        objective=shape.objective,  # type: ignore[arg-type]
    )
    return plan(stage, shape.lengths).tensors


def compare(shapes: Sequence[Shape]) -> list[float]:
    """Print planned and measured memory of each shape; returns their ratios."""
    print("| mode | checkpointing | objective, attention | hidden x layers, vocabulary | row, tokens | planned MiB "
          "| measured MiB | ratio | whole process | planning s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    ratios = []
    for shape in shapes:
        started = time.perf_counter()
        plan_bytes = planned(shape)
        seconds = time.perf_counter() - started
        found = measured_apart(shape)
        risen = found["peak"] - found["before"]
        ratios.append(plan_bytes / risen)
        print(
            f"| {shape.mode} | {'yes' if shape.checkpointing else 'no'} | {shape.objective}, {shape.attention} "
            f"| {shape.hidden} x {shape.layers}, {shape.vocabulary:,} | {shape.notes} x {shape.tokens:,} "
            f"| {plan_bytes / MIB:.0f} | {risen / MIB:.0f} | {ratios[-1]:.2f} "
            f"| {(plan_bytes + found['before']) / found['peak']:.2f} | {seconds:.1f} |",
            flush=True,
        )
    print(f"\nratios: {min(ratios):.2f} to {max(ratios):.2f}, median {np.median(ratios):.2f}")
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(Shape(**json.loads(arguments.measure)))))
    else:
        compare(SHAPES)


if __name__ == "__main__":
    main()
