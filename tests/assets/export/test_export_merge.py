import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from medcode_assets.export import weights as weight_files
from medcode_assets.export.merge import merge_adapter
from medcode_serving.adapters import AdapterForm, load_adapted_model, write_form
from medcode_serving.errors import MedcodeError
from tests import tiny

from .adapters import write_adapter
from .conftest import qwen2, write_tokenizer

HEAD_AND_EMBEDDING = ["lm_head", "embed_tokens", "q_proj"]


@pytest.fixture(scope="session")
def untied(tmp_path_factory):
    """A base in bfloat16 and in shards, with an output head of its own."""
    folder = tmp_path_factory.mktemp("untied")
    qwen2(tied=False).to(torch.bfloat16).save_pretrained(folder, max_shard_size="60KB")
    write_tokenizer(folder)
    return folder


def same_model(folder, expected):
    """Tell whether a folder loads as this very model, to the bit and with the same ties."""
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    found, wanted = loaded.state_dict(), expected.state_dict()
    assert found.keys() == wanted.keys()
    assert {weight.dtype for weight in found.values()} == {torch.float32}
    assert loaded.config.tie_word_embeddings == expected.config.tie_word_embeddings
    return all(torch.equal(found[name], weight) for name, weight in wanted.items())


def logits(model):
    with torch.inference_mode():
        return model(torch.arange(5, 45)[None]).logits


def test_the_merged_model_answers_as_base_and_adapter_do(base, adapter, merged):
    from peft import PeftModel

    plain = AutoModelForCausalLM.from_pretrained(base)
    unadapted = logits(plain)
    adapted = logits(PeftModel.from_pretrained(plain, adapter))
    found = logits(AutoModelForCausalLM.from_pretrained(merged))
    assert (adapted - unadapted).abs().max() > 0.5  # the adapter of these tests does change answers
    assert torch.allclose(found, adapted, atol=2e-4)


def test_the_tokenizer_is_copied_byte_for_byte_and_the_weights_are_fp32_safetensors(base, merged):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (merged / name).read_bytes() == (base / name).read_bytes()
    assert {weight.dtype for weight in load_file(merged / "model.safetensors").values()} == {torch.float32}
    assert not list(merged.parent.glob(".*"))


def test_merging_again_replaces_what_is_there(base, adapter, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "stale").touch()
    merge_adapter(base, adapter, tmp_path / "model")
    assert not (tmp_path / "model" / "stale").exists()


def test_a_folder_without_adapter_is_refused(base, tmp_path):
    with pytest.raises(MedcodeError, match=r"adapter_config\.json: missing"):
        merge_adapter(base, tmp_path, tmp_path / "model")


def test_an_adapter_of_another_shape_is_refused_and_leaves_nothing(base, adapter, tmp_path):
    other = tmp_path / "adapter"
    shutil.copytree(adapter, other)
    weights = {
        name: weight[..., :8].contiguous() for name, weight in load_file(other / "adapter_model.safetensors").items()
    }
    save_file(weights, other / "adapter_model.safetensors")
    with pytest.raises(MedcodeError, match="does not fit base model"):
        merge_adapter(base, other, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_an_adapter_weight_without_a_place_is_an_error_and_not_a_warning(base, adapter, tmp_path):
    other = tmp_path / "adapter"
    shutil.copytree(adapter, other)
    weights = load_file(other / "adapter_model.safetensors")
    weights = {name.replace("layers.1.", "layers.7."): weight for name, weight in weights.items()}
    save_file(weights, other / "adapter_model.safetensors")
    with pytest.raises(MedcodeError, match="without a counterpart"):
        merge_adapter(base, other, tmp_path / "model")


def test_an_adapter_for_modules_that_the_base_lacks_is_refused(base, adapter, tmp_path):
    other = tmp_path / "adapter"
    shutil.copytree(adapter, other)
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["c_attn"]}))
    with pytest.raises(MedcodeError, match="does not fit base model"):
        merge_adapter(base, other, tmp_path / "model")


