"""How fast fine-tuning is and how much memory it takes, beside the Hugging Face Trainer and TRL, in one run.

    python benchmarks/training.py
    python benchmarks/training.py --pairs --contenders shared separate padded-pairs --longest 2048
    python benchmarks/training.py --contenders medcode medcode-compiled --examples 32
    python benchmarks/training.py --device cuda --examples 512 --per-step 16

Made examples of lognormal lengths (median 1,200 tokens, answers of 20 to 120) and a small random Qwen2 with a
vocabulary of real size. Every contender trains one epoch of the same examples in a process of its own: same adapter,
about as many examples an optimizer step, same gradient checkpointing. Before, it trains on one example to get warm.
On the CPU, time is that of all cores together, which other processes disturb less, and memory is the process's; on
CUDA, time is the clock's and memory the GPU's. The learning rate is so small that no weight changes: so all must come
to the same mean loss over all examples.
"""

import argparse
import gc
import math
import os
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import NormalDist
from typing import Any
from unittest.mock import patch

import numpy as np

MEDIAN, SIGMA, SHORTEST = 1_200, 0.6, 160
STILL = 1e-12
"""Learning rate."""
SAME = 1e-5
"""How far mean losses may be apart."""
VOCABULARY = 152_064
PAD, IGNORED = 0, -100
LORA = {"r": 8, "alpha": 16, "dropout": 0.0}
SMALL = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
DISTILLED = {"hidden_size": 1_536, "intermediate_size": 8_960, "num_hidden_layers": 28, "num_attention_heads": 12}
"""DeepSeek-R1-Distill-Qwen-1.5B."""


@dataclass
class Example:
    """One answer to a prompt, or in a preference pair the chosen and the rejected one."""

    prompt: np.ndarray
    answers: list[np.ndarray]

    @property
    def tokens(self) -> int:
        """Real tokens; a pair's prompt counts once."""
        return len(self.prompt) + sum(map(len, self.answers))


def now(device: str) -> float:
    """Return the clock that counts on a device."""
    if device == "cpu":
        return time.process_time()
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


@dataclass
class Measured:
    """What a contender notes while it trains."""

    device: str
    began: float = 0.0
    ended: float = 0.0
    loss: float = 0.0
    """Summed over labels."""

    def begin(self) -> None:
        """Training begins: the model is there."""
        self.began, self.loss = now(self.device), 0.0

    def step(self) -> None:
        """An optimizer step has ended."""
        self.ended = now(self.device)


Train = Callable[[argparse.Namespace, Path, list[Example], Measured], None]
"""Trains one epoch of the examples over the base model in a folder."""


def shape_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the shape of the Qwen2 that is trained."""
    shape = {**(DISTILLED if options.device == "cuda" else SMALL)}
    if options.hidden:
        shape.update(hidden_size=options.hidden, intermediate_size=4 * options.hidden)
    if options.layers:
        shape["num_hidden_layers"] = options.layers
    tied = options.device == "cpu"
    return {**shape, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "tie_word_embeddings": tied}


def make_examples(options: argparse.Namespace) -> list[Example]:
    """Make the run's examples; the same options give the same."""
    random = np.random.default_rng(options.seed)
    normal = NormalDist(math.log(MEDIAN), SIGMA)
    shares = (random.permutation(options.examples) + 0.5) / options.examples
    examples = []
    for share in shares:  # evenly through the distribution, so that few examples have its mean
        length = int(np.clip(math.exp(normal.inv_cdf(float(share))), SHORTEST, options.longest))
        sizes = [int(random.integers(20, 121)) for _ in range(2 if options.pairs else 1)]
        prompt, *rest = (random.integers(2, VOCABULARY, size) for size in (length - max(sizes), *sizes))
        examples.append(Example(prompt, rest))
    return examples


