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
    steps: int = 2000
    batch: int = 12  # documents a step
    longest: int = 512  # tokens of a document; what is longer is cut
    glossaries: float = 0.15  # share of the documents that are glossaries only, at the beginning
    easy: float = 0.5  # share over which cases then grow to full size
    learning_rate: float = 1.5e-3
    warmup: float = 0.02  # share of the steps
    weight_decay: float = 0.01
    # Free text cannot be foreseen (which disease comes next?) and would drown what can: it counts less.
    text_weight: float = 0.05


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
    total = settings.steps * settings.batch
    documents = generate_pretraining_documents(
        seed, official, glossaries=int(settings.glossaries * total), easy=int(settings.easy * total)
    )
    model = create_model(settings)
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


def batch_documents(
    tokenizer: Tokenizer, documents: Iterator[PretrainingDocument], settings: PretrainingSettings
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of (ids, loss weights), both [documents, longest], one document a row, padded on the right.

    Rows are not packed: a document is looked up in itself only, as a note is when it is coded.
    """
    import torch

    end: list[int] = tokenizer.encode(END_OF_TEXT).ids  # one id
    padding = tokenizer.token_to_id(PAD)
    while True:
        rows = []
        for document in islice(documents, settings.batch):
            text, index = tokenizer.encode(document.text).ids, tokenizer.encode(document.index).ids + end
            weights = [settings.text_weight] * len(text) + [1.0] * len(index)
            rows.append(((text + index)[: settings.longest], weights[: settings.longest]))
        width = max(len(ids) for ids, _ in rows)
        yield (
            torch.tensor([ids + [padding] * (width - len(ids)) for ids, _ in rows]),
            torch.tensor([weights + [0.0] * (width - len(weights)) for _, weights in rows]),
        )


def pretrain(model: Qwen2ForCausalLM, batches: Iterator[tuple[Tensor, Tensor]], settings: PretrainingSettings) -> float:
    """Train on `settings.steps` batches of `batch_documents`; returns the last 50 steps' mean loss."""
    import torch
    from tqdm import tqdm

    optimizer = torch.optim.AdamW(
        model.parameters(), settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay
    )
    model.train()
    losses: list[float] = []
    bar = tqdm(range(settings.steps), desc="pretraining", unit="step", mininterval=5)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, settings)
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
        bar.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}", refresh=False)
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