def test_pickled_adapter_weights_are_refused(base, adapter, tmp_path):
    other = tmp_path / "adapter"
    shutil.copytree(adapter, other)
    (other / "adapter_model.bin").touch()
    with pytest.raises(MedcodeError, match="only safetensors"):
        merge_adapter(base, other, tmp_path / "model")


def test_a_qlora_adapter_is_merged_into_the_base_as_nf4_rounds_it(base, adapter, merged, tmp_path):
    qlora = tiny.write_qlora(adapter, tmp_path / "adapter")
    trained = logits(tiny.over_nf4(base, qlora))
    output = merge_adapter(base, qlora, tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(output)
    assert "quantization_config" not in json.loads((output / "config.json").read_text())
    assert {weight.dtype for weight in plain.parameters()} == {torch.float32}
    unrounded = AutoModelForCausalLM.from_pretrained(merged)
    assert tiny.relative_error(logits(plain), trained) < 1e-4 < 0.05 < tiny.relative_error(logits(unrounded), trained)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_full_model_is_exported_in_fp32_with_the_tokenizer_of_its_base(base, tmp_path, dtype):
    full = tiny.write_full(base, tmp_path / "adapter", dtype=dtype)
    output = merge_adapter(base, full, tmp_path / "model")
    exported, trained = load_file(output / "model.safetensors"), load_file(full / "model.safetensors")
    assert exported.keys() == trained.keys()
    assert all(torch.equal(exported[name], weight.float()) for name, weight in trained.items())
    assert {weight.dtype for weight in exported.values()} == {torch.float32}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (output / name).read_bytes() == (base / name).read_bytes()


@pytest.mark.parametrize("mode", ["lora", "qlora", "full"])
def test_what_is_exported_answers_as_what_is_served(base, adapter, tmp_path, mode):
    if mode == "full":
        folder = tiny.write_full(base, tmp_path / "adapter")
    else:
        folder = tiny.write_qlora(adapter, tmp_path / "adapter")
        write_form(folder, AdapterForm(mode=mode, base_model="tiny", base_revision="r1"))
    served = load_adapted_model(base, folder, dtype="float32", merge=True)
    exported = AutoModelForCausalLM.from_pretrained(merge_adapter(base, folder, tmp_path / "model"))
    assert torch.equal(logits(exported), logits(served.eval()))


def test_an_adapter_of_another_revision_of_the_base_is_refused(base, adapter, tmp_path):
    qlora = tiny.write_qlora(adapter, tmp_path / "adapter")
    with pytest.raises(MedcodeError, match="take that base model"):
        merge_adapter(base, qlora, tmp_path / "model", base_revision="r2")


@pytest.mark.parametrize(
    ("tied", "settings"),
    [
        (True, {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}}),
        (True, {"use_dora": True}),
        (True, {"target_modules": ["q_proj", "v_proj"], "lora_bias": True}),
        (True, {"modules_to_save": ["embed_tokens"]}),
        (True, {"modules_to_save": ["norm", "lm_head"]}),
        (True, {"trainable_token_indices": [0, 7, 300]}),
        (False, {"target_modules": HEAD_AND_EMBEDDING}),
    ],
    ids=["rslora", "dora", "bias", "own embedding", "own norm and head", "tokens", "head and embedding"],
)
def test_merging_layer_by_layer_is_pefts_merge_to_the_bit(base, untied, tmp_path, tied, settings):
    source = base if tied else untied
    adapter = write_adapter(source, tmp_path / "adapter", **settings)
    served = load_adapted_model(source, adapter, dtype="float32", merge=True)
    assert same_model(merge_adapter(source, adapter, tmp_path / "model"), served)


