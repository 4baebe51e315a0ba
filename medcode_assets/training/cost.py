"""How long a training takes on a GPU and what that costs, from its floating-point operations."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medcode_assets.training.rehearsal import Stage, meta_model

UTILISATION = 0.35
"""Share of a GPU's dense bf16 arithmetic that a training gets: an assumption, not measured."""


@dataclass(frozen=True)
class Gpu:
    """A size of GPU."""

    name: str
    memory_gb: float
    tflops: float
    usd_per_hour: float


def read_gpus() -> tuple[list[Gpu], str]:
    """Return the GPU sizes of gpus.yaml and the date of their prices."""
    listed: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "gpus.yaml").read_text())
    return [Gpu(**gpu) for gpu in listed["gpus"]], str(listed["prices_of"])


def layer_parameters(stage: Stage) -> tuple[int, int]:
    """Return how many weights every token is multiplied with, the adapter's included, and how many are trained."""
    from medcode_assets.training.rehearsal import with_layers
    from medcode_assets.training.world import decoder_layers

    # Without 4-bit stand-ins, whose weights are packed.
    plain = Stage(**{**with_layers(stage, 1).__dict__, "mode": "full" if stage.mode == "full" else "lora"})
    named = list(decoder_layers(meta_model(plain))[0].named_parameters())
    products = [p for _, p in named if p.ndim > 1]
    return (
        stage.layers * sum(p.numel() for p in products),
        stage.layers * sum(p.numel() for p in products if p.requires_grad),
    )


def flops_per_example(stage: Stage, tokens: int) -> float:
    """Return the operations of a forward and a backward pass over an example of so many tokens.

    Every product takes 2 a weight and token forward, 2 backward for the activations, 2 for the weights if they are
    trained, and 2 more where checkpointing computes forward again. Causal attention takes 2 x tokens² x width a layer
    forward and 2.5 times that backward. The output head is left out: it sees the answer's tokens only.
    """
    weights, trained = layer_parameters(stage)
    again = 1 if stage.training.gradient_checkpointing else 0
    config = stage.config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 2 * tokens**2 * config.num_attention_heads * head * stage.layers
    return tokens * (weights * (4 + 2 * again) + trained * 2) + attention * (3.5 + again)


def hours(stage: Stage, tokens: int, examples: int, gpu: Gpu) -> float:
    """Return the hours of all epochs on one GPU."""
    operations = flops_per_example(stage, tokens) * examples * stage.training.epochs
    return operations / (gpu.tflops * 1e12 * UTILISATION) / 3600
