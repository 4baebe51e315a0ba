"""The weights inside a GGUF file against the merged model's."""

from pathlib import Path
from typing import TYPE_CHECKING

from medcode_assets.export.families import family_of
from medcode_assets.export.gguf import FileType, load_tensor, plan_tensors, read_config
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader, ReaderTensor


def read_file_type(gguf_file: Path) -> FileType:
    """Return the type that a GGUF file says it has.

    Raises:
        MedcodeError: missing, truncated, no GGUF file, or a type that `write_gguf` does not write.
    """
    from gguf import LlamaFileType

    stored = _open(gguf_file).get_field("general.file_type")
    types: dict[int, FileType] = {
        LlamaFileType.ALL_F32: "f32",
        LlamaFileType.MOSTLY_F16: "f16",
        LlamaFileType.MOSTLY_Q8_0: "q8_0",
    }
    file_type = types.get(stored.contents()) if stored is not None else None
    if file_type is None:
        raise MedcodeError(f"{gguf_file}: its file type cannot be verified; one of {', '.join(types.values())}")
    return file_type


def changed_tensors(gguf_file: Path, merged: Path) -> tuple[int, list[str]]:
    """Compare every tensor of a GGUF file with the merged model's weight.

    f32 and f16 must be the weight rounded to that type, bit for bit. q8_0 keeps 32 values of a row as whole
    multiples of one f16 scale, the largest of them being 127: half a step and the scale's own rounding is
    what it may lose.

    Returns:
        (tensors compared, names of those that differ, are missing, or are not the model's).

    Raises:
        MedcodeError: either of the two cannot be read.
    """
    config = read_config(merged)
    family = family_of(config)
    found = {tensor.name: tensor for tensor in _open(gguf_file).tensors}
    plan = plan_tensors(merged, config, read_file_type(gguf_file))
    changed = sorted(found.keys() - {tensor.name for tensor in plan})
    for tensor in plan:
        stored = found.get(tensor.name)
        if stored is None or not _equal(stored, load_tensor(tensor, family, config)):
            changed.append(tensor.name)
    return len(plan), changed


def _open(gguf_file: Path) -> "GGUFReader":
    from gguf import GGUFReader

    if not gguf_file.exists():
        raise MedcodeError(f"{gguf_file}: no such file; export it: medcode export")
    try:
        return GGUFReader(gguf_file)
    except (
        ValueError,
        IndexError,
        KeyError,
        OSError,
    ) as error:  # what numpy raises on a memory map that ends early
        raise MedcodeError(f"{gguf_file}: truncated or no GGUF file; export it again") from error


def _equal(stored: "ReaderTensor", weight: "np.ndarray") -> bool:
    import numpy as np
    from gguf import GGMLQuantizationType, quants

    if tuple(reversed(stored.shape.tolist())) != weight.shape:  # GGUF names the fastest dimension first
        return False
    match stored.tensor_type:
        case GGMLQuantizationType.F32:
            return bool(np.array_equal(stored.data, weight))
        case GGMLQuantizationType.F16:
            return bool(np.array_equal(stored.data, weight.astype(np.float16)))
        case GGMLQuantizationType.Q8_0:
            values = quants.dequantize(stored.data, GGMLQuantizationType.Q8_0)
            blocks = weight.reshape(-1, 32)
            step = np.abs(blocks).max(axis=1, keepdims=True) / 127
            return bool((np.abs(values.reshape(-1, 32) - blocks) <= 0.5 * step + 0.07 * step + 1e-7).all())
    return False
