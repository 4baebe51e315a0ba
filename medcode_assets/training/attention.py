"""Attention within each example of a packed row: no padding, no [tokens, tokens] mask.

A row is several examples one after the other. An example is a prompt followed by its branches: none for supervised
fine-tuning (prompt and completion are one causal text), two for preference pairs, which both follow the same prompt
and do not see each other.

transformers calls `packed_attention` through its public registries; nothing is patched. It serves training only: it
refuses a padding mask and a cache. For generation call `model.set_attn_implementation("sdpa")`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

PACKED = "medcode_packed"
"""Name under which transformers finds this attention."""

VERIFIED = ("llama", "phi", "phi3", "qwen2", "qwen3")
"""Model types of which a test has shown that packed rows give the plain Trainer's loss, gradients and steps."""


@dataclass(frozen=True)
class Span:
    """One example in a row, in tokens."""

    start: int
    prompt: int
    branches: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        """Where the next example starts."""
        return self.start + self.prompt + sum(self.branches)


@dataclass(frozen=True)
class RowLayout:
    """Where each example of a packed row lies."""

    spans: tuple[Span, ...]

    @property
    def branched(self) -> bool:
        """Whether any example has branches."""
        return any(span.branches for span in self.spans)


def can_pack(config: "PretrainedConfig") -> bool:
    """Whether packed rows have been shown right for a model: its type is known, and every layer sees all tokens."""
    return config.model_type in VERIFIED and getattr(config, "sliding_window", None) is None


def register_packed_attention() -> None:
    """Make `PACKED` known to transformers; may be called again."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, _no_mask)


def _no_mask(*_: Any, attention_mask: "torch.Tensor | None" = None, **__: Any) -> None:
    if attention_mask is not None:
        raise MedcodeError("packed attention got a padding mask; packed rows have none: train with attention: sdpa")


def packed_attention(
    module: "torch.nn.Module",
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    *,
    layout: RowLayout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> "tuple[torch.Tensor, None]":
    """Attend within each example of one row.

    Args:
        module: The model's attention layer (not used; part of transformers' interface).
        query: [1, heads, tokens, head width]; keys and values may have fewer heads.
        key: As the query.
        value: As the query.
        attention_mask: Always None.
        layout: Where the examples lie; passed to the model's forward as a keyword.
        scaling: Of the products; none: 1 / sqrt(head width).
        dropout: On the attention weights.

    Returns:
        [1, tokens, heads, head width], and None for the weights, which are never built.
    """
    import torch

    if layout is None or attention_mask is not None or query.shape[2] != key.shape[2]:
        raise MedcodeError("packed attention is for training rows only; for generation set attn_implementation sdpa")
    if torch.is_autocast_enabled(query.device.type):
        # Rotary embeddings leave fp32 where the weights are fp32, and FlashAttention takes halves only.
        compute = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(compute), key.to(compute), value.to(compute)
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and not layout.branched and not dropout:
        return _varlen(query, key, value, layout, scaling), None
    parts = list(_attended(query, key, value, layout, scaling, dropout))
    output = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return output.transpose(1, 2).contiguous(), None


def _attended(
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    layout: RowLayout,
    scale: float | None,
    dropout: float,
) -> "Iterator[torch.Tensor]":
    """Yield the output of each stretch of the row in turn: a prompt, then its branches."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    shared: dict[str, Any] = {"scale": scale, "dropout_p": dropout, "enable_gqa": query.shape[1] != key.shape[1]}
    # Split, not sliced: the gradient of a slice is a whole row of zeros.
    lengths = [length for span in layout.spans for length in (span.prompt, *span.branches)]
    stretches = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    for span in layout.spans:
        q, prompt_keys, prompt_values = next(stretches)
        yield scaled_dot_product_attention(q, prompt_keys, prompt_values, is_causal=True, **shared)
        for length in span.branches:
            q, k, v = next(stretches)
            seen = torch.ones(length, span.prompt + length, dtype=torch.bool, device=q.device).tril(span.prompt)
            yield scaled_dot_product_attention(
                q, torch.cat([prompt_keys, k], dim=2), torch.cat([prompt_values, v], dim=2), attn_mask=seen, **shared
            )


def _varlen(
    query: "torch.Tensor", key: "torch.Tensor", value: "torch.Tensor", layout: RowLayout, scale: float | None
) -> "torch.Tensor":
    """One FlashAttention call over all examples of a row (CUDA, half precision)."""
    from torch.nn.attention.varlen import varlen_attn

    bounds = _bounds(layout, query.device)
    longest = max(span.end - span.start for span in layout.spans)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [tokens, heads, head width]
    grouped = query.shape[1] != key.shape[1]
    output = varlen_attn(
        q, k, v, bounds, bounds, longest, longest, scale=scale, window_size=(-1, 0), enable_gqa=grouped
    )
    assert not isinstance(output, tuple)  # that is what it returns where more was asked for
    return output.unsqueeze(0)


@lru_cache(maxsize=2)
def _bounds(layout: RowLayout, device: "torch.device") -> "torch.Tensor":
    """Return where each example starts and the last one ends; copied to the device once a row, not once a layer."""
    import torch

    return torch.tensor([0, *(span.end for span in layout.spans)], dtype=torch.int32, device=device)
