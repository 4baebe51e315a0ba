"""A Qwen2 model of 100 k random weights with a tokenizer that splits as Qwen2's does, and a LoRA adapter."""

import os
from pathlib import Path

import pytest

from tests import tiny

# "(J" becomes one token, which a GPT-2 splitting rule would cut in two.
TEXT = "Predict the medical codes for the following text: patient with pneumonia (J18.9).\n\nCodes: I10, J18.9"
VOCABULARY = 384

os.environ.setdefault("HF_HUB_OFFLINE", "1")


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

    return write_gguf(merged, tmp_path_factory.mktemp("gguf") / "tiny-F16.gguf", name="tiny", version="1")


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    start = "Predict the medical codes for the following text: "
    notes = ("67 y/o with pneumonia, HR 112", "naïve; [** 2150-3-14 **] ___\n\nBP 150/90")
    return [start + note + "\n\nCodes:" for note in notes]
