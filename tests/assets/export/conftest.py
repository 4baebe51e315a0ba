"""A Qwen2 model of 100 k random weights with a tokenizer that splits as Qwen2's does, and a LoRA adapter.

And one such model of every family, each with a tokenizer of the kind that the family has.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from medcode_assets.export.metadata import ModelMetadata
from tests import tiny

# "(J" becomes one token, which a GPT-2 splitting rule would cut in two.
TEXT = "Predict the medical codes for the following text: patient with pneumonia (J18.9).\n\nCodes: I10, J18.9"
VOCABULARY = 384
METADATA = ModelMetadata("tiny", "1")

os.environ.setdefault("HF_HUB_OFFLINE", "1")


SERVER_KEY = "secret"


@contextmanager
def openai_server(file: Path, *, context_length: int, slots: int = 2) -> Iterator[str]:
    """llama.cpp's server with a GGUF file on a free port of this machine; gives the address of its OpenAI API."""
    import httpx
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(file)
    parameters.n_ctx, parameters.n_parallel, parameters.n_gpu_layers = context_length * slots, slots, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.warmup, parameters.verbosity, parameters.port = False, -1, 0
    parameters.api_keys = [SERVER_KEY]
    server = xllamacpp.Server(parameters)
    address = f"{server.listening_address}/v1"
    headers = {"Authorization": f"Bearer {SERVER_KEY}"}
    # A server that has taken no task yet cannot be stopped (`LlamaCppServer`).
    httpx.post(f"{address}/completions", json={"prompt": "a", "max_tokens": 1}, headers=headers, timeout=60)
    yield address
    del server  # stops it


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Threads cost more than they give on matrices of 64 by 64."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_tokenizer(folder: Path) -> None:
    tiny.write_tokenizer(folder, [TEXT] * 3, VOCABULARY - 32, pad_token=tiny.END)


def qwen2(tied: bool = True):
    return tiny.qwen2(
        VOCABULARY,
        seed=1,
        hidden_size=64,
        intermediate_size=128,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        initializer_range=0.1,
        rope_parameters={"rope_type": "default", "rope_theta": 50_000.0},
    )


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    qwen2().save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def merged(tmp_path_factory: pytest.TempPathFactory, base: Path, adapter: Path) -> Path:
    from medcode_assets.export.merge import merge_adapter

    return merge_adapter(base, adapter, tmp_path_factory.mktemp("merged") / "model")


@pytest.fixture(scope="session")
def f16(tmp_path_factory: pytest.TempPathFactory, merged: Path) -> Path:
    from medcode_assets.export.gguf import write_gguf

    return write_gguf(merged, tmp_path_factory.mktemp("gguf") / "tiny-F16.gguf", metadata=METADATA)


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    start = "Predict the medical codes for the following text: "
    notes = ("67 y/o with pneumonia, HR 112", "naïve; [** 2150-3-14 **] ___\n\nBP 150/90")
    return [start + note + "\n\nCodes:" for note in notes]


