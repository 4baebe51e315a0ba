"""The number formats of a GGUF file: what each is called, who writes it, and how far it may be from the model."""

from dataclasses import dataclass
from typing import Literal

from medcode_serving.errors import MedcodeError

QuantizationName = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"]


@dataclass(frozen=True)
class Gate:
    """How far a file may be from the merged model; started from the table of shared/field/gguf.md."""

    kl: float
    """Mean KL divergence of the next-token distributions, nats."""
    top1: float
    """Share of positions with the same likeliest token."""
    near_tie: float
    """Greedy answers may part where the merged model preferred its token by less than this, nats."""


@dataclass(frozen=True)
class Quantization:
    """One number format."""

    name: QuantizationName
    file_type: int
    """llama.cpp's number of it (`gguf.LlamaFileType`), as `general.file_type` has it."""
    gate: Gate
    by_llamacpp: bool = False
    """A K-quant: llama.cpp's own quantizer makes it, from an f16 file."""

    @property
    def label(self) -> str:
        """As file names have it: `Q4_K_M`. LM Studio and Ollama read it there."""
        return self.name.upper()


QUANTIZATIONS: dict[str, Quantization] = {
    found.name: found
    for found in (
        Quantization("f32", 0, Gate(kl=1e-8, top1=0.999, near_tie=0.01)),
        Quantization("f16", 1, Gate(kl=1e-5, top1=0.995, near_tie=0.05)),
        Quantization("bf16", 32, Gate(kl=2e-4, top1=0.98, near_tie=0.2)),
        Quantization("q8_0", 7, Gate(kl=1e-3, top1=0.98, near_tie=0.5)),
        Quantization("q6_k", 18, Gate(kl=5e-3, top1=0.96, near_tie=1.0), by_llamacpp=True),
        Quantization("q5_k_m", 17, Gate(kl=1e-2, top1=0.94, near_tie=1.5), by_llamacpp=True),
        Quantization("q4_k_m", 15, Gate(kl=5e-2, top1=0.85, near_tie=2.5), by_llamacpp=True),
    )
}
"""By name, the most exact first."""


def quantization(name: str) -> Quantization:
    """Return a number format by its name, in either case.

    Raises:
        MedcodeError: there is none of that name.
    """
    found = QUANTIZATIONS.get(name.lower())
    if found is None:
        raise MedcodeError(f"quantization {name}: not one that is exported; choose from {', '.join(QUANTIZATIONS)}")
    return found
