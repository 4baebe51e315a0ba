"""A merged model as one GGUF file, written tensor by tensor.

The layout follows llama.cpp's own converter (convert_hf_to_gguf.py): matrices in the file's type, vectors
(norms and biases) in f32. Of a large tensor some rows at a time are in memory: rows are independent in every type.
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from medcode_assets.export.families import Config, Family, complete_config, family_of
from medcode_assets.export.metadata import ModelMetadata
from medcode_assets.export.quantizations import QuantizationName, quantization
from medcode_assets.export.tokenizer import add_tokenizer, read_tokenizer
from medcode_assets.writing import refuse_little_disk
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter

_HEADER_BYTES = 32 * 2**20  # tokens, merges and tensor table; Qwen2's 151,936 tokens take 6 MB
_VALUES_AT_ONCE = 2**23
_BEYOND_F16 = 65520  # is rounded to infinity
_TAGS = ["text-generation", "medical-coding", "medcode"]


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the file before its data is read."""

    source: str
    """Name in the safetensors files; of a computed tensor its name in the GGUF file."""
    file: Path | None
    """None: computed from the config (`Family.extra_tensors`)."""
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
    file_type: QuantizationName = "f16",
    metadata: ModelMetadata,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Convert a merged model folder to GGUF.

    Args:
        merged: Folder with config.json, safetensors and tokenizer files (`merge_adapter` writes it).
        output: The file to write; written aside and renamed.
        file_type: `f16` (default), `f32`, `bf16` or `q8_0`.
        metadata: What the file says about itself.
        on_progress: Told (tensors written, tensors in all) after each tensor.

    Returns:
        `output`.

    Raises:
        MedcodeError: unsupported family, tokenizer or file type, a weight that the file type cannot hold, a
            truncated weight file, or not enough disk space.
    """
    if quantization(file_type).by_llamacpp:
        raise MedcodeError(f"{file_type}: llama.cpp's quantizer makes it from an f16 file; use quantize_gguf")
    writer = header_of(merged, file_type, metadata)
    config = read_config(merged)
    plan = plan_tensors(merged, config, file_type)
    output.parent.mkdir(parents=True, exist_ok=True)
    refuse_little_disk(output.parent, sum(tensor.nbytes for tensor in plan) + _HEADER_BYTES, output.name)
    with written_aside(output) as aside:
        try:
            _write_tensors(writer, aside, plan, config, on_progress)
        finally:
            writer.close()
    return output


def read_config(merged: Path) -> Config:
    """Return a model folder's config.json with every setting that its class in transformers has.

    Raises:
        MedcodeError: there is none, it is no JSON object, or transformers refuses a setting.
    """
    file = merged / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MedcodeError(f"{file}: missing; name the folder of a merged model") from None
    except (OSError, ValueError, RecursionError):  # a folder, no JSON in UTF-8, lists in lists in lists
        config = None
    if not isinstance(config, dict):
        raise MedcodeError(f"{file}: no JSON object; fetch the model anew, or merge the adapter again")
    return complete_config(config)


def plan_tensors(merged: Path, config: Config, file_type: QuantizationName) -> list[PlannedTensor]:
    """List the tensors of the GGUF file: computed ones, then those of the safetensors files in their order.

    Only the files' headers are read. A tied output head is left out: llama.cpp uses the embedding then.

    Args:
        merged: The merged model's folder.
        config: Its `read_config`.
        file_type: A K-quant is planned as the f16 file that it is made from.

    Raises:
        MedcodeError: no weights, a truncated weight file, or a tensor that the architecture does not know.
    """
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

    family = family_of(config)
    architecture = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}[family.architecture]
    names = get_tensor_name_map(MODEL_ARCH(architecture), config["num_hidden_layers"])
    plan = [
        PlannedTensor(name, None, name, data.shape, _tensor_type(data.shape, file_type))
        for name, data in family.extra_tensors(config).items()
    ]
    for file in _weight_files(merged):
        for source, shape in _shapes(file).items():
            if source == "lm_head.weight" and config["tie_word_embeddings"]:
                continue
            name = names.get_name(source, try_suffixes=(".weight", ".bias"))
            if name is None:
                raise MedcodeError(f"{file}: tensor {source} has no place in a {config['model_type']} GGUF")
            plan.append(PlannedTensor(source, file, name, shape, _tensor_type(shape, file_type)))
    return plan


def load_rows(tensor: PlannedTensor, family: Family, config: Config) -> "Iterator[np.ndarray]":
    """Give one tensor, rearranged as its family asks, in parts, fp32 [some rows, in] or [some]: as a whole an embedding
    is a gigabyte.
    """
    import numpy as np
    import torch
    from safetensors import safe_open

    if tensor.file is None:
        yield family.extra_tensors(config)[tensor.name]
        return
    with safe_open(tensor.file, framework="pt") as weights:  # torch, because numpy knows no bfloat16
        weight = weights.get_tensor(tensor.source)  # still in the file, which is mapped into memory
        order = family.rearrange(tensor.source, np.arange(len(weight))[:, None], config)[:, 0]
        if not np.array_equal(order, np.arange(len(weight))):
            weight = weight[torch.from_numpy(order)]
        for rows in weight.tensor_split(math.ceil(weight.numel() / _VALUES_AT_ONCE)):
            yield rows.to(torch.float32).numpy()


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


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as weights:
            names = list(weights.keys())
            return {name: tuple(weights.get_slice(name).get_shape()) for name in names}
    except SafetensorError:
        raise MedcodeError(f"{file}: truncated or no safetensors file; merge the adapter again") from None


def _tensor_type(shape: tuple[int, ...], file_type: QuantizationName) -> "GGMLQuantizationType":
    from gguf import GGMLQuantizationType

    if len(shape) == 1 or file_type == "f32":
        return GGMLQuantizationType.F32
    if file_type == "bf16":
        return GGMLQuantizationType.BF16
    if file_type == "q8_0" and shape[-1] % 32 == 0:  # q8_0 packs 32 values of a row; llama.cpp falls back to f16 too
        return GGMLQuantizationType.Q8_0
    return GGMLQuantizationType.F16


@contextmanager
def written_aside(output: Path) -> Iterator[Path]:
    """Give a file beside `output` to write, which becomes `output` at the end or disappears on failure."""
    aside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        yield aside
        aside.replace(output)
    except OSError as error:
        raise MedcodeError(
            f"{output}: cannot be written: {error.strerror or error}; make room or choose another folder"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def header_of(merged: Path, file_type: QuantizationName, metadata: ModelMetadata) -> "GGUFWriter":
    """Return a writer that holds every field of a file's header, and no tensor yet; `write_header` opens the file.

    Raises:
        MedcodeError: see `write_gguf`.
    """
    from gguf import GGUFWriter

    config = read_config(merged)
    family = family_of(config)
    tokenizer = read_tokenizer(merged, config["vocab_size"])
    writer = GGUFWriter(None, family.architecture)
    _add_metadata(writer, plan_tensors(merged, config, file_type), file_type, metadata)
    family.add_parameters(writer, config)
    add_tokenizer(writer, merged, tokenizer, metadata.chat_template)
    return writer


def write_header(writer: "GGUFWriter", output: Path) -> BinaryIO:
    """Write all that comes before the tensors' data; return the open file, which `writer.close` closes."""
    writer.write_header_to_file(output)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    file = writer.fout[0]
    writer.write_padding(file, file.tell())
    return file


