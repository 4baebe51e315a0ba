"""Constrained decoding over whole code systems, beside free greedy generation of the same model in the same run.

    python benchmarks/decoding.py

Codes are the billable ones of ICD-10-CM and as many well-formed ones as ICD-10-PCS has, generated as its tables are
laid out. The model is random: 17 million weights, 32,000 output tokens, a byte-level tokenizer made here. The free
run repeats the forward passes of the constrained one, token for token, and takes the likeliest of the vocabulary after
each: what differs is the constraint and its probabilities. Rounds alternate. Then random logits write 10,000 answers,
which are looked at one by one.
"""

import argparse
import dataclasses
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medcode_serving.codes.systems import SYSTEMS
from medcode_serving.decoding import CodeTrie, GreedyAnswers, build_trie, cached_trie
from medcode_serving.engines.generation import ConstrainedWriter, generate
from medcode_serving.engines.transformers import load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

PCS_CODES = 78_000
PCS_TABLES = 880
PCS_VALUES = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"
VOCABULARY = 32_000
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2's tokenizer splits text."""
END = "<|endoftext|>"
NO_END = -1e4
"""Logit of the end of text while time is taken: every row writes until its limit."""


def icd10cm() -> tuple[list[str], list[str]]:
    """Return the billable codes, and all titles."""
    import simple_icd_10_cm as icd

    pattern = SYSTEMS["icd10cm"].pattern
    everything = list(dict.fromkeys(icd.get_all_codes(True)))
    codes = [code for code in everything if pattern.fullmatch(code) and icd.is_leaf(code)]
    return codes, [icd.get_description(code) for code in everything]


