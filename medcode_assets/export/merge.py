"""An adapter folded into its base model: one plain model folder that any tool can load.

Layer by layer: the base model stays on the disk, and of the merged one no more than a shard is in memory.
"""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.artifacts import replace_folder
from medcode_assets.export.weights import StoredWeights, empty_model, find_weights, untie, write_shards
from medcode_assets.writing import refuse_little_disk
from medcode_serving.adapters import (
    ADAPTER_WEIGHTS,
    TRAIN_ANEW,
    check_adapter,
    first_line,
    load_adapter_weights,
    nf4_config,
    peft_config,
)
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from transformers import PreTrainedModel

# Copied as they are: transformers 5's `save_pretrained` of a tokenizer rewrites `tokenizer_class`, drops
# `add_bos_token` and tokenizer.model (seen, shared/field/gguf.md), and the GGUF's tokenizer is read from
# these files.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
GENERATION_CONFIG = "generation_config.json"


def merge_adapter(
    base: Path,
    adapter: Path,
    output: Path,
    *,
    base_revision: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Merge an adapter into its base model in fp32 and write a safetensors model folder.

    PEFT does the sums, so that the weights are to the bit those of its `merge_and_unload(safe_merge=True)`. A
    qlora adapter is merged into the base as NF4 rounds it; a model of mode full is complete and only converted.

    Args:
        base: Folder of the base model, safetensors, any float type; the sums are done in fp32, because
            merging in bf16 costs ten times the KL (shared/field/gguf.md).
        adapter: Folder of the adapter, in any form (`medcode_serving.adapters`).
        output: Folder to write; it is written aside and renamed, and replaces what is there.
        base_revision: Revision of the base model, which the adapter must name if it names one; None: not known.
        on_progress: Told (tensors done, tensors in all) after each tensor.

    Returns:
        `output`, with fp32 weights and the base's tokenizer files, byte for byte.

    Raises:
        MedcodeError: adapter or tokenizer missing, weights that are not safetensors, an adapter of another base,
            one that merging would distort, too little disk space, or bitsandbytes is needed and not installed.
    """
    if not (base / "tokenizer.json").exists():
        raise MedcodeError(f"{base / 'tokenizer.json'}: missing; put the base model's tokenizer files there")
    form = check_adapter(adapter, base, base_revision)
    source, mend = (adapter, TRAIN_ANEW) if form.mode == "full" else (base, "fetch the model anew")
    model = empty_model(source)
    weights = find_weights(source, model, mend=mend)
    read = _rounded(model, weights) if form.mode == "qlora" else weights.read
    if form.mode != "full":
        lay_adapter(model, base, adapter)
        _settle_ties(model, base, adapter)
        read = _own_first(adapter, read)
    shapes = {name: shape for name, shape in weights.shapes.items() if name not in model.all_tied_weights_keys}
    output.parent.mkdir(parents=True, exist_ok=True)
    refuse_little_disk(output.parent, 4 * sum(map(prod, shapes.values())), "the merged model")
    with _aside(output) as aside:
        write_shards(aside, shapes, _merged(model, list(shapes), read, base, adapter), on_progress)
        model.config.save_pretrained(aside)
        companions = [source / GENERATION_CONFIG, *(base / name for name in TOKENIZER_FILES)]
        for file in filter(Path.exists, companions):
            shutil.copyfile(file, aside / file.name)
    return output


def lay_adapter(model: "PreTrainedModel", base: Path, adapter: Path) -> None:
    """Lay an adapter's weights over an empty model: its adapted modules become PEFT's layers.

    Args:
        model: From `empty_model`, changed in place; the base's own weights stay on the meta device.
        base: Folder of the base model, for messages.
        adapter: Folder of a lora or qlora adapter.

    Raises:
        MedcodeError: adapter and base do not belong together, or PEFT would need the base's weights for it.
    """
    from peft import get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    config = peft_config(adapter)
    _refuse_unusual(config, adapter)
    with _fitting(base, adapter), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"for .*\.base_layer\.")  # see `_own_first`
        peft_model = get_peft_model(model, config, low_cpu_mem_usage=True)
        for module in peft_model.modules():
            if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper):
                for name in module.adapter_layer_names:
                    if hasattr(module, name):
                        getattr(module, name).to_empty(device="cpu")
        load_adapter_weights(peft_model, adapter)


def _refuse_unusual(config: "PeftConfig", adapter: Path) -> None:
    """Refuse what PEFT computes from the base's weights when it lays an adapter, and what adds layers."""
    start = getattr(config, "init_lora_weights", True)
    if config.peft_type != "LORA":
        problem: str | None = f"of type {config.peft_type}"
    elif isinstance(start, str) and start != "gaussian":
        problem = f"that started as {start!r}, which changes the base"
    else:
        names = ("layer_replication", "target_parameters")
        problem = next((f"with {name}" for name in names if getattr(config, name, None)), None)
    if problem:
        raise MedcodeError(f"{adapter}: merging an adapter {problem} is not supported; train a plain LoRA")


def _settle_ties(model: "PreTrainedModel", base: Path, adapter: Path) -> None:
    """Untie embedding and output head where the adapter brings its own for one of them.

    Raises:
        MedcodeError: the adapter adds to one of two tied weights: merging would change the other one, too.
    """
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    for target, source in list(model.all_tied_weights_keys.items()):
        modules = {name: model.get_submodule(name.rpartition(".")[0]) for name in (target, source)}
        for name, module in modules.items():
            if isinstance(module, LoraLayer):
                raise MedcodeError(
                    f"{adapter}: it adds to {name}, which {base} ties to another weight that would change, too; "
                    "train without that module, or serve the adapter unmerged"
                )
        if any(isinstance(module, ModulesToSaveWrapper) for module in modules.values()):
            untie(model, target)


def _rounded(model: "PreTrainedModel", weights: StoredWeights) -> "Callable[[str], torch.Tensor]":
    """Return a reader that gives the weights as mode qlora trained over them: rounded to NF4 and back.

    Which ones and how is transformers' choice (`Bnb4BitHfQuantizer`): linear layers, but not the output head.
    """
    import torch
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    settings = nf4_config(torch.float32)
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    kept = get_keys_to_not_convert(model)
    rounded = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and should_convert_module(name, kept)
    }

    def read(name: str) -> torch.Tensor:
        weight = weights.read(name)
        if name not in rounded:
            return weight
        packed, state = quantize_4bit(
            weight,
            compress_statistics=settings.bnb_4bit_use_double_quant,
            quant_type=settings.bnb_4bit_quant_type,
        )
        plain: torch.Tensor = dequantize_4bit(packed, state)
        return plain

    return read