def make_model(options: argparse.Namespace, folder: Path) -> None:
    """Write the random base model, with weights large enough for attention to matter to the loss."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(options.seed)
    config = Qwen2Config(**shape_of(options), max_position_embeddings=8_192, initializer_range=0.05, pad_token_id=PAD)
    with torch.device(options.device):
        model = Qwen2ForCausalLM(config)
    model.to(torch.bfloat16 if options.device == "cuda" else torch.float32).save_pretrained(folder)


def compete(name: str, options: argparse.Namespace, work: Path) -> dict[str, float]:
    """Let a contender train in this process; return its speed, memory in MB, mean loss and time to get warm.

    Memory is what the process, or the GPU, had at most; on the CPU `grown` leaves out what it had, all libraries
    loaded, before there was a model.
    """
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1", OMP_WAIT_POLICY="passive")
    import peft  # noqa: F401
    import psutil
    import torch
    import transformers
    import trl  # noqa: F401

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(options.threads)
    examples = make_examples(options)
    before = psutil.Process().memory_info().rss if options.device == "cpu" else 0
    train, measured = CONTENDERS[name][1], Measured(options.device)
    started = now(options.device)
    train(options, work, sorted(examples, key=lambda example: example.tokens)[:1], Measured(options.device))
    gc.collect()
    warm = now(options.device)
    train(options, work, examples, measured)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if options.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    labels = len(examples) if options.pairs else sum(len(example.answers[0]) for example in examples)
    return {
        "speed": sum(example.tokens for example in examples) / (measured.ended - measured.began),
        "warm-up": warm - started,
        "peak": peak / 1e6,
        "grown": (peak - before) / 1e6,
        "loss": measured.loss / labels,
    }


def medcode(batch_size: int = 4, **training: Any) -> Train:
    """Return what trains a job folder as the asset does."""

    def work_on(options: argparse.Namespace, work: Path, examples: list[Example], measured: Measured) -> None:
        from medcode_assets.training import loop
        from medcode_assets.training.job import TrainingJob, write_job
        from medcode_assets.training.order import step_examples

        folder = Path(tempfile.mkdtemp(dir=work))
        write_token_files(folder, examples, options.pairs)
        settings = {"epochs": 1.0, "learning_rate": STILL, "metric_documents": 0, "batch_size": batch_size, **training}
        settings["gradient_accumulation"] = options.per_step // batch_size
        settings["gradient_checkpointing"] = options.gradient_checkpointing
        job = {
            **{"recipe": "icd", "base_model": "benchmark", "base_path": work / "base", "base_revision": ""},
            **{"objective": "dpo" if options.pairs else "sft", "fingerprint": "", "logging_steps": 1},
            **{"compute": {"device": options.device}, "lora": LORA, "training": settings},
        }
        write_job(folder, TrainingJob.model_validate(job))

        def note(step: int, metrics: dict[str, float]) -> None:
            if "loss" in metrics:
                measured.step()
                places = step_examples(len(examples), options.per_step, 0, step - 1)
                weight = sum(1 if options.pairs else len(examples[place].answers[0]) for place in places)
                measured.loss += metrics["loss"] * weight

        reporting = loop.reporting

        def begin(*arguments: Any) -> Any:
            measured.begin()
            return reporting(*arguments)

        with patch.object(loop, "reporting", begin):  # the last thing before the first step
            loop.train(folder, note)

    return work_on


def write_token_files(folder: Path, examples: Sequence[Example], pairs: bool) -> None:
    """Write the examples as the warehouse does, and an empty validation split."""
    import duckdb
    import pyarrow as pa

    from medcode_assets.training.token_file import write_tokens

    columns = {
        "example_id": pa.array(range(len(examples))),
        "prompt_ids": pa.array([example.prompt.astype(np.int32) for example in examples]),
    }
    for place, name in enumerate(("chosen_ids", "rejected_ids") if pairs else ("completion_ids",)):
        columns[name] = pa.array([example.answers[place].astype(np.int32) for example in examples])
    con = duckdb.connect()
    con.register("examples", pa.table(columns))
    write_tokens(con, "SELECT * FROM examples", folder / "train.arrow")
    write_tokens(con, "SELECT * FROM examples LIMIT 0", folder / "validation.arrow")


def separate_pairs(options: argparse.Namespace, work: Path, examples: list[Example], measured: Measured) -> None:
    """Train on pairs in packed rows where each answer has the prompt to itself: what sharing it is measured against."""
    from medcode_assets.training import loop
    from medcode_assets.training.objectives.dpo import DirectPreference
    from medcode_assets.training.objectives.objective import Row
    from medcode_assets.training.objectives.rows import packed_row

    class Separate(DirectPreference):
        def row(self, examples: Sequence[Any], *, packed: bool, pad: int) -> Row:
            names = ("chosen_ids", "rejected_ids")
            return packed_row([(example["prompt_ids"], [example[name]]) for example in examples for name in names])

    with patch.object(loop, "choose_objective", lambda job: Separate(job.preference.beta)):
        medcode()(options, work, examples, measured)


def hugging_face(*, batch_size: int, to_longest: bool = False) -> Train:
    """Return what trains with the plain Trainer on padded rows."""

    def work_on(options: argparse.Namespace, work: Path, examples: list[Example], measured: Measured) -> None:
        from peft import get_peft_model
        from transformers import Trainer, TrainingArguments

        arguments = TrainingArguments(
            **trainer_settings(options, work, batch_size, options.per_step // batch_size),
            remove_unused_columns=False,
            train_sampling_strategy="group_by_length" if to_longest else "random",
        )
        trainer = counting(Trainer, measured)(
            model=get_peft_model(load_base(options, work), adapter()),
            args=arguments,
            train_dataset=as_dataset(examples),
            data_collator=padding(0 if to_longest else options.longest),
        )
        trainer.train()

    return work_on


def trl_packing(options: argparse.Namespace, work: Path, examples: list[Example], measured: Measured) -> None:
    """Train with TRL's SFTTrainer, with packing as its documentation recommends (bfd, which is its default)."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    rows = options.per_step * sum(example.tokens for example in examples) / len(examples) / options.longest
    arguments = SFTConfig(
        **trainer_settings(options, work, 1, max(1, round(rows))), packing=True, max_length=options.longest
    )
    unused = Tokenizer(models.WordLevel({"<pad>": PAD, "<unk>": 1}, unk_token="<unk>"))
    trainer = counting(SFTTrainer, measured)(
        model=load_base(options, work),
        args=arguments,
        train_dataset=as_dataset(examples),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=unused, pad_token="<pad>", eos_token="<pad>"),
        peft_config=adapter(),
    )
    trainer.train()


