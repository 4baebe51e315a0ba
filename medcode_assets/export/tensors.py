"""The weights inside a GGUF file against the merged model's, and against the base model's."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_assets.export.families import family_of
from medcode_assets.export.gguf import PlannedTensor, load_rows, plan_tensors, read_config
from medcode_assets.export.quantizations import QUANTIZATIONS, Quantization
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor

_VALUES_AT_ONCE = 2**18  # fits a processor's cache; a multiple of every type's block
_LARGEST_MISS = 0.25, 1 / 32
_LARGEST_STANDARD_ERROR = 0.05


@dataclass(frozen=True)
class _Grid:
    """How a type's blocks write the whole number q of each weight; the weight is offset + q * step of its group."""

    numbers: slice
    """Bytes of a block that hold the numbers; the others hold steps and offsets."""
    least: int
    """A byte of least numbers."""
    greatest: int
    steps: int
    """Between the least and the greatest number."""
    group: int = 32
    """Neighbours that share step and offset."""


_GRIDS = {
    "Q8_0": _Grid(slice(2, 34), 0x80, 0x7F, 255),
    "Q5_0": _Grid(slice(2, 22), 0x00, 0xFF, 31),
    "Q5_1": _Grid(slice(4, 24), 0x00, 0xFF, 31),
    "Q4_K": _Grid(slice(16, 144), 0x00, 0xFF, 15),
    "Q5_K": _Grid(slice(16, 176), 0x00, 0xFF, 31),
    "Q6_K": _Grid(slice(0, 192), 0x00, 0xFF, 63, group=16),
}
"""The types that llama.cpp's quantizer gives a K-quant's matrices, by gguf's name; layouts: ggml-common.h."""


def read_quantization(gguf_file: Path) -> Quantization:
    """Return the number format that a GGUF file says it has.

    Raises:
        MedcodeError: missing, truncated, no GGUF file, or a format that is not exported.
    """
    from medcode_assets.export.gguf_reader import open_gguf

    return _quantization(gguf_file, open_gguf(gguf_file))


def tensor_types(gguf_file: Path) -> dict[str, int]:
    """Count a GGUF file's tensors by their own type (`Q4_K`), the most frequent first.

    Raises:
        MedcodeError: missing, truncated or no GGUF file.
    """
    from medcode_assets.export.gguf_reader import open_gguf

    return dict(Counter(tensor.tensor_type.name for tensor in open_gguf(gguf_file).tensors).most_common())


def changed_tensors(gguf_file: Path, merged: Path) -> tuple[int, list[str]]:
    """Compare every tensor of a GGUF file with the merged model's weight.

    f32, f16, bf16 and q8_0 must be the weight in that type, bit for bit; so must a K-quant's vectors. A K-quant's
    matrices must be the weight rounded as llama.cpp's quantizer rounds it (`_is_rounded`).

    Returns:
        (tensors compared, names of those that differ, are missing, or are not the model's).

    Raises:
        MedcodeError: either of the two cannot be read.
    """
    from medcode_assets.export.gguf_reader import open_gguf

    reader = open_gguf(gguf_file)
    quantization = _quantization(gguf_file, reader)
    config = read_config(merged)
    family = family_of(config)
    found = {tensor.name: tensor for tensor in reader.tensors}
    plan = plan_tensors(merged, config, quantization.name)
    changed = sorted(found.keys() - {tensor.name for tensor in plan})
    for tensor in plan:
        stored = _stored(found, tensor)
        rows = load_rows(tensor, family, config)
        if stored is None or not _equal(stored, rows, tensor.type, quantization.by_llamacpp):
            changed.append(tensor.name)
    return len(plan), changed


