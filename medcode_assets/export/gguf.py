"""A merged model as one GGUF file, written tensor by tensor.

The layout follows llama.cpp's own converter (convert_hf_to_gguf.py): matrices in the file's type, vectors
(norms and biases) in f32. One tensor is in memory at a time.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from medcode_assets.export.families import Config, Family, family_of
from medcode_assets.export.tokenizer import add_tokenizer, read_tokenizer
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter

FileType = Literal["f32", "f16", "q8_0"]
_HEADER_BYTES = 32 * 2**20  # tokens, merges and tensor table; Qwen2's 151,936 tokens take 6 MB


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the file before its data is read."""

    source: str
    """Name in the safetensors files."""
    file: Path
    name: str
    """Name in the GGUF file."""
    shape: tuple[int, ...]
    """As in safetensors: [out, in] or [n]."""
    type: "GGMLQuantizationType"

    @property
    def byte_shape(self) -> tuple[int, ...]:
        """Shape of its data in bytes."""
        from gguf.quants import quant_shape_to_byte_shape

        return tuple(quant_shape_to_byte_shape(self.shape, self.type))

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.byte_shape)


def write_gguf(
    merged: Path,
    output: Path,
    *,
    file_type: FileType = "f16",
    name: str,
    version: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Convert a merged model folder to GGUF.

    Args:
        merged: Folder with config.json, safetensors and tokenizer files (`merge_adapter` writes it).
        output: The file to write; written aside and renamed.
        file_type: `f16` (default), `f32` or `q8_0`.
        name: `general.name`. Not one with "phi3": llama.cpp tokenizes otherwise then.
        version: `general.version`, the bundle's version.
        on_progress: Told (tensors written, tensors in all) after each tensor.

    Returns:
        `output`.

    Raises:
        MedcodeError: unsupported family, tokenizer or file type, a weight that the file type cannot hold, a
            truncated weight file, or not enough disk space.
    """
    from gguf import GGUFWriter

    if file_type not in get_args(FileType):
        raise MedcodeError(f"GGUF file type {file_type!r} is not supported; one of {', '.join(get_args(FileType))}")
    config = read_config(merged)
    family = family_of(config)
    tokenizer = read_tokenizer(merged, config["vocab_size"])
    plan = plan_tensors(merged, config, file_type)
    output.parent.mkdir(parents=True, exist_ok=True)
    _refuse_full_disk(output, sum(tensor.nbytes for tensor in plan))
    with _aside(output) as aside:
        writer = GGUFWriter(aside, family.architecture)
        try:
            _add_metadata(writer, plan, file_type, name, version)
            family.add_parameters(writer, config)
            add_tokenizer(writer, merged, tokenizer)
            _write_tensors(writer, plan, family, config, on_progress)
        finally:
            writer.close()
    return output


def read_config(merged: Path) -> Config:
    """Return a model folder's config.json.

    Raises:
        MedcodeError: there is none.
    """
    try:
        config: Config = json.loads((merged / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MedcodeError(f"{merged / 'config.json'}: missing; name the folder of a merged model") from None
    return config


def plan_tensors(merged: Path, config: Config, file_type: FileType) -> list[PlannedTensor]:
    """List the tensors of the GGUF file in the order of the safetensors files, reading only their headers.

    A tied output head is left out: llama.cpp uses the embedding then.

    Raises:
        MedcodeError: no weights, a truncated weight file, or a tensor that the architecture does not know.
    """
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map
    from safetensors import SafetensorError, safe_open

    architecture = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}[family_of(config).architecture]
    names = get_tensor_name_map(MODEL_ARCH(architecture), config["num_hidden_layers"])
    plan = []
    for file in _weight_files(merged):
        try:
            with safe_open(file, framework="pt") as weights:
                names_in_file = list(weights.keys())
                shapes = {key: tuple(weights.get_slice(key).get_shape()) for key in names_in_file}
        except SafetensorError:
            raise MedcodeError(f"{file}: truncated or no safetensors file; merge the adapter again") from None
        for source, shape in shapes.items():
            if source == "lm_head.weight" and config.get("tie_word_embeddings"):
                continue
            name = names.get_name(source, try_suffixes=(".weight", ".bias"))
            if name is None:
                raise MedcodeError(f"{file}: tensor {source} has no place in a {config['model_type']} GGUF")
            plan.append(PlannedTensor(source, file, name, shape, _tensor_type(shape, file_type)))
    return plan


def load_tensor(tensor: PlannedTensor, family: Family, config: Config) -> "np.ndarray":
    """Read one weight as fp32 [out, in] or [n], rearranged as its family asks."""
    import torch
    from safetensors import safe_open

    with safe_open(tensor.file, framework="pt") as weights:  # torch, because numpy knows no bfloat16
        weight = weights.get_tensor(tensor.source).to(torch.float32).numpy()
    return family.rearrange(tensor.source, weight, config)


def _weight_files(merged: Path) -> list[Path]:
    index = merged / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        files = [merged / name for name in names]
    else:
        files = [merged / "model.safetensors"]
    for file in files:
        if not file.exists():
            raise MedcodeError(f"{file}: missing; merge the adapter again")
    return files


def _tensor_type(shape: tuple[int, ...], file_type: FileType) -> "GGMLQuantizationType":
    from gguf import GGMLQuantizationType

    if len(shape) == 1 or file_type == "f32":
        return GGMLQuantizationType.F32
    if file_type == "q8_0" and shape[-1] % 32 == 0:  # q8_0 packs 32 values of a row; llama.cpp falls back to f16 too
        return GGMLQuantizationType.Q8_0
    return GGMLQuantizationType.F16


def _refuse_full_disk(output: Path, tensor_bytes: int) -> None:
    needed, free = tensor_bytes + _HEADER_BYTES, shutil.disk_usage(output.parent).free
    if free < needed:
        raise MedcodeError(
            f"{output.parent}: {free / 2**20:,.0f} MiB free and {output.name} needs {needed / 2**20:,.0f}; "
            "make room or choose another folder"
        )


@contextmanager
def _aside(output: Path) -> Iterator[Path]:
    """Give a file beside `output` to write, which becomes `output` at the end or disappears on failure."""
    aside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        yield aside
        aside.replace(output)
    except OSError as error:
        raise MedcodeError(
            f"{output}: cannot be written: {error.strerror}; make room or choose another folder"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def _add_metadata(
    writer: "GGUFWriter", plan: list[PlannedTensor], file_type: FileType, name: str, version: str
) -> None:
    from gguf import GGML_QUANT_VERSION, LlamaFileType, size_label

    parameters = sum(math.prod(tensor.shape) for tensor in plan)
    types = {
        "f32": LlamaFileType.ALL_F32,
        "f16": LlamaFileType.MOSTLY_F16,
        "q8_0": LlamaFileType.MOSTLY_Q8_0,
    }
    writer.add_type("model")
    writer.add_name(name)
    writer.add_version(version)
    writer.add_size_label(size_label(parameters, 0, 0, 0))
    writer.add_file_type(types[file_type])
    writer.add_quantization_version(GGML_QUANT_VERSION)


def _write_tensors(
    writer: "GGUFWriter",
    plan: list[PlannedTensor],
    family: Family,
    config: Config,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    import numpy as np
    from gguf import quants

    for tensor in plan:
        writer.add_tensor_info(tensor.name, tensor.byte_shape, np.dtype(np.uint8), tensor.nbytes, raw_dtype=tensor.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, tensor in enumerate(plan, start=1):
        weight = load_tensor(tensor, family, config)
        with np.errstate(over="ignore"):
            data = quants.quantize(weight, tensor.type)
        if data.dtype == np.float16 and not np.isfinite(data).all():
            raise MedcodeError(f"{tensor.source}: a weight is too large for f16 or not a number; export with f32")
        writer.write_tensor_data(data.view(np.uint8))
        if on_progress is not None:
            on_progress(done, len(plan))
