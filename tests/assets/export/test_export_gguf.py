import json
import shutil
from collections import namedtuple
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from medcode_assets.export.gguf import write_gguf
from medcode_serving.errors import MedcodeError


def field(reader: gguf.GGUFReader, name: str):
    found = reader.get_field(name)
    return None if found is None else found.contents()


def copy_with(merged: Path, target: Path, name: str, **changes: object) -> Path:
    """A copy of the merged model in which one JSON file has other values."""
    shutil.copytree(merged, target)
    content = json.loads((target / name).read_text())
    (target / name).write_text(json.dumps(content | changes))
    return target


def export(model: Path, tmp_path: Path, **options) -> Path:
    return write_gguf(model, tmp_path / "out" / "m.gguf", **({"name": "tiny", "version": "1"} | options))


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


@pytest.mark.parametrize("file_type", ["f32", "f16", "q8_0"])
def test_sizes_by_file_type_and_progress(merged, tmp_path, file_type):
    told = []
    file = export(merged, tmp_path, file_type=file_type, on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (26, 26)
    assert len(told) == 26
    low, high = {"f32": (380, 440), "f16": (190, 240), "q8_0": (105, 140)}[file_type]
    assert low < file.stat().st_size / 1000 < high
    assert [path.name for path in file.parent.iterdir()] == ["m.gguf"]


def test_a_chat_template_and_bos_come_from_the_tokenizer_that_training_loads(merged, tmp_path):
    model = copy_with(
        merged, tmp_path / "model", "tokenizer_config.json", bos_token="<|endoftext|>", add_bos_token=True
    )
    (model / "chat_template.jinja").write_text("{{ messages }}")
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    bos = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, text],
        "pair": [bos, text, bos, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    }
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    reader = gguf.GGUFReader(export(model, tmp_path))
    assert field(reader, "tokenizer.chat_template") == "{{ messages }}"
    assert field(reader, "tokenizer.ggml.add_bos_token") is True
    assert field(reader, "tokenizer.ggml.bos_token_id") == 0


def test_deepseeks_distillation_is_known_by_its_begin_token(merged, tmp_path):
    from medcode_assets.export.tokenizer import read_tokenizer

    added = json.loads((merged / "tokenizer.json").read_text())["added_tokens"]
    begin = added[0] | {"id": 352, "content": "<｜begin▁of▁sentence｜>"}
    user = added[0] | {"id": 353, "content": "<｜User｜>", "special": False}
    think = added[0] | {"id": 354, "content": "<think>", "special": False}
    model = copy_with(merged, tmp_path / "m", "tokenizer.json", added_tokens=[*added, begin, user, think])
    tokenizer = read_tokenizer(model, 384)
    assert tokenizer.pre == "deepseek-r1-qwen"
    control, user_defined = gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED
    assert tokenizer.types[352:356] == [control, control, user_defined, gguf.TokenType.UNUSED]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("config.json", {"model_type": "gpt2"}, "supported: qwen2"),
        ("config.json", {"use_sliding_window": True}, "sliding-window"),
        ("config.json", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "yarn"),
        ("config.json", {"vocab_size": 100}, "no row in an embedding of 100"),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer"),
        ("tokenizer.json", {"model": {"type": "Unigram", "vocab": {"a": 1}}}, "Unigram"),
    ],
)
def test_what_gguf_cannot_express_is_one_clear_error(merged, tmp_path, name, changes, message):
    model = copy_with(merged, tmp_path / "model", name, **changes)
    with pytest.raises(MedcodeError, match=message) as error:
        export(model, tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("out/*")) + list(tmp_path.glob("out/.*"))


def test_another_digit_rule_is_not_taken_for_qwen2s(merged, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(merged, model)
    text = (model / "tokenizer.json").read_text()
    changed = text.replace(r"|\\p{N}|", r"|\\p{N}{1,2}|")
    assert changed != text
    (model / "tokenizer.json").write_text(changed)
    with pytest.raises(MedcodeError, match="pre_tokenizer"):
        export(model, tmp_path)


def test_a_missing_tokenizer_truncated_weights_or_an_unknown_type_are_refused(merged, tmp_path):
    with pytest.raises(MedcodeError, match="q4_k_m"):
        export(merged, tmp_path, file_type="q4_k_m")
    model = tmp_path / "model"
    shutil.copytree(merged, model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(MedcodeError, match="truncated"):
        export(model, tmp_path)
    weights.unlink()
    with pytest.raises(MedcodeError, match=r"model\.safetensors: missing"):
        export(model, tmp_path)
    (model / "tokenizer.json").unlink()
    with pytest.raises(MedcodeError, match=r"tokenizer\.json: missing"):
        export(model, tmp_path)


def test_a_full_disk_is_noticed_before_anything_is_written(merged, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 10, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(MedcodeError, match="MiB free"):
        export(merged, tmp_path)
    assert not list((tmp_path / "out").iterdir())


def test_a_weight_beyond_f16_is_an_error_and_leaves_no_file(merged, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(merged, model)
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = 1e6
    save_file(weights, model / "model.safetensors")
    with pytest.raises(MedcodeError, match="up_proj.weight: a weight is too large for f16"):
        export(model, tmp_path)
    assert not list((tmp_path / "out").iterdir())
    export(model, tmp_path, file_type="f32")