def fine_tune_kept(gguf_file: Path, merged: Path, base: Path) -> tuple[float, str] | None:
    """Measure how much of the fine-tune is in a GGUF file, tensor by tensor.

    With change = merged - base and error = file - merged, both without their part along the merged weights, the share
    is 1 + <error, change> / <change, change>: 1 if the file holds the whole change, 0 if it holds the base, 2 if it
    holds the change twice. Rounding shortens weights (Q4_K by 0.5 %), so it knows a change along them. Beside them its
    errors know nothing: their sum of n products with the change grows with √n only. The share's standard error is
    rms(error - (share - 1) * change) / (rms(change) * √n). Tensors with more than 0.05 of it cannot tell and are left
    out; so are those that were only scaled.

    Args:
        gguf_file: The exported file.
        merged: The merged model's folder.
        base: The base model's folder. Where tokens were added, the rows that it has are compared.

    Returns:
        (share farthest from 1, name of its tensor in the GGUF file); None if no tensor can tell: the merged model is
        the base, or the change is lost in the rounding.

    Raises:
        MedcodeError: one of the three cannot be read, or the base has other shapes.
    """
    from medcode_assets.export.gguf_reader import open_gguf

    reader = open_gguf(gguf_file)
    found = {tensor.name: tensor for tensor in reader.tensors}
    config, base_config = read_config(merged), read_config(base)
    family, base_family = family_of(config), family_of(base_config)
    of_base = {tensor.name: tensor for tensor in plan_tensors(base, base_config, "f16")}
    shares = []
    for tensor in plan_tensors(merged, config, "f16"):
        before = of_base.get(tensor.name)
        if before is None:
            continue
        if before.shape[1:] != tensor.shape[1:]:
            raise MedcodeError(f"{base}: {before.source} has another shape; name the base model of this fine-tune")
        rows, rows_before = load_rows(tensor, family, config), load_rows(before, base_family, base_config)
        share = _share_kept(_stored(found, tensor), rows, rows_before)
        if share is not None:
            shares.append((share, tensor.name))
    return max(shares, key=lambda kept: abs(kept[0] - 1), default=None)


def _quantization(gguf_file: Path, reader: "GGUFReader") -> Quantization:
    field = reader.get_field("general.file_type")
    number = None if field is None else field.contents()
    for quantization in QUANTIZATIONS.values():
        if quantization.file_type == number:
            return quantization
    raise MedcodeError(f"{gguf_file}: a number format that cannot be verified; one of {', '.join(QUANTIZATIONS)}")


def _stored(found: "dict[str, ReaderTensor]", tensor: PlannedTensor) -> "ReaderTensor | None":
    """Return a file's tensor if it has the planned shape; GGUF names the fastest dimension first."""
    stored = found.get(tensor.name)
    if stored is None or tuple(reversed(stored.shape.tolist())) != tensor.shape:
        return None
    return stored


def _equal(
    stored: "ReaderTensor", rows: "Iterable[np.ndarray]", planned: "GGMLQuantizationType", by_llamacpp: bool
) -> bool:
    import numpy as np
    from gguf import GGMLQuantizationType

    if stored.tensor_type == planned:
        same = _is_encoded
    elif by_llamacpp and planned == GGMLQuantizationType.F16 and stored.tensor_type.name in _GRIDS:
        same = _is_rounded
    else:
        return False
    with np.errstate(all="ignore"):  # a corrupted step may be infinite or no number: such a weight equals none
        return all(
            same(data, values, stored.tensor_type) for data, values in zip(_data(stored), _flat(rows), strict=True)
        )


def _is_encoded(data: "np.ndarray", values: "np.ndarray", kind: "GGMLQuantizationType") -> bool:
    """Tell whether bytes are fp32 values in a type that gguf writes, bit for bit."""
    import numpy as np
    from gguf import quants

    return np.array_equal(data, quants.quantize(values, kind).view(np.uint8))


def _is_rounded(data: "np.ndarray", values: "np.ndarray", kind: "GGMLQuantizationType") -> bool:
    """Tell whether bytes are fp32 values as llama.cpp's quantizer rounds them.

    Its last step gives every weight the nearest point of the grid that the block stores, so a point that is not the
    nearest shows any change of a number, a step or an offset: |file - clip(weight)| <= step / 2. What f16 rounds comes
    on top: the weight before, and in Q8_0, Q5_0 and Q5_1 step and offset afterwards, each by 2^-11 of it, and below
    f16's normal range by 2^-25.

    The grid itself is llama.cpp's choice. It may end before a group's largest weight or beyond it, and a block stores
    its groups' steps as whole numbers too. At most that was 0.12 and 0.18 of a group's largest weight (Q4_K, uniform
    and real weights), and 1 / 65 of its block's where groups differ (Student's t); about twice that is allowed, and
    what f16's smallest steps may lose: 2^-13.
    """
    import numpy as np
    from gguf import GGML_QUANT_SIZES, quants

    grid = _GRIDS[kind.name]
    block, block_bytes = GGML_QUANT_SIZES[kind]
    ends = []
    for end in (grid.least, grid.greatest):
        filled = data.copy()
        filled.reshape(-1, block_bytes)[:, grid.numbers] = end
        ends.append(quants.dequantize(filled, kind).reshape(-1, grid.group)[:, :1])
    low, high = np.minimum(*ends), np.maximum(*ends)  # a step may be negative
    tolerance = (high - low) * (0.5 / grid.steps) + (high - low + np.abs(low)) * 2**-10 + grid.steps * 2**-25
    weights = values.reshape(-1, grid.group)
    reached = np.clip(weights, low, high)
    off = np.abs(quants.dequantize(data, kind).reshape(-1, grid.group) - reached)
    return bool((off <= tolerance).all() and _fits(weights, low, high, block))


