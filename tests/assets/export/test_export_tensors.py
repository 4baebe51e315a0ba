import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from medcode_assets.export.gguf import write_gguf
from medcode_assets.export.gguf_reader import open_gguf
from medcode_assets.export.metadata import ModelMetadata
from medcode_assets.export.quantizations import QUANTIZATIONS
from medcode_assets.export.quantize import quantize_gguf
from medcode_assets.export.tensors import changed_tensors, fine_tune_kept, read_quantization, tensor_types
from medcode_serving.errors import MedcodeError
from tests import tiny

METADATA = ModelMetadata(name="tiny", version="1")
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
K_PROJ = "model.layers.0.self_attn.k_proj.weight"
V_PROJ = "model.layers.1.self_attn.v_proj.weight"


def write_fine_tune(base: Path, folder: Path, *, left_out: str = "", size: float = 0.05, scale: float = 1.0) -> Path:
    """The base with a change of rank 4 in each linear module, its rms `size` of the weight's; `left_out` stays.

    The changed weights are multiplied by `scale`, as DoRA and weight decay do.
    """
    shutil.copytree(base, folder)
    random = np.random.default_rng(4)
    weights = load_file(base / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith("proj.weight"):
            change = random.normal(size=(len(weight), 4)) @ random.normal(size=(4, weight.shape[1]))
            if name != left_out:
                change *= size * weight.std() / change.std()
                weights[name] = (scale * (weight + change)).astype(np.float32)
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model whose rows divide by 256, as K-quants ask."""
    folder = tmp_path_factory.mktemp("wide")
    tiny.qwen2(384, seed=1, hidden_size=256, intermediate_size=256, initializer_range=0.05).save_pretrained(folder)
    tiny.write_tokenizer(folder, ["patient with pneumonia (J18.9)"] * 3, 352, pad_token=tiny.END)
    return folder


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, wide: Path) -> Path:
    return write_fine_tune(wide, tmp_path_factory.mktemp("tuned") / "merged")


def export(model: Path, folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """The model in some number formats; f16 comes before K-quants."""
    files: dict[str, Path] = {}
    for name in names:
        quantization = QUANTIZATIONS[name]
        files[name] = folder / f"{name}.gguf"
        if quantization.by_llamacpp:
            quantize_gguf(files["f16"], files[name], quantization.name)
        else:
            write_gguf(model, files[name], file_type=quantization.name, metadata=METADATA)
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tuned: Path) -> dict[str, Path]:
    return export(tuned, tmp_path_factory.mktemp("files"), QUANTIZATIONS)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, base: Path) -> dict[str, Path]:
    """Rows of 64 and 128: K-quants fall back."""
    return export(base, tmp_path_factory.mktemp("narrow"), ("f16", "q5_k_m", "q4_k_m"))


@pytest.fixture(scope="module")
def q4_of_base(tmp_path_factory: pytest.TempPathFactory, wide: Path) -> Path:
    folder = tmp_path_factory.mktemp("q4")
    f16 = write_gguf(wide, folder / "f16.gguf", metadata=METADATA)
    return quantize_gguf(f16, folder / "q4.gguf", "q4_k_m")


def tensor_in(file: Path, name: str) -> gguf.ReaderTensor:
    return next(tensor for tensor in gguf.GGUFReader(file, "r+").tensors if tensor.name == name)


def of_type(file: Path, name: str) -> str:
    """The last matrix of a type."""
    return [tensor.name for tensor in gguf.GGUFReader(file).tensors if tensor.tensor_type.name == name][-1]


def flipped(file: Path, target: Path, tensor: str, byte: int, bit: int) -> Path:
    shutil.copyfile(file, target)
    data = tensor_in(target, tensor).data.reshape(-1).view(np.uint8)
    data[byte] ^= 1 << bit
    data.flush()
    return target


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("f32", {"F32": 26}),
        ("f16", {"F16": 15, "F32": 11}),
        ("bf16", {"BF16": 15, "F32": 11}),
        ("q8_0", {"Q8_0": 15, "F32": 11}),
        ("q6_k", {"Q6_K": 15, "F32": 11}),
        ("q5_k_m", {"Q5_K": 12, "F32": 11, "Q6_K": 3}),
        ("q4_k_m", {"Q4_K": 12, "F32": 11, "Q6_K": 3}),
    ],
)
def test_every_number_format_is_the_models(files, tuned, name, types):
    assert read_quantization(files[name]) == QUANTIZATIONS[name]
    assert tensor_types(files[name]) == types
    assert changed_tensors(files[name], tuned) == (26, [])


def test_rows_that_do_not_divide_by_256_fall_back(narrow, base):
    for name in ("q4_k_m", "q5_k_m"):
        assert not [kind for kind in tensor_types(narrow[name]) if kind.endswith("_K")]
        assert changed_tensors(narrow[name], base) == (26, [])
    kinds = set(tensor_types(narrow["q4_k_m"])) | set(tensor_types(narrow["q5_k_m"]))
    assert {"Q5_0", "Q5_1", "Q8_0"} < kinds


@pytest.mark.parametrize(
    ("rows", "name", "kind", "places"),
    [
        ("wide", "f32", "F32", {"exponent": 3}),
        ("wide", "f16", "F16", {"lowest bit": 400}),
        ("wide", "bf16", "BF16", {"lowest bit": 400}),
        ("wide", "q8_0", "Q8_0", {"lowest bit of scale": 34 * 5, "value": 34 * 5 + 9}),
        ("wide", "q6_k", "Q6_K", {"value": 210 * 9 + 3, "scale": 210 * 9 + 195, "scales' scale": 209}),
        ("wide", "q5_k_m", "Q5_K", {"scales' scale": 1, "scale": 4, "value": 176 * 9 + 60}),
        ("wide", "q4_k_m", "Q4_K", {"scales' scale": 1, "scale": 4, "value": 144 * 9 + 60}),
        ("narrow", "q4_k_m", "Q5_0", {"scale": 1, "value": 22 * 9 + 8}),
        ("narrow", "q5_k_m", "Q5_1", {"scale": 1, "offset": 3, "value": 24 * 9 + 10}),
        ("narrow", "q5_k_m", "Q8_0", {"scale": 1, "value": 34 * 5 + 9}),
    ],
)
def test_one_flipped_bit_is_seen(files, narrow, tuned, base, tmp_path, rows, name, kind, places):
    file, model = (files[name], tuned) if rows == "wide" else (narrow[name], base)
    tensor = of_type(file, kind)
    if kind == "F32":
        tensor = "blk.1.ffn_up.weight"
    for place, byte in places.items():
        bit = 0 if place.startswith("lowest") else 5 if kind.endswith("_K") and place == "scale" else 6
        broken = flipped(file, tmp_path / "broken.gguf", tensor, byte, bit)
        assert changed_tensors(broken, model)[1] == [tensor], place


@pytest.mark.parametrize(
    ("step", "blocks"),
    [(4, slice(None)), (0.6, slice(None)), (4, slice(9, 10)), (0.3, slice(9, 10))],
)
def test_weights_on_a_grid_that_is_not_theirs_are_seen(files, tuned, tmp_path, step, blocks):
    """Q4_K with every weight on the nearest point: 0 or five levels, of a whole tensor, 0 or seven, of one block."""
    shutil.copyfile(files["q4_k_m"], tmp_path / "coarse.gguf")
    stored = tensor_in(tmp_path / "coarse.gguf", "blk.0.attn_q.weight")
    weights = load_file(tuned / "model.safetensors")[Q_PROJ].reshape(-1, 256)[blocks]
    scale = (step * np.abs(weights).max(axis=1, keepdims=True) / 63).astype(np.float16)
    numbers = np.clip(np.round(weights / (63 * scale.astype(np.float32))) + 8, 0, 15)
    numbers = numbers.astype(np.uint8).reshape(-1, 4, 2, 32)
    block = stored.data.reshape(-1, 144)[blocks]
    block[:, :4] = np.hstack([scale, 8 * scale]).view(np.uint8)  # weight = 63 * scale * (number - 8)
    block[:, 4:16] = 0xFF
    block[:, 16:] = (numbers[:, :, 0] | numbers[:, :, 1] << 4).reshape(-1, 128)
    stored.data.flush()
    assert changed_tensors(tmp_path / "coarse.gguf", tuned)[1] == ["blk.0.attn_q.weight"]


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"])
def test_two_tensors_swapped_are_seen(files, tuned, tmp_path, name):
    shutil.copyfile(files[name], tmp_path / "swapped.gguf")
    reader = gguf.GGUFReader(tmp_path / "swapped.gguf", "r+")
    one, other = (
        tensor for tensor in reader.tensors if tensor.name in ("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight")
    )
    kept = one.data.copy()
    one.data[:] = other.data
    other.data[:] = kept
    reader.data.flush()
    assert sorted(changed_tensors(tmp_path / "swapped.gguf", tuned)[1]) == [
        "blk.0.ffn_gate.weight",
        "blk.0.ffn_up.weight",
    ]


@pytest.mark.parametrize("change", ["transposed", "rows moved", "base"])
def test_another_weight_than_the_files_is_seen(files, tuned, wide, tmp_path, change):
    name = "model.layers.0.self_attn.q_proj.weight"
    weights = load_file(tuned / "model.safetensors")
    weights[name] = {
        "transposed": np.ascontiguousarray(weights[name].T),
        "rows moved": np.roll(weights[name], 1, axis=0),
        "base": load_file(wide / "model.safetensors")[name],
    }[change]
    shutil.copytree(tuned, tmp_path / "other")
    save_file(weights, tmp_path / "other" / "model.safetensors")
    for file in (files["q4_k_m"], files["f16"]):
        assert changed_tensors(file, tmp_path / "other") == (26, ["blk.0.attn_q.weight"])


def test_a_matrix_of_another_type_or_without_a_tensor_is_changed(files, tuned, tmp_path):
    shutil.copyfile(files["q8_0"], tmp_path / "f.gguf")
    field = gguf.GGUFReader(tmp_path / "f.gguf", "r+").fields["general.file_type"]
    field.parts[field.data[0]][0] = QUANTIZATIONS["f16"].file_type
    field.parts[field.data[0]].flush()
    assert len(changed_tensors(tmp_path / "f.gguf", tuned)[1]) == 15  # says f16 and is not
    config = json.loads((tuned / "config.json").read_text())
    shutil.copytree(tuned, tmp_path / "untied")
    (tmp_path / "untied" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    weights = load_file(tuned / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
    save_file(weights, tmp_path / "untied" / "model.safetensors")
    assert changed_tensors(files["q4_k_m"], tmp_path / "untied") == (27, ["output.weight"])


@pytest.mark.parametrize("name", ["f16", "q6_k", "q4_k_m"])
def test_the_whole_fine_tune_is_in_the_file(files, tuned, wide, name):
    kept = fine_tune_kept(files[name], tuned, wide)
    assert kept is not None
    assert kept[0] == pytest.approx(1, abs=0.01 if name == "f16" else 0.15)


def test_a_file_of_the_base_holds_nothing_of_the_fine_tune(q4_of_base, tuned, wide):
    kept = fine_tune_kept(q4_of_base, tuned, wide)
    assert kept is not None
    assert kept[0] == pytest.approx(0, abs=0.15)
    assert len(changed_tensors(q4_of_base, tuned)[1]) == 14


def test_one_module_left_unmerged_is_named(tuned, wide, tmp_path):
    forgotten = write_fine_tune(wide, tmp_path / "forgotten", left_out=V_PROJ)
    f16 = write_gguf(forgotten, tmp_path / "f16.gguf", metadata=METADATA)
    file = quantize_gguf(f16, tmp_path / "q4.gguf", "q4_k_m")
    share, tensor = fine_tune_kept(file, tuned, wide)
    assert tensor == "blk.1.attn_v.weight"
    assert share == pytest.approx(0, abs=0.15)
    assert changed_tensors(file, tuned)[1] == [tensor]


def test_no_share_where_none_can_be_told(files, q4_of_base, tuned, wide, base, tmp_path):
    assert fine_tune_kept(q4_of_base, wide, wide) is None
    slight = write_fine_tune(wide, tmp_path / "slight", size=1e-4)
    assert fine_tune_kept(q4_of_base, slight, wide) is None  # the change drowns in the rounding
    with pytest.raises(MedcodeError, match="has another shape; name the base model"):
        fine_tune_kept(files["f16"], tuned, base)


def test_rows_for_added_tokens_are_not_held_against_the_base(wide, tuned, files, tmp_path):
    shutil.copytree(wide, tmp_path / "base")
    weights = load_file(wide / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:380].copy()
    save_file(weights, tmp_path / "base" / "model.safetensors")
    config = json.loads((wide / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps(config | {"vocab_size": 380}))
    assert fine_tune_kept(files["q4_k_m"], tuned, tmp_path / "base") == fine_tune_kept(files["q4_k_m"], tuned, wide)


@pytest.mark.parametrize(
    ("in_q", "in_k", "farthest"), [(0.5, 1.25, (0.5, "blk.0.attn_q.weight")), (0.5, 6, (6, "blk.0.attn_k.weight"))]
)
def test_the_share_farthest_from_1_by_hand(wide, tmp_path, in_q, in_k, farthest):
    """Weights of 1, 1 change by 2, -2. Less 0.8 of the merged weights, 3, -1, that is -0.4, -1.2: 1.6 in square.

    A file with half of the change errs by -1, 1 and beside the weights by 0.2, 0.6: 1 - (0.08 + 0.72) / 1.6.
    """
    weights = load_file(wide / "model.safetensors")
    change = np.resize(np.float32([2, -2]), 256)
    for folder, q, k in (("base", 0, 0), ("merged", 1, 1), ("file", in_q, in_k)):
        shutil.copytree(wide, tmp_path / folder)
        for name, share in ((Q_PROJ, q), (K_PROJ, k)):
            weights[name] = np.ones_like(weights[name]) + np.float32(share) * change
        save_file(weights, tmp_path / folder / "model.safetensors")
    file = write_gguf(tmp_path / "file", tmp_path / "f.gguf", file_type="f32", metadata=METADATA)
    kept = fine_tune_kept(file, tmp_path / "merged", tmp_path / "base")
    assert kept == (pytest.approx(farthest[0], rel=1e-3), farthest[1])


@pytest.mark.parametrize("name", ["f16", "q6_k", "q4_k_m"])
def test_a_change_of_scale_alone_is_not_judged(wide, tmp_path, name):
    scaled = write_fine_tune(wide, tmp_path / "scaled", size=0, scale=1.005)
    assert fine_tune_kept(export(scaled, tmp_path, dict.fromkeys(("f16", name)))[name], scaled, wide) is None


def test_a_change_of_scale_does_not_hide_the_fine_tune(q4_of_base, wide, tmp_path):
    """Rounding takes 0.5 % off the length of the weights, half of what they grew by."""
    grown = write_fine_tune(wide, tmp_path / "grown", size=0.01, scale=1.01)
    file = export(grown, tmp_path, ("f16", "q4_k_m"))["q4_k_m"]
    for kept, share in ((fine_tune_kept(file, grown, wide), 1), (fine_tune_kept(q4_of_base, grown, wide), 0)):
        assert kept is not None
        assert kept[0] == pytest.approx(share, abs=0.15)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory, narrow: dict[str, Path]) -> Path:
    return shutil.copyfile(narrow["q4_k_m"], tmp_path_factory.mktemp("cut") / "cut.gguf")


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1, exclude_max=True))
@example(0.0)
@example(3e-5)  # 3 bytes
@example(1 - 1e-5)  # the last byte
def test_a_file_cut_anywhere_is_truncated(narrow, cut, share):
    whole = narrow["q4_k_m"].read_bytes()
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(MedcodeError, match="truncated or no GGUF file"):
        read_quantization(cut)


def test_files_that_are_none_or_of_an_unknown_format_are_refused(narrow, tmp_path):
    with pytest.raises(MedcodeError, match="no such file"):
        read_quantization(tmp_path / "none.gguf")
    with pytest.raises(MedcodeError, match="cannot be read"):
        read_quantization(tmp_path)
    shutil.copyfile(narrow["f16"], tmp_path / "f.gguf")
    field = gguf.GGUFReader(tmp_path / "f.gguf", "r+").fields["general.file_type"]
    field.parts[field.data[0]][0] = gguf.LlamaFileType.MOSTLY_IQ2_XS
    field.parts[field.data[0]].flush()
    with pytest.raises(MedcodeError, match="one of f32, f16, bf16, q8_0"):
        read_quantization(tmp_path / "f.gguf")


def test_the_quick_reader_reads_what_ggufs_own_reads(narrow):
    quick, own = open_gguf(narrow["q5_k_m"]), gguf.GGUFReader(narrow["q5_k_m"])
    assert {name: field.contents() for name, field in quick.fields.items()} == {
        name: field.contents() for name, field in own.fields.items()
    }
    assert [tensor.name for tensor in quick.tensors] == [tensor.name for tensor in own.tensors]
    assert all(np.array_equal(a.data, b.data) for a, b in zip(quick.tensors, own.tensors, strict=True))
