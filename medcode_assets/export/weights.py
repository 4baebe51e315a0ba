"""A model folder's weights without the model: read one at a time as fp32, written in shards.

Merging a model of 7 billion weights in memory takes 30 GB and more; so it takes little more than one shard.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 10**9
"""A larger tensor gets a shard of its own."""


def empty_model(folder: Path) -> "PreTrainedModel":
    """Build the modules of a causal language model in fp32 on torch's meta device, where weights take no memory.

    Raises:
        MedcodeError: transformers cannot build it, or its weights are not stored as its modules have them.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.conversion_mapping import get_model_conversion_mapping

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, trust_remote_code=False
            )
    except (OSError, ValueError, KeyError) as error:
        raise MedcodeError(
            f"{folder}: no causal language model that transformers knows ({type(error).__name__}); "
            "the folder needs config.json and *.safetensors"
        ) from error
    if getattr(config, "quantization_config", None) is not None:
        raise MedcodeError(f"{folder}: its weights are quantised already; take the model in bfloat16 or float32")
    # From-pretrained would fuse or rename tensors of such a model (mixtures of experts) while it loads them.
    if get_model_conversion_mapping(model, add_legacy=False):
        raise MedcodeError(f"{folder}: merging into a model of type {config.model_type} is not supported")
    model.config.architectures = [type(model).__name__]
    return model


@dataclass(frozen=True)
class StoredWeights:
    """Where each of a model's weights lies, and how to read it."""

    found: dict[str, tuple[Path, str]]
    """By name in the model, in the model's order: file and name there."""
    shapes: dict[str, tuple[int, ...]]
    """By name in the model."""

    def read(self, name: str) -> "torch.Tensor":
        """Read one weight as fp32; a tensor that is no float keeps its type."""
        import torch
        from safetensors import safe_open

        file, key = self.found[name]
        with safe_open(file, framework="pt") as stored:
            weight: torch.Tensor = stored.get_tensor(key)
            # A copy in any case, because the tensor is a window on the file, whose pages would pile up.
            return weight.to(torch.float32, copy=True) if weight.is_floating_point() else weight.clone()


def find_weights(folder: Path, model: "PreTrainedModel", *, mend: str) -> StoredWeights:
    """Find every weight of an empty model in its folder's safetensors files, of which only headers are read.

    Of two tied weights one is enough. Where both are there and differ, transformers does not tie them: neither
    does the model from here on.

    Args:
        folder: Holds model.safetensors or shards with their index.
        model: From `empty_model`.
        mend: What to do where weights are missing.

    Raises:
        MedcodeError: weights are missing, of another shape, or in no safetensors file.
    """
    import torch

    stored = _headers(folder)
    tied: dict[str, str] = dict(model.all_tied_weights_keys)
    other_name = tied | {source: target for target, source in tied.items()}
    found, shapes = {}, {}
    for name, weight in model.state_dict().items():
        key = name if name in stored else other_name.get(name, name)
        file, shape = stored.get(key, (folder, ()))
        if key in stored and shape == tuple(weight.shape):
            found[name], shapes[name] = (file, key), shape
    if lost := sorted(model.state_dict().keys() - found.keys()):
        raise MedcodeError(
            f"{folder}: {len(lost)} weights are missing or have another shape than config.json says, the first is "
            f"{lost[0]}; {mend}"
        )
    weights = StoredWeights(found, shapes)
    for target, source in tied.items():
        if found[target] != found[source] and not torch.equal(weights.read(target), weights.read(source)):
            untie(model, target)
    return weights


def untie(model: "PreTrainedModel", target: str) -> None:
    """Give a weight that the model ties to another one a life of its own."""
    model.all_tied_weights_keys.pop(target)
    model.config.tie_word_embeddings = False


def _headers(folder: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Return, by tensor name, the file that holds it and its shape."""
    from safetensors import SafetensorError, safe_open

    names = {SINGLE}
    if not (folder / SINGLE).exists() and (folder / INDEX).exists():
        names = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
    stored = {}
    for file in (folder / name for name in sorted(names)):
        try:
            with safe_open(file, framework="pt") as header:
                for key in header.keys():  # noqa: SIM118 (it is no dict)
                    stored[key] = (file, tuple(header.get_slice(key).get_shape()))
        except (OSError, SafetensorError):
            raise MedcodeError(f"{file}: missing, truncated or no safetensors file; put the whole file there") from None
    return stored


def write_shards(
    folder: Path,
    shapes: dict[str, tuple[int, ...]],
    tensors: "Iterable[tuple[str, torch.Tensor]]",
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write fp32 tensors as transformers loads them: model.safetensors, or shards with their index.

    Args:
        folder: Where to write.
        shapes: Shape of each tensor by its name, in the order of `tensors`.
        tensors: (name, tensor), each kept until its shard is full.
        on_progress: Told (tensors written or waiting in a shard, tensors in all) after each tensor.
    """
    from math import prod

    from safetensors.torch import save_file

    file_of = _shards({name: 4 * prod(shape) for name, shape in shapes.items()})
    last_of = {file: name for name, file in file_of.items()}
    waiting: dict[str, Any] = {}
    for done, (name, tensor) in enumerate(tensors, start=1):
        waiting[name] = tensor.contiguous()
        if name == last_of[file_of[name]]:
            save_file(waiting, folder / file_of[name], metadata={"format": "pt"})
            waiting = {}
        del tensor  # or it would live while the next one is made
        if on_progress is not None:
            on_progress(done, len(shapes))
    if len(last_of) > 1:
        total = {"total_size": 4 * sum(map(prod, shapes.values()))}
        (folder / INDEX).write_text(json.dumps({"metadata": total, "weight_map": file_of}, indent=2))


def _shards(sizes: dict[str, int]) -> dict[str, str]:
    """Return the file of each tensor: as many consecutive ones as `SHARD_BYTES` allow."""
    shards: list[list[str]] = [[]]
    room = SHARD_BYTES
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(name)
        room -= size
    if len(shards) == 1:
        return dict.fromkeys(sizes, SINGLE)
    count = len(shards)
    return {
        name: f"model-{number:05}-of-{count:05}.safetensors"
        for number, shard in enumerate(shards, start=1)
        for name in shard
    }
