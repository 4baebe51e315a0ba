"""Builds the embedded base model: a small Qwen2 and its tokenizer, pretrained from scratch in minutes on CPU.

It lets all run offline (demo, tests, continuous integration) through the same code as a large base model.
Rebuild it with `python -m medcode_assets.training.pretraining --output DIR`.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_assets.corpora.pretraining_text import (
    PretrainingDocument,
    generate_pretraining_documents,
    load_official_titles,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor
    from transformers import Qwen2ForCausalLM

MODEL_CARD_FILE = Path(__file__).with_name("embedded_model_card.md")
BATCHES_SORTED = 8
END_OF_TEXT, PAD = "<|endoftext|>", "<|pad|>"  # ids 0 and 1; there is no BOS, as in Qwen2

# Qwen2's pre-tokenizer, character for character: GGUF export names it `qwen2` by this expression.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PretrainingSettings:
    """Sizes and schedule. Widths are multiples of 256 so that llama.cpp's K-quants apply to every tensor."""

    vocabulary: int = 2048
    tokenizer_documents: int = 8000
    hidden: int = 256
    intermediate: int = 768
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    steps: int = 1200
    batch: int = 16  # documents a step
    longest: int = 512  # tokens of a document; what is longer is cut
    easy: float = 0.3  # share of the steps over which cases grow to full size
    learning_rate: float = 2.5e-3
    attention_pace: float = 0.4  # of the learning rate
    warmup: float = 0.05  # share of the steps
    weight_decay: float = 0.01
    # Free text cannot be foreseen (which disease comes next?) and would drown what can: it counts less.
    text_weight: float = 0.1


