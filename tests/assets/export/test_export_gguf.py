import json
import resource
import shutil
from collections import namedtuple
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from medcode_assets.export.families import family_of
from medcode_assets.export.gguf import load_rows, plan_tensors, read_config, write_gguf
from medcode_assets.export.metadata import ModelMetadata
from medcode_assets.export.tokenizer import read_tokenizer
from medcode_serving.errors import MedcodeError

from .conftest import METADATA, add_tokens, begin_with_bos, edit_json


def field(reader: gguf.GGUFReader, name: str):
    found = reader.get_field(name)
    return None if found is None else found.contents()


def copy_with(merged: Path, target: Path, name: str, **changes: object) -> Path:
    """A copy of the merged model in which one JSON file has other values."""
    shutil.copytree(merged, target)
    edit_json(target / name, **changes)
    return target


def export(model: Path, tmp_path: Path, **options) -> Path:
    return write_gguf(model, tmp_path / "out" / "m.gguf", **({"metadata": METADATA} | options))


def left_over(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "out").glob("*")) + list((tmp_path / "out").glob(".*"))


def test_the_header_says_what_llamacpp_and_people_need(f16, merged):
    reader = gguf.GGUFReader(f16)
    expected = {
        "general.architecture": "qwen2",
        "general.name": "tiny",
        "general.version": "1",
        "general.size_label": "99K",
        "general.file_type": 1,
        "qwen2.context_length": 256,
        "qwen2.embedding_length": 64,
        "qwen2.block_count": 2,
        "qwen2.feed_forward_length": 128,
        "qwen2.attention.head_count": 4,
        "qwen2.attention.head_count_kv": 2,
        "qwen2.rope.freq_base": 50_000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": None,
    }
    assert {name: field(reader, name) for name in expected} == expected
    types = field(reader, "tokenizer.ggml.token_type")
    assert types[0] == gguf.TokenType.CONTROL
    assert types[1] == gguf.TokenType.NORMAL
    assert types[-1] == gguf.TokenType.UNUSED  # the embedding has rows that the tokenizer does not use
    assert len(types) == len(field(reader, "tokenizer.ggml.tokens")) == 384


def test_matrices_are_f16_and_vectors_f32_and_a_tied_head_is_left_out(f16, merged):
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(f16).tensors}
    weights = load_file(merged / "model.safetensors")
    assert "output.weight" not in tensors
    assert tensors["token_embd.weight"].data.dtype == np.float16
    assert tensors["blk.1.attn_q.bias"].data.dtype == np.float32
    query = weights["model.layers.1.self_attn.q_proj.weight"]
    assert np.array_equal(tensors["blk.1.attn_q.weight"].data, query.astype(np.float16))


@pytest.mark.parametrize("file_type", ["f32", "f16", "bf16", "q8_0"])
def test_sizes_by_file_type_and_progress(merged, tmp_path, file_type):
    told = []
    file = export(merged, tmp_path, file_type=file_type, on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (26, 26)
    assert len(told) == 26
    low, high = {"f32": (380, 440), "f16": (190, 240), "bf16": (190, 240), "q8_0": (105, 140)}[file_type]
    assert low < file.stat().st_size / 1000 < high
    assert [path.name for path in file.parent.iterdir()] == ["m.gguf"]


def test_the_file_says_where_it_comes_from(merged, tmp_path):
    metadata = ModelMetadata(
        name="medcode Phi-3 icd",
        version="icd-1",
        recipe="icd",
        base_model="Qwen/Qwen2.5-0.5B",
        base_revision="abc",
        license="apache-2.0",
        data_version="3.1 0f0f",
        intended_use="research",
        chat_template="{{ messages[0].content }}",
    )
    reader = gguf.GGUFReader(export(merged, tmp_path, metadata=metadata))
    expected = {
        "general.type": "model",
        "general.name": "medcode Phi 3 icd",  # llama.cpp tokenizes otherwise by "phi-3" in a name
        "general.version": "icd-1",
        "general.license": "apache-2.0",
        "general.description": "research",
        "general.base_model.count": 1,
        "general.base_model.0.name": "Qwen2.5-0.5B",
        "general.base_model.0.organization": "Qwen",
        "general.base_model.0.version": "abc",
        "general.tags": ["text-generation", "medical-coding", "medcode"],
        "medcode.recipe": "icd",
        "medcode.bundle_version": "icd-1",
        "medcode.data_version": "3.1 0f0f",
        "medcode.base_model": "Qwen/Qwen2.5-0.5B",
        "medcode.base_revision": "abc",
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }
    assert {name: field(reader, name) for name in expected} == expected


def test_what_nobody_said_is_left_out_and_a_path_is_not_told(merged, tmp_path):
    reader = gguf.GGUFReader(export(merged, tmp_path, metadata=ModelMetadata("a", "1", base_model="/home/me/model")))
    assert field(reader, "general.base_model.0.name") == field(reader, "medcode.base_model") == "model"
    assert not {"general.base_model.0.organization", "general.license", "medcode.recipe"} & reader.fields.keys()


def test_a_chat_template_and_bos_come_from_the_tokenizer_that_training_loads(merged, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(merged, model)
    begin_with_bos(model)
    reader = gguf.GGUFReader(export(model, tmp_path))
    assert field(reader, "tokenizer.chat_template") == "{{ messages }}"
    assert field(reader, "tokenizer.ggml.add_bos_token") is True
    assert field(reader, "tokenizer.ggml.add_eos_token") is False
    assert field(reader, "tokenizer.ggml.bos_token_id") == 0


def test_deepseeks_distillation_is_known_by_its_begin_token(merged, tmp_path):
    model = tmp_path / "m"
    shutil.copytree(merged, model)
    added = [{"content": "<｜begin▁of▁sentence｜>", "special": True}, {"content": "<｜User｜>"}, {"content": "<think>"}]
    ids = add_tokens(model / "tokenizer.json", added)
    tokenizer = read_tokenizer(model, 384)
    assert tokenizer.pre == "deepseek-r1-qwen"
    control, user_defined = gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED
    assert tokenizer.types[ids[0] :][:4] == [control, control, user_defined, gguf.TokenType.UNUSED]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "supported: llama, phi, phi3, qwen2, qwen3"),
        ({"use_sliding_window": True}, "sliding-window"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}}, "yarn"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "settings that transformers takes"),
        ({"hidden_size": "64"}, "settings that transformers takes"),
        ({"vocab_size": 100}, "no row in an embedding of 100"),
    ],
)
def test_what_gguf_cannot_express_is_one_clear_error(merged, tmp_path, changes, message):
    model = copy_with(merged, tmp_path / "model", "config.json", **changes)
    with pytest.raises(MedcodeError, match=message) as error:
        export(model, tmp_path)
    assert "\n" not in str(error.value)
    assert not left_over(tmp_path)