def _fits(weights: "np.ndarray", low: "np.ndarray", high: "np.ndarray", block: int) -> bool:
    """Tell whether grids from `low` to `high`, [groups, 1], end near the largest of their weights, [groups, group].

    A grid that ends far beyond is too coarse: the nearest of its points may be 0 for every weight.
    """
    import numpy as np

    largest = np.abs(weights).max(axis=1)
    cut = np.abs(weights - np.clip(weights, low, high)).max(axis=1)
    beyond = np.maximum(-low, high)[:, 0] - largest
    groups = block // weights.shape[1]
    of_block = largest.reshape(-1, groups).max(axis=1).repeat(groups)
    of_group, of_its_block = _LARGEST_MISS
    return bool((np.maximum(cut, beyond) <= of_group * largest + of_its_block * of_block + 2**-13).all())


def _share_kept(
    stored: "ReaderTensor | None", rows: "Iterable[np.ndarray]", rows_before: "Iterable[np.ndarray]"
) -> float | None:
    """Return one tensor's share: 0 if the file lacks it, None if the fine-tune left it alone or it cannot tell."""
    import math

    import numpy as np
    from gguf import quants

    if stored is None:
        return 0.0
    count, changed, product, noise = 0, 0.0, 0.0, 0.0
    for data, after, before in zip(_data(stored), _flat(rows), _flat(rows_before), strict=False):
        after = after[: len(before)]
        change = after - before
        if not change.any():
            continue
        with np.errstate(all="ignore"):
            error = _beside(quants.dequantize(data, stored.tensor_type)[: len(before)] - after, after)
            change = _beside(change, after)
            count += len(change)
            changed += float(np.vdot(change, change))
            product += float(np.vdot(error, change))
            noise += float(np.vdot(error, error))
    if not changed:
        return None
    known = product / changed
    unknown = max(noise / changed - known**2, 0)
    return 1 + known if math.sqrt(unknown / count) <= _LARGEST_STANDARD_ERROR else None


def _beside(differences: "np.ndarray", weights: "np.ndarray") -> "np.ndarray":
    """Return differences without their part along the weights, which a change of scale makes."""
    import numpy as np

    return differences - weights * (np.vdot(differences, weights) / (np.vdot(weights, weights) or 1))


def _data(stored: "ReaderTensor") -> "Iterator[np.ndarray]":
    """Give a tensor's bytes, uint8, of as many values at once as `_flat` gives."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES

    block, block_bytes = GGML_QUANT_SIZES[stored.tensor_type]
    data = np.asarray(stored.data).reshape(-1).view(np.uint8)
    step = _VALUES_AT_ONCE // block * block_bytes
    for start in range(0, len(data), step):
        yield data[start : start + step]


def _flat(rows: "Iterable[np.ndarray]") -> "Iterator[np.ndarray]":
    """Give a tensor's values in row order, fp32 [_VALUES_AT_ONCE] and a shorter rest, however its rows come."""
    import numpy as np

    rest = np.empty(0, np.float32)
    for part in rows:
        rest = np.concatenate([rest, part.reshape(-1)])
        whole = len(rest) // _VALUES_AT_ONCE * _VALUES_AT_ONCE
        yield from rest[:whole].reshape(-1, _VALUES_AT_ONCE)
        rest = rest[whole:]
    if len(rest):
        yield rest