def _add_metadata(
    writer: "GGUFWriter", plan: list[PlannedTensor], file_type: QuantizationName, metadata: ModelMetadata
) -> None:
    from gguf import GGML_QUANT_VERSION, GGUFType, size_label

    writer.add_type(GGUFType.MODEL)
    writer.add_size_label(size_label(sum(math.prod(tensor.shape) for tensor in plan), 0, 0, 0))
    writer.add_file_type(quantization(file_type).file_type)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    add_general(writer, metadata)


def add_general(writer: "GGUFWriter", metadata: ModelMetadata) -> None:
    """Write where a model or an adapter comes from: `general.*` and `medcode.*`; an empty field is left out."""
    organization, _, base = metadata.base_model.rpartition("/")
    if not re.fullmatch(r"\w[\w.-]*", organization):  # a folder: where it lies is nobody's business
        organization = ""
    for add, value in (
        # llama.cpp strips spaces around special tokens where the name says Phi-3.
        (writer.add_name, re.sub(r"(?i)phi-?3", "Phi 3", metadata.name)),
        (writer.add_version, metadata.version),
        (writer.add_license, metadata.license),
        (writer.add_description, metadata.intended_use),
    ):
        if value:
            add(value)
    if base:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base)
        if organization:
            writer.add_base_model_organization(0, organization)
        if metadata.base_revision:
            writer.add_base_model_version(0, metadata.base_revision)
    writer.add_tags(_TAGS)
    for key, value in (
        ("recipe", metadata.recipe),
        ("bundle_version", metadata.version),
        ("data_version", metadata.data_version),
        ("base_model", f"{organization}/{base}" if organization else base),
        ("base_revision", metadata.base_revision),
    ):
        if value:
            writer.add_string(f"medcode.{key}", value)


def _write_tensors(
    writer: "GGUFWriter",
    output: Path,
    plan: list[PlannedTensor],
    config: Config,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    import numpy as np

    for tensor in plan:
        writer.add_tensor_info(tensor.name, tensor.byte_shape, np.dtype(np.uint8), tensor.nbytes, raw_dtype=tensor.type)
    file = write_header(writer, output)
    family = family_of(config)
    # GGUFWriter.write_tensor_data, which takes a tensor as a whole, in parts.
    for done, tensor in enumerate(plan, start=1):
        for rows in load_rows(tensor, family, config):
            file.write(_encoded(rows, tensor).data)
        writer.write_padding(file, tensor.nbytes)
        if on_progress is not None:
            on_progress(done, len(plan))


def _encoded(rows: "np.ndarray", tensor: PlannedTensor) -> "np.ndarray":
    """Return some rows of a tensor in its type, as bytes."""
    import numpy as np
    import torch
    from gguf import GGMLQuantizationType, quants

    half = tensor.type == GGMLQuantizationType.F16
    largest = max(rows.max(), -rows.min())
    if not largest < (_BEYOND_F16 if half else math.inf):
        raise MedcodeError(f"{tensor.source}: a weight is too large for f16 or not a number; export with f32")
    # torch rounds as gguf.quants does (to the nearest, to even), five times as fast.
    if half:
        data = torch.from_numpy(rows).to(torch.float16).numpy()
    elif tensor.type == GGMLQuantizationType.BF16:
        data = torch.from_numpy(rows).to(torch.bfloat16).view(torch.int16).numpy()
    else:
        data = quants.quantize(rows, tensor.type)
    return np.ascontiguousarray(data).view(np.uint8)