def without_config(merged: Path, target: Path, **changes: object) -> Path:
    """A tokenizer that transformers reads as tokenizer.json says, whatever it does with Qwen2's."""
    shutil.copytree(merged, target)
    (target / "config.json").unlink()
    edit_json(target / "tokenizer.json", **changes)
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer"),
        ({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]}, "added_tokens": []}, "SentencePiece"),
        ({"model": {"type": "WordLevel", "unk_token": "a", "vocab": {"a": 0}}, "added_tokens": []}, "WordLevel"),
        (
            {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}},
            "SentencePiece",
        ),
    ],
)
def test_a_tokenizer_of_another_kind_is_one_clear_error(merged, tmp_path, changes, message):
    model = without_config(merged, tmp_path / "model", **changes)
    with pytest.raises(MedcodeError, match=message) as error:
        read_tokenizer(model, 384)
    assert "\n" not in str(error.value)


def test_another_digit_rule_is_not_taken_for_qwen2s(merged, tmp_path):
    spec = (merged / "tokenizer.json").read_text()
    changed = json.loads(spec.replace(r"|\\p{N}|", r"|\\p{N}{1,2}|"))["pre_tokenizer"]
    assert changed != json.loads(spec)["pre_tokenizer"]
    with pytest.raises(MedcodeError, match="its pre_tokenizer"):
        read_tokenizer(without_config(merged, tmp_path / "model", pre_tokenizer=changed), 384)


def test_a_token_that_takes_spaces_with_it_is_refused(merged, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(merged, model)
    add_tokens(model / "tokenizer.json", [{"content": "<think>", "rstrip": True}])
    with pytest.raises(MedcodeError, match="'<think>' takes spaces"):
        read_tokenizer(model, 384)


def test_bad_files_and_types_are_refused_and_leave_nothing(merged, tmp_path):
    def refused(match: str, **options: object) -> None:
        with pytest.raises(MedcodeError, match=match):
            export(model, tmp_path, **options)
        assert not left_over(tmp_path)

    model = tmp_path / "model"
    shutil.copytree(merged, model)
    refused("q4_k_m: .* use quantize_gguf", file_type="q4_k_m")
    refused("q3_k", file_type="q3_k")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused("truncated")
    weights.unlink()
    refused(r"model\.safetensors: missing")
    (model / "tokenizer.json").write_text("{")
    refused("tokenizer")
    (model / "tokenizer.json").unlink()
    refused(r"tokenizer\.json: missing")
    (model / "config.json").write_text("{")
    refused(r"config\.json: no JSON")
    (model / "config.json").unlink()
    refused(r"config\.json: missing")


def test_a_full_disk_is_noticed_before_anything_is_written(merged, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 10, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(MedcodeError, match="GB needed for m.gguf"):
        export(merged, tmp_path)
    assert not left_over(tmp_path)


def test_a_disk_that_fills_up_while_writing_leaves_no_file(merged, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(MedcodeError, match=r"m\.gguf: cannot be written: File too large; make room"):
            export(merged, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not left_over(tmp_path)


@pytest.mark.parametrize(("value", "file_type"), [(1e6, "f16"), (np.nan, "q8_0"), (np.inf, "bf16")])
def test_a_weight_that_the_type_cannot_hold_is_an_error_and_leaves_no_file(merged, tmp_path, value, file_type):
    model = tmp_path / "model"
    shutil.copytree(merged, model)
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = value
    save_file(weights, model / "model.safetensors")
    with pytest.raises(MedcodeError, match=r"up_proj\.weight: a weight is too large for f16"):
        export(model, tmp_path, file_type=file_type)
    assert not left_over(tmp_path)
    if file_type == "f16":
        export(model, tmp_path, file_type="f32")


def test_rows_in_parts_are_the_tensor(family_models, monkeypatch):
    from safetensors.torch import load_file

    from medcode_assets.export import gguf as writer

    monkeypatch.setattr(writer, "_VALUES_AT_ONCE", 1000)
    folder = family_models["llama3"]
    config, weights = read_config(folder), load_file(folder / "model.safetensors")
    family = family_of(config)
    for tensor in plan_tensors(folder, config, "f32"):
        found = np.concatenate(list(load_rows(tensor, family, config)))
        assert found.shape == tensor.shape
        if tensor.file is not None:
            whole = family.rearrange(tensor.source, weights[tensor.source].float().numpy(), config)
            assert np.array_equal(found, whole)
            assert len(list(load_rows(tensor, family, config))) == -(-whole.size // 1000)