@pytest.mark.parametrize("mode", ["lora", "qlora", "full"])
def test_a_base_in_shards_and_bfloat16_is_merged_to_the_bit_into_shards(untied, tmp_path, monkeypatch, mode):
    if mode == "full":
        adapter = shutil.copytree(untied, tmp_path / "adapter")
    else:
        adapter = write_adapter(untied, tmp_path / "adapter")
    write_form(adapter, AdapterForm(mode=mode, base_model="", base_revision=""))
    monkeypatch.setattr(weight_files, "SHARD_BYTES", 90_000)  # less than the embedding takes
    told = []
    output = merge_adapter(
        untied, adapter, tmp_path / "model", on_progress=lambda done, total: told.append((done, total))
    )
    assert told == [(done, 27) for done in range(1, 28)]
    shards = sorted(output.glob("*.safetensors"))
    assert shards[0].name == f"model-00001-of-{len(shards):05}.safetensors"
    assert len(shards) > 4
    assert all(shard.stat().st_size < 110_000 for shard in shards)
    assert same_model(output, load_adapted_model(untied, adapter, dtype="float32", merge=True))


def test_what_an_adapter_stores_of_the_base_itself_counts_as_for_peft(untied, tmp_path):
    adapter = write_adapter(untied, tmp_path / "adapter", target_modules=HEAD_AND_EMBEDDING)
    weights = load_file(adapter / "adapter_model.safetensors")
    weights["base_model.model.lm_head.base_layer.weight"] *= 1.5
    save_file(weights, adapter / "adapter_model.safetensors")
    served = load_adapted_model(untied, adapter, dtype="float32", merge=True)
    assert same_model(merge_adapter(untied, adapter, tmp_path / "model"), served)


def test_weights_that_the_config_ties_and_the_file_does_not_come_out_untied(base, tmp_path):
    full = tiny.write_full(base, tmp_path / "adapter")
    weights = load_file(full / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] * 2
    save_file(weights, full / "model.safetensors", metadata={"format": "pt"})
    output = merge_adapter(base, full, tmp_path / "model")
    assert json.loads((output / "config.json").read_text())["tie_word_embeddings"] is False
    assert torch.equal(load_file(output / "model.safetensors")["lm_head.weight"], weights["lm_head.weight"])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"target_modules": ["lm_head"]}, "ties to another weight"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "ties to another weight"),
        ({"init_lora_weights": "pissa"}, "started as 'pissa'"),
        ({"layer_replication": [(0, 2), (0, 1)]}, "layer_replication"),
    ],
)
def test_an_adapter_that_merging_would_distort_is_refused(base, tmp_path, settings, problem):
    adapter = write_adapter(base, tmp_path / "adapter", **settings)
    with pytest.raises(MedcodeError, match=problem) as error:
        merge_adapter(base, adapter, tmp_path / "model")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_an_adapter_with_weights_that_are_no_numbers_is_refused(base, adapter, tmp_path):
    other = shutil.copytree(adapter, tmp_path / "adapter")
    weights = load_file(other / "adapter_model.safetensors")
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, other / "adapter_model.safetensors")
    with pytest.raises(MedcodeError, match="NaN"):
        merge_adapter(base, other, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_merge_that_is_broken_off_leaves_what_was_there(base, adapter, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "earlier").touch()

    def break_off(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_adapter(base, adapter, tmp_path / "model", on_progress=break_off)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["model", "model/earlier"]


def test_a_full_disk_is_seen_before_anything_is_written(base, adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 300_000))
    with pytest.raises(MedcodeError, match=r"GB needed for the merged model, 0\.000 GB free"):
        merge_adapter(base, adapter, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_truncated_or_incomplete_base_is_refused(base, adapter, tmp_path):
    broken = shutil.copytree(base, tmp_path / "base")
    weights = load_file(broken / "model.safetensors")
    (broken / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(MedcodeError, match="truncated"):
        merge_adapter(broken, adapter, tmp_path / "model")
    del weights["model.norm.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MedcodeError, match=r"1 weights are missing .* model\.norm\.weight"):
        merge_adapter(broken, adapter, tmp_path / "model")