@dataclass(frozen=True)
class TinyModel:
    """A random model of a family."""

    model_type: str
    pre_tokenizer: str
    """Splitting rule of its tokenizer."""
    config: dict[str, Any] = field(default_factory=dict)
    ignore_merges: bool = False
    transformers_4: bool = False
    """As transformers 4 wrote it: bfloat16, and other names for the rotary embedding's settings."""


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 50_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# 12 of a head's 16 values turn, by other frequencies in a context beyond 256 tokens than in one up to them.
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [1.0, 1.7, 2.4, 3.1, 3.8, 4.5],
}
FAMILY_MODELS = {
    "qwen2": TinyModel("qwen2", "qwen2", {"tie_word_embeddings": True}),
    "r1": TinyModel("qwen2", "qwen2", transformers_4=True),
    "qwen3": TinyModel("qwen3", "qwen2", {"tie_word_embeddings": True, "head_dim": 32}),
    "llama3": TinyModel("llama", "cl100k", {"rope_parameters": LLAMA3}, ignore_merges=True, transformers_4=True),
    "smollm2": TinyModel("llama", "digits", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "phi2": TinyModel("phi", "gpt2", {"num_key_value_heads": 4}),
    "phi4": TinyModel("phi3", "cl100k"),
    "phi4mini": TinyModel(
        "phi3",
        "o200k",
        {
            "rope_parameters": LONGROPE,
            "original_max_position_embeddings": 256,
            "max_position_embeddings": 1024,
            "sliding_window": 9999,
        },
    ),
}


@pytest.fixture(scope="session")
def family_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the models in `FAMILY_MODELS`."""
    folders = {name: tmp_path_factory.mktemp(name) for name in FAMILY_MODELS}
    for name, model in FAMILY_MODELS.items():
        write_model(folders[name], model)
    return folders


def write_model(folder: Path, tiny_model: TinyModel) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.1,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(7)
    model: Any = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(tiny_model.model_type, **config | tiny_model.config), dtype=torch.float32
    )
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms that are all 0 or 1 would hide a mistake
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.to(torch.bfloat16 if tiny_model.transformers_4 else torch.float32).save_pretrained(folder)
    write_tokenizer(folder)
    split_by(folder, tiny_model.pre_tokenizer, ignore_merges=tiny_model.ignore_merges)
    if tiny_model.ignore_merges:  # as Llama 3's
        begin_with_bos(folder)
    if tiny_model.model_type == "phi3":  # Phi-4's files say so, and llama.cpp's converter looks for it
        edit_json(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    if tiny_model.transformers_4:
        rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
        theta, scaling = rope.pop("rope_theta"), rope if rope["rope_type"] != "default" else None
        edit_json(folder / "config.json", rope_theta=theta, rope_scaling=scaling, rope_parameters=None, head_dim=None)


def begin_with_bos(folder: Path) -> None:
    """Make a tokenizer begin each text with its BOS token, and give it a chat template and two tokens of its own."""
    begin, text = {"SpecialToken": {"id": tiny.END, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    processor = {
        "type": "TemplateProcessing",
        "single": [begin, text],
        "pair": [begin, text, begin, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {tiny.END: {"id": tiny.END, "ids": [0], "tokens": [tiny.END]}},
    }
    file = folder / "tokenizer.json"
    edit_json(file, post_processor=processor)
    add_tokens(file, [{"content": "<|user|>"}, {"content": "<think>"}])
    edit_json(folder / "tokenizer_config.json", bos_token=tiny.END, add_bos_token=True)
    (folder / "chat_template.jinja").write_text("{{ messages }}")


def add_tokens(file: Path, tokens: list[dict[str, object]]) -> list[int]:
    """Add tokens that are not special to a tokenizer.json; return their ids, which must follow the vocabulary's."""
    spec = json.loads(file.read_text())
    start = len(spec["model"]["vocab"])
    plain = spec["added_tokens"][0] | {"special": False}
    added = [plain | {"id": start + index} | token for index, token in enumerate(tokens)]
    edit_json(file, added_tokens=spec["added_tokens"] + added)
    return list(range(start, start + len(added)))


def edit_json(file: Path, **changes: object) -> None:
    """Give some keys of a JSON file other values; None: leave them out."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def pre_tokenizers() -> dict[str, dict[str, Any]]:
    """Splitting rules as the tokenizer.json of Qwen2, Llama 3 and Phi-4, Phi-4-mini, Phi-2 and SmolLM2 has them."""
    contractions = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    start, rest = r"[^\r\n\p{L}\p{N}]?", r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    o200k = f"{start}{upper}*{lower}+{contractions}?|{start}{upper}+{lower}*{contractions}?{rest}"
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}

    def split(regex: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
        step = {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}
        return {"type": "Sequence", "pretokenizers": [step, byte_level | {"use_regex": False}]}

    return {
        "qwen2": split(tiny.QWEN2_SPLIT),
        "cl100k": split(tiny.QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")),
        "o200k": split(o200k, "Removed", True),
        "gpt2": byte_level,
        "digits": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
    }


def split_by(folder: Path, rule: str, *, ignore_merges: bool = False) -> None:
    """Give a model folder's tokenizer another splitting rule, and a class that takes the rule from tokenizer.json."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"] | {"ignore_merges": ignore_merges}
    edit_json(folder / "tokenizer.json", pre_tokenizer=pre_tokenizers()[rule], model=model)


CODES = ["I10", "J18.9", "E11.9"]
NOTES = ("67 y/o with pneumonia, HR 112", "naïve; ___\n\nBP 150/90")


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, base: Path, adapter: Path) -> Path:
    """A MEDCODE_HOME with one published bundle, nothing exported."""
    from medcode_serving.base_models import resolve_base_model
    from medcode_serving.bundle import (
        BaseModelRef,
        BundleManifest,
        DataVersion,
        DecodingSettings,
        Provenance,
        publish,
        write_bundle,
    )
    from medcode_serving.codes.vocabulary import Vocabulary, VocabularyCode
    from medcode_serving.prompts import PromptTemplate

    home = tmp_path_factory.mktemp("published")
    codes = Vocabulary([VocabularyCode("icd10cm", code, code, None, 5) for code in CODES])
    manifest = BundleManifest(
        recipe="icd",
        version="v1",
        base_model=BaseModelRef(id=str(base), revision=resolve_base_model(str(base), home).revision),
        prompt=PromptTemplate(),
        decoding=DecodingSettings(max_prompt_tokens=160, max_codes=2),
        threshold=0.0,
        data=DataVersion(partition="p", release="mimic-iv", sources={}, split_hash="5" * 64),
        provenance=Provenance(code_version="c1", libraries={}, settings={}),
    )
    codes_file = tiny.write_codes(home / "codes.parquet", codes)
    publish(write_bundle(home / "bundles", manifest, adapter=adapter, codes=codes_file))
    return home