def icd10pcs() -> list[str]:
    """Generate codes table by table: three characters name one, and four axes of few values each are multiplied."""
    draw = random.Random(0)
    found: set[str] = set()
    while len(found) < PCS_CODES:
        table = "".join(draw.choices(PCS_VALUES, k=3))
        axes = [draw.sample(PCS_VALUES, draw.randint(1, most)) for most in (24, 6, 6, 3)]
        rows = list(map("".join, product(*axes)))
        found.update(table + row for row in rows[: 4 * PCS_CODES // PCS_TABLES])
    return sorted(found)[:PCS_CODES]


def write_tokenizer(folder: Path, texts: list[str]) -> "PreTrainedTokenizerBase":
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END).save_pretrained(folder)
    return load_tokenizer(folder)


def random_model() -> Any:
    """Return a random Qwen2 of 17 million weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=1_024,
        num_hidden_layers=9,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4_096,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config).eval()


class Endless(ConstrainedWriter):
    """A constrained writer that keeps what it wrote, over a model that never ends."""

    def __init__(self, trie: CodeTrie, rows: int, max_tokens: int) -> None:
        super().__init__(GreedyAnswers(trie, rows, max_codes=max_tokens, max_tokens=max_tokens))
        self._end = trie.end
        self.steps: list[tuple[Any, Any]] = []

    def write(self, logits: "torch.Tensor") -> tuple[Any, Any]:
        """Write codes, never the end."""
        logits[:, self._end] = NO_END
        self.steps.append(super().write(logits))
        return self.steps[-1]


class Replay:
    """Takes the likeliest token of each row, and then goes on with what a constrained run wrote."""

    def __init__(self, steps: list[tuple[Any, Any]]) -> None:
        self._steps = iter(steps)

    def write(self, logits: "torch.Tensor") -> tuple[Any, Any]:
        """Take the likeliest tokens, and answer what was written."""
        logits.argmax(dim=-1).tolist()
        return next(self._steps)

    def keep(self, places: Any) -> None:
        """Nothing is kept."""


def cores(work: Callable[[], object]) -> float:
    """Return the seconds of all cores together, which other processes disturb less than those on the clock."""
    started = time.process_time()
    work()
    return time.process_time() - started


def compare(trie: CodeTrie, model: Any, batch: int, prompt: int, tokens: int, rounds: int) -> None:
    draw = random.Random(1)
    prompts = [[draw.randrange(1, VOCABULARY) for _ in range(prompt)] for _ in range(batch)]
    last = Endless(trie, batch, tokens)

    def constrained() -> None:
        nonlocal last
        last = Endless(trie, batch, tokens)
        generate(model, prompts, last, pad=0)

    constrained()
    steps = last.steps
    work = {"constrained": constrained, "free": lambda: generate(model, prompts, Replay(steps), pad=0)}
    taken = [{name: cores(task) for name, task in work.items()} for _ in range(rounds)]
    ratios = [one["constrained"] / one["free"] for one in taken]
    for name in work:
        milliseconds = 1e3 * statistics.median(one[name] for one in taken) / len(steps)
        print(f"  {name + ', CPU time a step':40}{milliseconds:12,.2f} ms")
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    print(f"  {'ratio, prefill included':40}{statistics.median(ratios):12.3f}    ({spread}, {len(steps)} steps)")


def measure_trie(tokenizer: "PreTrainedTokenizerBase", codes: list[str], folder: Path) -> CodeTrie:
    built = cores(lambda: build_trie(tokenizer, codes))
    cached_trie(tokenizer, codes, [folder])
    loaded = cores(lambda: cached_trie(tokenizer, codes, [folder]))
    trie = cached_trie(tokenizer, codes, [folder])
    arrays = [getattr(trie, field.name) for field in dataclasses.fields(trie)]
    megabytes = sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)) / 1e6
    print(f"  {'built, CPU time':40}{built:12,.2f} s     (longest code: {trie.longest} tokens)")
    print(f"  {'loaded from its file, CPU time':40}{loaded:12,.2f} s")
    print(f"  {'arrays in memory':40}{megabytes:12,.1f} MB")
    return trie


def random_answers(trie: CodeTrie, number: int, max_codes: int) -> Iterator[tuple[list[int], int, list[int]]]:
    """Write answers over random logits; yield each one's tokens without its end, their limit, and the codes told."""
    draw = np.random.default_rng(2)
    rows = 500
    for _ in range(0, number, rows):
        limit = int(draw.integers(trie.longest + 1, max_codes * (trie.longest + 1)))
        answers = GreedyAnswers(trie, rows, max_codes=draw.integers(1, max_codes + 1, rows).tolist(), max_tokens=limit)
        written: list[list[int]] = [[] for _ in range(rows)]
        alive = np.arange(rows)
        while len(alive):
            places, tokens = answers.choices()
            logits = draw.normal(scale=4, size=len(places)) - 8 * (tokens == trie.end)  # else most are of one code
            going_on, new = answers.choose(logits, np.full(len(alive), 99.0))
            alive = alive[going_on]
            for row, block in zip(alive, new.tolist(), strict=True):
                written[row] += [token for token in block if token >= 0]
        for tokens, answer in zip(written, answers.answers, strict=True):
            yield tokens, limit, [code.index for code in answer]


def check_answers(tokenizer: "PreTrainedTokenizerBase", trie: CodeTrie, codes: list[str], number: int) -> None:
    known = set(codes)
    wrong = dict.fromkeys(["invalid", "repeated", "cut off", "other than told"], 0)
    total = longest = 0
    for tokens, limit, told in random_answers(trie, number, max_codes=24):
        said = tokenizer.backend_tokenizer.decode(tokens).strip().split(", ")
        total, longest = total + len(said), max(longest, len(said))
        wrong["invalid"] += any(code not in known for code in said)
        wrong["repeated"] += len(set(said)) < len(said)
        wrong["cut off"] += len(tokens) >= limit  # there was no room for the end
        wrong["other than told"] += said != [codes[index] for index in told]
    print(
        f"  {number:,} answers, {total:,} codes, {longest} at most: " + ", ".join(f"{n} {k}" for k, n in wrong.items())
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=256, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=160, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--answers", type=int, default=10_000)
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # as the command line sets it
    cm, titles = icd10cm()
    model = random_model()
    weights = sum(weight.numel() for weight in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = write_tokenizer(Path(folder) / "tokenizer", titles)
        print(
            f"{os.cpu_count()} cores; {weights / 1e6:.1f} M weights; {len(tokenizer):,} tokens; batch {arguments.batch}"
        )
        for name, codes in {"ICD-10-CM": cm, "ICD-10-PCS, generated": icd10pcs()}.items():
            print(f"\n{name}: {len(codes):,} codes")
            trie = measure_trie(tokenizer, codes, Path(folder) / "tries")
            compare(trie, model, arguments.batch, arguments.prompt, arguments.tokens, arguments.rounds)
            check_answers(tokenizer, trie, codes, arguments.answers)


if __name__ == "__main__":
    main()