def _own_first(adapter: Path, read: "Callable[[str], torch.Tensor]") -> "Callable[[str], torch.Tensor]":
    """Return a reader that prefers what an adapter holds of the base itself.

    PEFT saves the base's weight, too, where it adapts an embedding or the output head, and loads it.
    """
    from safetensors import safe_open

    file = adapter / ADAPTER_WEIGHTS
    with safe_open(file, framework="pt") as stored:
        keys = [key for key in stored.keys() if ".base_layer." in key]  # noqa: SIM118 (it is no dict)
    names = {key.removeprefix("base_model.model.").replace(".base_layer.", "."): key for key in keys}
    own = StoredWeights({name: (file, key) for name, key in names.items()}, {})
    return lambda name: own.read(name) if name in names else read(name)


def _merged(
    model: "PreTrainedModel", names: list[str], read: "Callable[[str], torch.Tensor]", base: Path, adapter: Path
) -> "Iterator[tuple[str, torch.Tensor]]":
    """Yield the merged model's tensors by name, in the order of `names`; each module is done with once it was read."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper
    from torch.nn import Identity

    for owner, group in groupby(names, key=lambda name: name.rpartition(".")[0]):
        module: Any = model.get_submodule(owner)
        if not isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            for name in group:
                yield name, read(name)
            continue
        with _fitting(base, adapter):
            weights = _merge_module(module, {name.rpartition(".")[2]: read(name) for name in group})
        model.set_submodule(owner, Identity())  # PEFT's layer holds the merged weights: let go of it
        del module
        for leaf in list(weights):
            yield f"{owner}.{leaf}", weights.pop(leaf)


def _merge_module(module: Any, weights: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """Return an adapted module's tensors after PEFT merged its adapter into the base's."""
    import torch
    from peft.utils import ModulesToSaveWrapper, TrainableTokensWrapper

    if isinstance(module, ModulesToSaveWrapper):
        merged: Any = module.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
    else:
        layer = module.token_adapter if isinstance(module, TrainableTokensWrapper) else module
        merged = layer.base_layer
        merged.load_state_dict(weights, assign=True)
        with torch.no_grad():
            layer.merge(safe_merge=True)
    return dict(merged.state_dict())


@contextmanager
def _fitting(base: Path, adapter: Path) -> Iterator[None]:
    """Turn what PEFT and safetensors raise into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise MedcodeError(
            f"{adapter}: the adapter does not fit base model {base} ({first_line(error)}); "
            f"name the base model that it was trained on, or {TRAIN_ANEW}"
        ) from error


@contextmanager
def _aside(output: Path) -> Iterator[Path]:
    """Give a folder beside `output` to fill, which takes its place at the end or disappears on failure."""
    from safetensors import SafetensorError

    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        yield aside
        aside.chmod(0o755)  # mkdtemp gives 0700
        replace_folder(aside, output)
    except (OSError, SafetensorError) as error:
        raise MedcodeError(f"{output}: cannot be written ({first_line(error)}); make room there") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