def exporting(home: Path):
    """`export_gguf` of a home's bundle, into its own folder unless said otherwise."""
    from medcode_assets.evaluation.predictions import LabelledNotes
    from medcode_assets.export.exporting import bundle_folder, export_gguf
    from medcode_assets.export.validation import ValidationSample
    from medcode_serving.base_models import resolve_base_model
    from medcode_serving.bundle import latest_bundle

    bundle = latest_bundle(home / "bundles", "icd")
    model = bundle.manifest.base_model
    base = resolve_base_model(model.id, home, revision=model.revision)
    gold = [[("icd10cm", code)] for code in CODES[:2]]
    sample = ValidationSample(
        tuple(map(bundle.manifest.prompt.render, NOTES)), LabelledNotes("validation", [1, 2], NOTES, gold)
    )

    def export(*quantizations: str, **changes):
        arguments = {"target": bundle_folder(bundle), "sample": sample} | changes
        return export_gguf(bundle, base, quantizations, **arguments)

    return export


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, published: Path) -> Path:
    """The same home after an export over what an older medcode had left."""
    from medcode_assets.export.exporting import bundle_folder
    from medcode_serving.bundle import latest_bundle

    home = tmp_path_factory.mktemp("exported") / "home"
    shutil.copytree(published, home)
    folder = bundle_folder(latest_bundle(home / "bundles", "icd"))
    folder.mkdir()
    (folder / "manifest.json").write_text('{"file": "old.gguf", "file_type": "f16"}')
    (folder / "old.gguf").write_bytes(b"old")
    exporting(home)("f16", lora=True)
    return home


@pytest.fixture
def home(exported: Path, tmp_path: Path) -> Path:
    """This test's own home, with a bundle that was exported."""
    shutil.copytree(exported, tmp_path / "home")
    return tmp_path / "home"