def adapter() -> Any:
    """Return the configuration of the adapter that medcode would train."""
    from medcode_assets.training.models import lora_config
    from medcode_assets.training.settings import LoraSettings

    return lora_config(LoraSettings.model_validate(LORA))


def load_base(options: argparse.Namespace, work: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(work / "base", dtype=dtype, attn_implementation="sdpa")
    return model.to(torch.device(options.device))


def trainer_settings(options: argparse.Namespace, work: Path, batch_size: int, accumulation: int) -> dict[str, Any]:
    """Return what both Trainers are told."""
    return {
        **{"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation},
        **{"num_train_epochs": 1, "learning_rate": STILL, "bf16": options.device == "cuda"},
        **{"gradient_checkpointing": options.gradient_checkpointing},
        **{"gradient_checkpointing_kwargs": {"use_reentrant": False}},
        **{"use_cpu": options.device == "cpu", "dataloader_pin_memory": options.device == "cuda"},
        **{"output_dir": str(work / "trainer"), "save_strategy": "no", "logging_strategy": "no"},
        **{"report_to": "none", "disable_tqdm": True, "seed": options.seed},
    }


def as_dataset(examples: Sequence[Example]) -> Any:
    from datasets import Dataset

    ids = [np.concatenate([example.prompt, example.answers[0]]) for example in examples]
    labels = [np.concatenate([np.full_like(example.prompt, IGNORED), example.answers[0]]) for example in examples]
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def padding(to: int) -> Callable[[list[dict[str, list[int]]]], dict[str, Any]]:
    """Return a collator that pads to a length, or to the longest if that is more."""
    import torch

    def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
        tensor = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, fill)
        return torch.nn.functional.pad(tensor, (0, max(0, to - tensor.shape[1])), value=fill)

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        ids = [row["input_ids"] for row in rows]
        mask = padded([[1] * len(row) for row in ids], 0)
        labels = padded([row["labels"] for row in rows], IGNORED)
        return {"input_ids": padded(ids, PAD), "labels": labels, "attention_mask": mask}

    return collate


def counting(trainer: Any, measured: Measured) -> Any:
    """Return a kind of Trainer that notes the loss, when training begins and when each optimizer step ends."""
    from transformers import TrainerCallback

    class Mark(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            measured.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            measured.step()

    class Counting(trainer):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, callbacks=[Mark()], **options)

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            loss = super().training_step(model, inputs, num_items_in_batch)
            measured.loss += float(loss) * float(num_items_in_batch)  # summed over labels again
            return loss

    return Counting


CONTENDERS: dict[str, tuple[str, Train]] = {
    "padded": ("(a) Trainer, padded to the maximum", hugging_face(batch_size=1)),
    "grouped": ("(b) Trainer, grouped by length, padded in batches of 2", hugging_face(batch_size=2, to_longest=True)),
    "trl": ("(c) SFTTrainer, packing", trl_packing),
    "medcode": ("medcode, 4 examples a row", medcode()),
    "medcode-single": ("medcode, 1 example a row", medcode(batch_size=1)),
    "medcode-compiled": ("medcode, 4 examples a row, torch.compile", medcode(compile=True)),
    "shared": ("pairs, shared prompt", medcode()),
    "separate": ("pairs, packed, a prompt for each answer", separate_pairs),
    "padded-pairs": ("pairs, padded", medcode(batch_size=1, attention="sdpa")),
}


def flops_a_token(options: argparse.Namespace, examples: Sequence[Example]) -> float:
    """Return what a model must compute for a real token: forward, and backward to activations, for base weights rest.

    The head counts for labels only and attention for the half that is not masked; recomputing is not counted.
    """
    shape = shape_of(options)
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    narrow = hidden * shape["num_key_value_heads"] // shape["num_attention_heads"]
    weights = layers * hidden * (2 * hidden + 2 * narrow + 3 * shape["intermediate_size"])
    tokens = sum(example.tokens for example in examples)
    labels = sum(len(example.answers[0]) for example in examples)
    attention = sum(6 * layers * hidden * example.tokens**2 for example in examples)
    return 4 * weights + (4 * labels * hidden * shape["vocab_size"] + attention) / tokens


def show(found: dict[str, dict[str, float]], options: argparse.Namespace, flops: float) -> None:
    """Print what was measured as a table, with the ratios of medcode's usual path to each."""
    ours = found.get("shared" if options.pairs else "medcode") or next(iter(found.values()))
    unit = "CPU-second" if options.device == "cpu" else "second"
    print(f"\n| | tokens / {unit} | ours over it | peak MB | grown MB | ours over it | warm-up s | mean loss |")
    print("|---|---|---|---|---|---|---|---|")
    for name, one in found.items():
        speed, grown = ours["speed"] / one["speed"], ours["grown"] / one["grown"]
        print(f"| {CONTENDERS[name][0]} | {one['speed']:,.0f} | {speed:.2f} | {one['peak']:,.0f} ", end="")
        print(f"| {one['grown']:,.0f} | {grown:.2f} | {one['warm-up']:.1f} | {one['loss']:.7f} |")
        if options.device == "cuda":
            print(f"model FLOPs utilisation {one['speed'] * flops / options.peak_tflops / 1e12:.1%}")
    losses = [one["loss"] for one in found.values()]
    difference = max(losses) - min(losses)
    print(f"\nmean losses differ by {difference:.1e} at most")
    if difference > SAME and options.device == "cpu":
        raise SystemExit("the contenders did not compute the same")


def main() -> None:
    """Measure the contenders one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=[*CONTENDERS][:5])
    parser.add_argument("--pairs", action="store_true", help="preference pairs, not completions")
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--per-step", type=int, default=4, help="examples an optimizer step")
    parser.add_argument("--longest", type=int, default=4_096)
    parser.add_argument("--hidden", type=int, help="width of the model; without it 128, on CUDA a 1.5B model's")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--gradient-checkpointing", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of the GPU in bf16, dense; an H100's")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    examples = make_examples(options)
    lengths = [example.tokens for example in examples]
    print(f"{options}\n{len(lengths)} examples, {sum(lengths):,} tokens, longest {max(lengths):,}", flush=True)
    found = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as process,
    ):
        process.submit(make_model, options, Path(folder) / "base").result()
        for name in options.contenders:
            found[name] = process.submit(compete, name, options, Path(folder)).result()
            print(name, {key: round(value, 7) for key, value in found[name].items()}, flush=True)
    show(found, options, flops_a_token(options, examples))


if __name__ == "__main__":
    main()
