"""4-bit layers of a rehearsal: they hold as much as bitsandbytes' NF4 layers and compute with as much."""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

BLOCK, OUTER_BLOCK = 64, 256
"""Weights that share a scale (1 byte, double quantisation), and scales that share one of theirs (4 bytes)."""


class FourBitLinear(nn.Linear):
    """A linear layer whose weight takes half a byte an element, and its scales."""

    def __init__(self, linear: nn.Linear, compute: torch.dtype) -> None:
        """Take the shape of a layer on the meta device."""
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        elements = linear.weight.numel()
        held = elements // 2 + elements // BLOCK + 4 * (elements // (BLOCK * OUTER_BLOCK))
        self.weight = nn.Parameter(torch.empty(held, dtype=torch.uint8, device="meta"), requires_grad=False)
        self.compute = compute
        if self.bias is not None:
            self.bias.data = self.bias.data.to(compute)
            self.bias.requires_grad = False

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply as bitsandbytes does: in the arithmetic's format, the result in the input's."""
        shape = (self.out_features, self.in_features)
        multiplied: Any = _FourBitProduct.apply(input.to(self.compute), shape, self.bias)
        return multiplied.to(input.dtype)


class _FourBitProduct(torch.autograd.Function):
    """The whole weight is unpacked for each product, forward and backward; nothing but the input's place is saved."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, shape: tuple[int, int], bias: torch.Tensor | None) -> torch.Tensor:
        ctx.shape = shape
        return nn.functional.linear(values, values.new_empty(shape), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        gradient = gradients[0]
        return gradient @ gradient.new_empty(ctx.shape), None, None


class FourBitLora(nn.Module, LoraLayer):
    """PEFT's adapter over a 4-bit layer, step by step: under autocast, the input keeps its format."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, **settings: Any) -> None:
        """As PEFT's dispatcher calls it."""
        nn.Module.__init__(self)
        LoraLayer.__init__(self, base_layer)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, **settings)

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """As `peft.tuners.lora.bnb.Linear4bit.forward`."""
        result = self.base_layer(x).clone()
        for name in self.active_adapters:
            expected = result.dtype
            converts = not torch.is_autocast_enabled("cpu")
            if converts:
                weight: Any = self.lora_A[name].weight
                x = self._cast_input_dtype(x, weight.dtype)
            output = self.lora_B[name](self.lora_A[name](self.lora_dropout[name](x))) * self.scaling[name]
            result = result + (output.to(expected) if converts else output)
        return result


def quantise(model: Any, compute: torch.dtype) -> None:
    """Replace a meta model's linear layers by 4-bit ones, all but the output head, as transformers does."""
    head = model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and layer is not head:
            model.set_submodule(name, FourBitLinear(layer, compute))


def adapt_quantised(model: Any, config: Any) -> Any:
    """Lay an adapter over a model with 4-bit layers, as `models.adapted` does over bitsandbytes' own."""
    from peft import get_peft_model, prepare_model_for_kbit_training

    model.is_loaded_in_4bit = True
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if model.is_gradient_checkpointing:
        model.enable_input_require_grads()
    config._register_custom_module({FourBitLinear: FourBitLora})
    return get_peft_model(model, config)
