"""Random models of a few thousand weights with a tokenizer that splits text as Qwen2's does."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medcode_serving.codes.vocabulary import Vocabulary

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END = "<|endoftext|>"


def write_tokenizer(folder: Path, texts: Sequence[str], vocabulary: int, **special: str) -> int:
    """Train a byte-level BPE on the texts and save it; return its number of tokens. Token 0 is the end of text."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, **special).save_pretrained(folder)
    return tokenizer.get_vocab_size()


def qwen2(vocabulary: int, *, seed: int, **config: Any) -> Any:
    """Return a random two-layer Qwen2."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    defaults = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "eos_token_id": 0,
        "bos_token_id": None,
    }
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=vocabulary, **{**defaults, **config}))


def write_full(base: Path, folder: Path, *, dtype: str = "float32") -> Path:
    """Write a model of mode full: every weight of the base moved at random, and no tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    from medcode_serving.adapters import AdapterForm, write_form

    torch.manual_seed(9)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + 0.3 * torch.randn_like(weight))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    write_form(folder, AdapterForm(mode="full", base_model="tiny", base_revision="r1"))
    return folder


def write_qlora(adapter: Path, folder: Path) -> Path:
    """Write an adapter of mode qlora: another adapter's random weights, meant for the base in NF4."""
    from medcode_serving.adapters import AdapterForm, write_form

    shutil.copytree(adapter, folder)
    write_form(folder, AdapterForm(mode="qlora", base_model="tiny", base_revision="r1"))
    return folder


def over_nf4(base: Path, adapter: Path) -> Any:
    """Return what mode qlora trains: the adapter over 4-bit layers, which bitsandbytes multiplies."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from medcode_assets.training.models import keep_trainable_layout
    from medcode_serving.adapters import nf4_config

    quantised = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, quantization_config=nf4_config(torch.float32), device_map={"": "cpu"}
    )
    keep_trainable_layout(quantised)
    return PeftModel.from_pretrained(quantised, adapter).eval()


def relative_error(found: Any, wanted: Any) -> float:
    """Return the norm of the difference of two tensors by the norm of the second."""
    return float((found - wanted).norm() / wanted.norm())


def write_codes(path: Path, vocabulary: Vocabulary) -> Path:
    """Write a vocabulary as codes.parquet."""
    import dataclasses

    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([dataclasses.asdict(code) for code in vocabulary.codes]), path)
    return path