def build_embedded_model(
    output: Path,
    *,
    seed: int = 7,
    settings: PretrainingSettings | None = None,
    official: Sequence[tuple[str, str]] | None = None,
    threads: int = 2,
) -> float:
    """Train tokenizer and model, write them to `output` (replacing it); returns the last 50 steps' mean loss.

    The same arguments on the same machine give the same files. `official` are (code, title) rows of code
    tables; by default those of the two build-time packages. The loss is in nats a token, weighted.
    """
    import torch

    settings = settings or PretrainingSettings()
    official = load_official_titles() if official is None else official
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    sample = islice(generate_pretraining_documents(seed + 1, official), settings.tokenizer_documents)
    tokenizer = train_tokenizer((document.text + document.index for document in sample), settings.vocabulary)
    easy = int(settings.easy * settings.steps * settings.batch)
    documents = generate_pretraining_documents(seed, official, easy=easy)
    model = create_model(settings)
    favour_copying(model, settings)
    loss = pretrain(model, batch_documents(tokenizer, documents, settings), settings)

    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        aside.chmod(0o755)
        model.half().save_pretrained(aside)  # half the size; precise enough to train adapters on in fp32
        write_tokenizer(tokenizer, aside, settings)
        write_model_card(aside, settings, seed, loss)
        if output.exists():
            shutil.rmtree(output)
        aside.rename(output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return loss


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE with Qwen2's normalizer and pre-tokenizer; every text round-trips after NFC."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def create_model(settings: PretrainingSettings) -> Qwen2ForCausalLM:
    """An untrained Qwen2 of the given sizes, in fp32."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=settings.vocabulary,
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    return Qwen2ForCausalLM(config)


def favour_copying(model: Qwen2ForCausalLM, settings: PretrainingSettings) -> None:
    """Start attention from a useful guess, which saves most of the training time; all of it stays trainable.

    The first head of each key-value group asks for tokens like its own and passes on what it finds ("mimetic
    initialization", Trockman and Kolter 2023); the last head of each group in layer 0 looks at the token before.
    From a random start, copying from context takes millions of tokens to emerge.
    """
    import torch

    width, group = settings.hidden // settings.heads, settings.heads // settings.key_value_heads
    half, fast = width // 2, width // 8
    angles = 10000.0 ** (-torch.arange(fast) / half)
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            attention = layer.self_attn
            for shared in range(settings.key_value_heads):
                basis = torch.linalg.qr(torch.randn(settings.hidden, 2 * width))[0].T / 2
                start, head = shared * width, shared * group * width
                attention.k_proj.weight[start : start + width] = basis[:width]
                attention.q_proj.weight[head : head + width] = basis[:width]
                attention.v_proj.weight[start : start + width] = basis[width:]
                attention.o_proj.weight[:, head : head + width] = basis[width:].T
                if number == 0:
                    # Biases alone, turned by the rotary embedding's angle of one position, score highest at
                    # distance one; only the fast angles tell neighbours apart.
                    last = head + (group - 1) * width
                    attention.q_proj.weight[last : last + width] *= 0.1
                    attention.k_proj.bias[start : start + fast] = 5.0
                    attention.q_proj.bias[last : last + fast] = 5.0 * torch.cos(angles)
                    attention.q_proj.bias[last + half : last + half + fast] = -5.0 * torch.sin(angles)


def batch_documents(
    tokenizer: Tokenizer, documents: Iterator[PretrainingDocument], settings: PretrainingSettings
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of (ids, loss weights), both [documents, longest], one document a row, padded on the right.

    Rows are not packed: a document is looked up in itself only, as a note is when it is coded.
    """
    import torch

    end: list[int] = tokenizer.encode(END_OF_TEXT).ids  # one id
    padding = tokenizer.token_to_id(PAD)
    while window := list(islice(documents, settings.batch * BATCHES_SORTED)):
        rows = []
        for document in window:
            text, index = tokenizer.encode(document.text).ids, tokenizer.encode(document.index).ids + end
            weights = [settings.text_weight] * len(text) + [1.0] * len(index)
            rows.append(((text + index)[: settings.longest], weights[: settings.longest]))
        rows.sort(key=lambda row: len(row[0]))  # like lengths together: little padding
        batches = [rows[start : start + settings.batch] for start in range(0, len(rows), settings.batch)]
        for place in torch.randperm(len(batches)).tolist():
            width = max(len(ids) for ids, _ in batches[place])
            ids = [ids + [padding] * (width - len(ids)) for ids, _ in batches[place]]
            weights = [weight + [0.0] * (width - len(weight)) for _, weight in batches[place]]
            yield torch.tensor(ids), torch.tensor(weights)


def pretrain(model: Qwen2ForCausalLM, batches: Iterator[tuple[Tensor, Tensor]], settings: PretrainingSettings) -> float:
    """Train on `settings.steps` batches of `batch_documents`; returns the last 50 steps' mean loss."""
    import torch
    from tqdm import tqdm

    # Attention starts from a guess worth keeping (see favour_copying), so it moves more slowly.
    groups = [
        {"params": [p for name, p in model.named_parameters() if "self_attn" in name], "pace": settings.attention_pace},
        {"params": [p for name, p in model.named_parameters() if "self_attn" not in name], "pace": 1.0},
    ]
    optimizer = torch.optim.AdamW(groups, settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay)
    model.train()
    losses: list[float] = []
    bar = tqdm(range(settings.steps), desc="pretraining", unit="step", mininterval=5)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = group["pace"] * learning_rate_at(step, settings)
        ids, weights = next(batches)
        weights = weights[:, 1:]
        logits = model(input_ids=ids).logits[:, :-1]
        each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (each * weights.flatten()).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    model.eval()
    recent = losses[-50:]
    return sum(recent) / len(recent)


def learning_rate_at(step: int, settings: PretrainingSettings) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warmup = max(1, int(settings.warmup * settings.steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, settings.steps - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def write_tokenizer(tokenizer: Tokenizer, folder: Path, settings: PretrainingSettings) -> None:
    """tokenizer.json and the configuration with which AutoTokenizer reads it as Qwen2's."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT,
        "errors": "replace",
        "model_max_length": 4096,
        "pad_token": PAD,
        "split_special_tokens": False,
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_model_card(folder: Path, settings: PretrainingSettings, seed: int, loss: float) -> None:
    """README.md: what the model is, what it was trained on and how to rebuild it."""
    documents = f"{settings.steps * settings.batch:,}"
    numbers = {**asdict(settings), "seed": seed, "loss": f"{loss:.3f}", "documents": documents}
    (folder / "README.md").write_text(MODEL_CARD_FILE.read_text(encoding="utf-8").format(**numbers), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: build the embedded model into a folder."""
    parser = argparse.ArgumentParser(prog="python -m medcode_assets.training.pretraining", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write (replaced)")
    parser.add_argument("--steps", type=int, default=PretrainingSettings.steps)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    settings = PretrainingSettings(steps=options.steps)
    build_embedded_model(options.output, seed=options.seed, settings=settings, threads=options.threads)


if __name__ == "__main__":
    main()
