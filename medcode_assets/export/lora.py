"""A LoRA adapter as a GGUF file of its own, which llama.cpp lays over the base model's GGUF (`--lora`).

The layout is that of llama.cpp's converter (convert_lora_to_gguf.py). llama.cpp adds alpha / rank * B(A(x)) with one
alpha for all layers, so the converter's files are wrong for rank-stabilised adapters and for those with a rank or an
alpha of their own in some layers. Here the rest of PEFT's factor is multiplied into B, and they come out right.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.export.families import Config, Family, family_of
from medcode_assets.export.gguf import add_general, read_config, written_aside
from medcode_assets.export.merge import lay_adapter
from medcode_assets.export.metadata import ModelMetadata
from medcode_assets.export.weights import empty_model
from medcode_serving.adapters import check_adapter
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

_ADAPTER = "default"
"""PEFT's name of a model's only adapter."""
_OTHER_BASE = {
    "qlora": "it was trained over the base as NF4 rounds it, which the base's GGUF file is not",
    "full": "it is a complete model",
}


def write_lora_gguf(
    base: Path,
    adapter: Path,
    output: Path,
    *,
    metadata: ModelMetadata,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Convert a LoRA adapter to a GGUF file in f32 that goes with its base model's GGUF file.

    Args:
        base: Folder of the base model, of which only config.json is read.
        adapter: Folder of an adapter of mode lora.
        output: The file to write; written aside and renamed.
        metadata: What the file says about itself; the adapter must name its `base_revision` if it names one.
        on_progress: Told (tensors written, tensors in all) after each tensor.

    Returns:
        `output`.

    Raises:
        MedcodeError: adapter and base do not belong together, the family is not supported, or llama.cpp's adapters
            cannot express it: mode qlora or full, DoRA, whole trained modules or tokens, embeddings, biases.
    """
    from gguf import GGUFType, GGUFWriter, Keys

    form = check_adapter(adapter, base, metadata.base_revision or None)
    if form.mode != "lora":
        raise _refusal(adapter, _OTHER_BASE[form.mode])
    config = read_config(base)
    family = family_of(config)
    model = empty_model(base)
    lay_adapter(model, base, adapter)
    layers = dict(_layers(model, adapter))
    alpha = float(max(layer.r[_ADAPTER] for layer in layers.values()))
    output.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(output) as aside:
        writer = GGUFWriter(aside, family.architecture)
        try:
            writer.add_type(GGUFType.ADAPTER)
            writer.add_string(Keys.Adapter.TYPE, "lora")
            writer.add_float32(Keys.Adapter.LORA_ALPHA, alpha)
            add_general(writer, metadata)
            _write(writer, dict(_tensors(layers, alpha, family, config)), on_progress)
        finally:
            writer.close()
    return output


def _layers(model: "PreTrainedModel", adapter: Path) -> Iterator[tuple[str, Any]]:
    """Yield PEFT's adapted layers by the base module's name.

    Raises:
        MedcodeError: one that llama.cpp's adapters cannot express.
    """
    from peft.tuners import lora
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    for name, module in model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            raise _refusal(adapter, f"it holds weights of {name} itself and not a change of low rank")
        if not isinstance(module, BaseTunerLayer):
            continue
        if not isinstance(module, lora.Linear):
            raise _refusal(adapter, f"{name} is no linear layer")
        if module.lora_variant:
            raise _refusal(adapter, f"{name} is adapted by {type(module.lora_variant[_ADAPTER]).__name__}")
        if module.lora_bias[_ADAPTER]:
            raise _refusal(adapter, f"{name} has an adapted bias")
        if f"{name}.weight" in model.all_tied_weights_keys:
            raise _refusal(adapter, f"{name} is tied to the embedding")
        yield name, module


def _refusal(adapter: Path, problem: str) -> MedcodeError:
    return MedcodeError(f"{adapter}: cannot become a GGUF adapter: {problem}; merge it instead: medcode export")


def _tensors(
    layers: dict[str, Any], alpha: float, family: Family, config: Config
) -> "Iterator[tuple[str, np.ndarray]]":
    """Yield A [rank, in] and B [out, rank] of each layer in fp32, under llama.cpp's names."""
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

    architecture = {name: number for number, name in MODEL_ARCH_NAMES.items()}[family.architecture]
    names = get_tensor_name_map(MODEL_ARCH(architecture), config["num_hidden_layers"])
    for layer_name, layer in layers.items():
        source = f"{layer_name}.weight"
        name = names.get_name(source, try_suffixes=(".weight",))
        if name is None:
            raise MedcodeError(f"{source}: has no place in a {config['model_type']} GGUF; merge the adapter instead")
        # llama.cpp multiplies by alpha / rank, which is 1 unless ranks differ.
        rest = layer.scaling[_ADAPTER] * layer.r[_ADAPTER] / alpha
        yield f"{name}.lora_a", layer.lora_A[_ADAPTER].weight.detach().numpy()
        weight = (layer.lora_B[_ADAPTER].weight.detach() * rest).numpy()
        yield f"{name}.lora_b", family.rearrange(source, weight, config)  # the rows of B are those of the layer


def _write(writer: Any, tensors: "dict[str, np.ndarray]", on_progress: Callable[[int, int], None] | None) -> None:
    for name, tensor in tensors.items():
        writer.add_tensor_info(name, tensor.shape, tensor.dtype, tensor.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, tensor in enumerate(tensors.values(), start=1):
        writer.write_tensor_data(tensor)
        if on_progress is not None:
            on_progress(done, len(tensors))
