"""The model families that can become GGUF: one entry each.

A family is what differs between architectures: its name in llama.cpp, the hyperparameters its loader reads,
settings that llama.cpp would silently ignore, and how a weight must be rearranged. To add one, write its
entry, add it to `FAMILIES`, and let the tests of `tests/assets/export` prove it against llama.cpp.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFWriter

Config = dict[str, Any]
"""A model's config.json."""


def _unchanged(name: str, weight: "np.ndarray", config: Config) -> "np.ndarray":
    return weight


@dataclass(frozen=True)
class Family:
    """How one model family is written as GGUF."""

    architecture: str
    """llama.cpp's name of it, as in gguf.MODEL_ARCH_NAMES."""
    add_parameters: Callable[["GGUFWriter", Config], None]
    """Writes the hyperparameters that llama.cpp's loader reads."""
    unsupported: Callable[[Config], str | None]
    """Names the setting that the GGUF could not express, or None."""
    rearrange: Callable[[str, "np.ndarray", Config], "np.ndarray"] = _unchanged
    """(Hugging Face name, weight, config) -> weight in llama.cpp's layout."""


def family_of(config: Config) -> Family:
    """Return the family of a model by its config.json.

    Raises:
        MedcodeError: the family is not supported, or uses a setting that the GGUF could not express.
    """
    model_type = config.get("model_type")
    family = FAMILIES.get(str(model_type))
    if family is None:
        raise MedcodeError(
            f"GGUF export of model type {model_type!r} is not verified yet; "
            f"supported: {', '.join(sorted(FAMILIES))}; train on such a base, or serve without GGUF"
        )
    if problem := family.unsupported(config):
        raise MedcodeError(f"GGUF export of a {model_type} model with {problem} is not supported; choose another base")
    return family


def rope_settings(config: Config) -> tuple[float, str]:
    """Return (theta, type) of the rotary embedding, as transformers 5 or an older one wrote it."""
    parameters: Config = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = parameters.get("rope_theta", config.get("rope_theta"))
    return float(theta or 10_000.0), str(parameters.get("rope_type", parameters.get("type", "default")))


def _add_qwen2(writer: "GGUFWriter", config: Config) -> None:
    """Write what llama.cpp's `qwen2` loader reads (the keys of its converter's Qwen2Model)."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(rope_settings(config)[0])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def _unsupported_qwen2(config: Config) -> str | None:
    rope_type = rope_settings(config)[1]
    if rope_type != "default":
        return f"rope scaling {rope_type!r}"
    if config.get("use_sliding_window"):
        return "sliding-window attention"
    if config.get("hidden_act", "silu") != "silu":
        return f"activation {config['hidden_act']!r}"
    return None


FAMILIES: dict[str, Family] = {
    # Qwen2, Qwen2.5 and DeepSeek-R1-Distill-Qwen.
    "qwen2": Family("qwen2", _add_qwen2, _unsupported_qwen2),
}
"""By `model_type` of config.json."""
