"""The model families that can become GGUF: one entry each.

A family is what differs between architectures: its name in llama.cpp, the hyperparameters its loader reads,
settings that llama.cpp would silently ignore, how a weight must be rearranged, and tensors that no weight file
holds. To add one, write its entry, add it to `FAMILIES`, and let the tests of `tests/assets/export` prove it
against llama.cpp and its converter, which the functions here follow (`conversion/` in llama.cpp's repository).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFWriter

Config = dict[str, Any]
"""A model's config.json with every setting that its class in transformers has (`complete_config`)."""

_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
_COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "original_max_position_embeddings",
)
"""Settings that no model has below 1; transformers takes any integer, and divides by some."""


def _unchanged(name: str, weight: "np.ndarray", config: Config) -> "np.ndarray":
    return weight


def _no_tensors(config: Config) -> "dict[str, np.ndarray]":
    return {}


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
    """(Hugging Face name, weight [out, ...], config) -> weight in llama.cpp's layout: its rows in another order."""
    extra_tensors: Callable[[Config], "dict[str, np.ndarray]"] = _no_tensors
    """Name in the GGUF file -> fp32 [n], computed from the config: llama.cpp reads these as tensors."""


def complete_config(config: dict[str, Any]) -> Config:
    """Return a config.json as transformers reads it: defaults filled in, older names of settings made new.

    A model type that is not supported is returned as it is.

    Raises:
        MedcodeError: a count is below 1, or transformers refuses the settings.
    """
    if str(config.get("model_type")) not in FAMILIES:
        return config
    for name in _COUNTS:
        if isinstance(count := config.get(name), int) and count < 1:
            raise MedcodeError(f"config.json: {name} {count} is below 1; take the base model's own")
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        complete: Config = AutoConfig.for_model(**config).to_dict()
    except (StrictDataclassError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise MedcodeError(
            f"config.json: no {config['model_type']} settings that transformers takes "
            f"({' '.join(str(error).split())}); take the base model's own"
        ) from error
    return complete


def family_of(config: Config) -> Family:
    """Return the family of a model by its complete config.

    Raises:
        MedcodeError: the family is not supported, or uses a setting that the GGUF could not express.
    """
    model_type = config.get("model_type")
    family = FAMILIES.get(str(model_type))
    if family is None:
        raise MedcodeError(
            f"config.json: GGUF export of model type {model_type!r} is not verified yet; "
            f"supported: {', '.join(sorted(FAMILIES))}; train on such a base, or serve without GGUF"
        )
    if problem := family.unsupported(config):
        raise MedcodeError(f"GGUF export of a {model_type} model with {problem} is not supported; choose another base")
    return family


def _head_size(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _rotary_size(config: Config) -> int:
    """Values of a head that the rotary embedding turns, as transformers rounds it."""
    return int(_head_size(config) * config["rope_parameters"].get("partial_rotary_factor", 1.0))


def _add_common(writer: "GGUFWriter", config: Config) -> None:
    """Write what every family has (the keys of the converter's TextModel)."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])


def _add_head_size(writer: "GGUFWriter", config: Config) -> None:
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))


def _first(*settings: tuple[object, str]) -> str | None:
    """Return the name of the first setting that is present."""
    return next((name for present, name in settings if present), None)


def _unsupported_anywhere(
    config: Config, *, rope: tuple[str, ...], activations: tuple[str, ...] = ("silu",), whole_heads: bool = True
) -> str | None:
    """Name a setting that one of the families has and llama.cpp's code for it leaves out.

    Args:
        config: The model's settings.
        rope: Kinds of rotary embedding that the family's entry writes.
        activations: Those of its feed-forward layers.
        whole_heads: llama.cpp takes the heads to share the hidden size among them.
    """
    kind, activation = config["rope_parameters"]["rope_type"], config["hidden_act"]
    return _first(
        (kind not in rope, f"rope scaling {kind!r}"),
        (activation not in activations, f"activation {activation!r}"),
        (
            config.get("use_sliding_window") or "sliding_attention" in (config.get("layer_types") or ()),
            "sliding-window attention",
        ),
        (
            whole_heads and _head_size(config) * config["num_attention_heads"] != config["hidden_size"],
            f"heads of {_head_size(config)}",
        ),
    )


def _unsupported_partial_rotary(config: Config) -> str | None:
    return _first((_rotary_size(config) != _head_size(config), "a partial rotary embedding"))


def _add_qwen2(writer: "GGUFWriter", config: Config) -> None:
    _add_common(writer, config)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def _unsupported_qwen2(config: Config) -> str | None:
    return _unsupported_anywhere(config, rope=("default",)) or _unsupported_partial_rotary(config)


def _add_qwen3(writer: "GGUFWriter", config: Config) -> None:
    _add_qwen2(writer, config)
    _add_head_size(writer, config)


def _unsupported_qwen3(config: Config) -> str | None:
    return (
        _unsupported_anywhere(config, rope=("default",), whole_heads=False)
        or _unsupported_partial_rotary(config)
        or _first((config["attention_bias"], "biases in its attention"))
    )


def _add_llama(writer: "GGUFWriter", config: Config) -> None:
    _add_qwen3(writer, config)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(_head_size(config))


def _unsupported_llama(config: Config) -> str | None:
    rope = ("default", "llama3")
    return _unsupported_anywhere(config, rope=rope, whole_heads=False) or _unsupported_partial_rotary(config)


def _interleave_rotary_halves(name: str, weight: "np.ndarray", config: Config) -> "np.ndarray":
    """Order the rows of queries and keys as Meta's code does, which turns neighbours where transformers turns halves.

    Row i of a head's first half and row i of its second half become rows 2i and 2i + 1 (LlamaModel.permute).
    """
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for projection, count in heads.items():
        if f".{projection}." in name:
            halves = weight.reshape(count, 2, len(weight) // count // 2, *weight.shape[1:])
            return halves.swapaxes(1, 2).reshape(weight.shape)
    return weight


def _llama3_frequency_factors(config: Config) -> "dict[str, np.ndarray]":
    """What llama.cpp divides the rotary frequencies by: Llama 3's scaling (LlamaModel.generate_extra_tensors)."""
    import torch

    rope = config["rope_parameters"]
    if rope["rope_type"] != "llama3":
        return {}
    size, factor = _head_size(config), rope["factor"]
    low, high, context = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    wavelengths = 2 * math.pi / (1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
    smooth = (context / wavelengths - low) / (high - low)
    factors = 1 / ((1 - smooth) / factor + smooth)
    factors[wavelengths < context / high] = 1
    factors[wavelengths > context / low] = factor
    return {"rope_freqs.weight": factors.numpy()}


def _add_phi(writer: "GGUFWriter", config: Config) -> None:
    _add_common(writer, config)
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_rope_dimension_count(_rotary_size(config))


def _unsupported_phi(config: Config) -> str | None:
    return _unsupported_anywhere(config, rope=("default",), activations=_TANH_GELU) or _first(
        (config["qk_layernorm"], "normalised queries and keys"),
        (config["tie_word_embeddings"], "a tied output head"),
    )


def _add_phi3(writer: "GGUFWriter", config: Config) -> None:
    _add_common(writer, config)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(_rotary_size(config))
    writer.add_rope_scaling_orig_ctx_len(_original_context(config))
    writer.add_sliding_window(config["sliding_window"] or 0)  # 0: the model has none
    if config["rope_parameters"]["rope_type"] == "longrope":
        writer.add_rope_scaling_attn_factors(_longrope_attention_factor(config))


def _unsupported_phi3(config: Config) -> str | None:
    window = config["sliding_window"]
    return _unsupported_anywhere(config, rope=("default", "longrope")) or _first(
        # llama.cpp reads the window of a Phi-3 and ignores it; one as long as the context changes nothing.
        (window and window < config["max_position_embeddings"], f"sliding-window attention over {window} tokens"),
    )


def _original_context(config: Config) -> int:
    """Tokens that a longrope model was trained for before its context was stretched."""
    original = config["rope_parameters"].get("original_max_position_embeddings")
    return int(original or config["original_max_position_embeddings"])


def _longrope_attention_factor(config: Config) -> float:
    """Return what cosines and sines are multiplied by (transformers' _compute_longrope_parameters)."""
    rope, context = config["rope_parameters"], _original_context(config)
    factor = rope.get("factor") or config["max_position_embeddings"] / context
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    return math.sqrt(1 + math.log(factor) / math.log(context)) if factor > 1 else 1.0


def _longrope_factors(config: Config) -> "dict[str, np.ndarray]":
    """What llama.cpp divides the rotary frequencies by, in a context up to the original one and beyond it."""
    import numpy as np

    rope = config["rope_parameters"]
    if rope["rope_type"] != "longrope":
        return {}
    return {
        f"rope_factors_{length}.weight": np.array(rope[f"{length}_factor"], dtype=np.float32)
        for length in ("long", "short")
    }


FAMILIES: dict[str, Family] = {
    # Qwen2, Qwen2.5 and DeepSeek-R1-Distill-Qwen.
    "qwen2": Family("qwen2", _add_qwen2, _unsupported_qwen2),
    "qwen3": Family("qwen3", _add_qwen3, _unsupported_qwen3),
    # Llama 3.x, DeepSeek-R1-Distill-Llama, SmolLM and SmolLM2.
    "llama": Family("llama", _add_llama, _unsupported_llama, _interleave_rotary_halves, _llama3_frequency_factors),
    # Phi-1, Phi-1.5 and Phi-2.
    "phi": Family("phi2", _add_phi, _unsupported_phi),
    # Phi-4 and Phi-4-mini; Phi-3's tokenizers are none that export knows.
    "phi3": Family("phi3", _add_phi3, _unsupported_phi3, extra_tensors=_longrope_factors),
}
"""By `model_type` of config.json."""
