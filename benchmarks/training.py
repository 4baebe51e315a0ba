"""How fast fine-tuning is and how much memory it takes, beside the Hugging Face Trainer and TRL, in one run.

    python benchmarks/training.py
    python benchmarks/training.py --contenders shared separate padded-pairs --longest 2048   (preference pairs)
    python benchmarks/training.py --contenders medcode medcode-compiled --examples 64        (torch.compile)
    python benchmarks/training.py --device cuda --shape 1.5b --examples 512 --per-step 16    (not on this machine)

Made examples of lognormal lengths (median 1,200 tokens, answers of 20 to 120 tokens) and a small random Qwen2 with a real
vocabulary. Every contender trains one epoch of the same examples in a process of its own, with the same adapter, about
as many examples an optimizer step, and the same gradient checkpointing. Its first step is not timed. On the CPU, time is
that of all cores together, which other processes disturb less, and memory is the process's highest; on CUDA, time is
the clock's and memory the device's. The learning rate is so small that the weights stay what they are: so all must come
to the same mean loss over all examples.
"""

import argparse
import math
import os
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

MEDIAN, SIGMA, SHORTEST = 1_200, 0.6, 160
STILL = 1e-12
"""Learning rate."""
PAD, IGNORED = 0, -100
SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "vocab_size": 152_064,
        "hidden_size": 256,
        "intermediate_size": 1_024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "0.5b": {  # Qwen2.5-0.5B
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4_864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "1.5b": {  # DeepSeek-R1-Distill-Qwen-1.5B
        "vocab_size": 151_936,
        "hidden_size": 1_536,
        "intermediate_size": 8_960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    },
}


@dataclass
class Example:
    prompt: np.ndarray
    answers: list[np.ndarray]

    @property
    def ids(self) -> np.ndarray:
        return np.concatenate([self.prompt, self.answers[0]])

    @property
    def labels(self) -> np.ndarray:
        return np.concatenate([np.full(len(self.prompt), IGNORED), self.answers[0]])

    @property
    def tokens(self) -> int:
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
    """What a contender notes while it trains; all marks are at the end of an optimizer step."""

    device: str
    began: float
    before: float = 0.0
    clock: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    """Real tokens, those of a pair's prompt once."""
    loss: float = 0.0
    """Summed over labels."""

    def mark(self, tokens: int) -> None:
        self.clock.append(now(self.device))
        self.tokens.append(tokens)

    def outcome(self, labels: int) -> dict[str, float]:
        """Return speed, memory in MB and loss; the first step, which warms up, is left out of the speed."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if self.device == "cuda":
            import torch

            peak = torch.cuda.max_memory_allocated()
        return {
            "speed": sum(self.tokens[1:]) / (self.clock[-1] - self.clock[0]),
            "first": self.clock[0] - self.began,
            "peak": peak / 1e6,
            "grown": (peak - self.before) / 1e6,
            "loss": self.loss / labels,
        }


def make_examples(options: argparse.Namespace, answers: int) -> list[Example]:
    """Make the run's examples; the same options give the same."""
    random = np.random.default_rng(options.seed)
    vocabulary = SHAPES[options.shape]["vocab_size"]
    normal = NormalDist(math.log(MEDIAN), SIGMA)
    shares = (random.permutation(options.examples) + 0.5) / options.examples
    examples = []
    for share in shares:  # evenly through the distribution, so that few examples have its mean
        length = int(np.clip(math.exp(normal.inv_cdf(float(share))), SHORTEST, options.longest))
        sizes = [int(random.integers(20, 121)) for _ in range(answers)]
        prompt, *rest = (random.integers(2, vocabulary, size) for size in (length - max(sizes), *sizes))
        examples.append(Example(prompt, rest))
    return examples


def make_model(options: argparse.Namespace, folder: Path) -> None:
    """Write the random base model, with weights large enough for attention to matter to the loss."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(options.seed)
    shape = SHAPES[options.shape]
    changed = {name: value for name in ("hidden_size", "num_hidden_layers") if (value := getattr(options, name))}
    config = Qwen2Config(
        **{**shape, **changed}, max_position_embeddings=8_192, initializer_range=0.05, pad_token_id=PAD
    )
    with torch.device(options.device):
        model = Qwen2ForCausalLM(config)
    model.to(torch.bfloat16 if options.device == "cuda" else torch.float32).save_pretrained(folder)


def start(options: argparse.Namespace) -> Measured:
    """Load all libraries, so that memory from here on is that of training."""
    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import psutil
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(options.threads)
    measured = Measured(options.device, now(options.device))
    if options.device == "cpu":
        measured.before = psutil.Process().memory_info().rss
    return measured


def medcode(
    options: argparse.Namespace, work: Path, *, batch_size: int = 4, pairs: bool = False, **training: Any
) -> dict[str, float]:
    """Train a job folder as the asset does."""
    from medcode_assets.training.job import TrainingJob, write_job
    from medcode_assets.training.loop import train
    from medcode_assets.training.order import step_examples

    measured, examples = start(options), make_examples(options, 2 if pairs else 1)
    folder = Path(tempfile.mkdtemp(dir=work))
    write_token_files(folder, examples, ("chosen_ids", "rejected_ids") if pairs else ("completion_ids",))
    settings = {
        "epochs": 1.0,
        "learning_rate": STILL,
        "batch_size": batch_size,
        "gradient_accumulation": options.per_step // batch_size,
        "gradient_checkpointing": options.gradient_checkpointing,
        "metric_documents": 0,
        **training,
    }
    job = {
        "recipe": "icd",
        "objective": "dpo" if pairs else "sft",
        "base_model": "benchmark",
        "base_path": work / "base",
        "base_revision": "",
        "fingerprint": "",
        "compute": {"device": options.device},
        "lora": lora_settings(),
        "training": settings,
        "logging_steps": 1,
    }
    write_job(folder, TrainingJob.model_validate(job))

    def note(step: int, metrics: dict[str, float]) -> None:
        if "loss" not in metrics:
            return
        places = step_examples(len(examples), options.per_step, 0, step - 1)
        measured.mark(sum(examples[place].tokens for place in places))
        measured.loss += metrics["loss"] * sum(1 if pairs else len(examples[place].answers[0]) for place in places)

    train(folder, note)
    return measured.outcome(len(examples) if pairs else sum(len(example.answers[0]) for example in examples))


def write_token_files(folder: Path, examples: Sequence[Example], answers: Sequence[str]) -> None:
    """Write the examples as the warehouse does, and an empty validation split."""
    import duckdb
    import pyarrow as pa

    from medcode_assets.training.token_file import write_tokens

    columns = {
        "example_id": pa.array(range(len(examples))),
        "prompt_ids": pa.array([example.prompt.astype(np.int32) for example in examples]),
        **{
            name: pa.array([example.answers[place].astype(np.int32) for example in examples])
            for place, name in enumerate(answers)
        },
    }
    con = duckdb.connect()
    con.register("examples", pa.table(columns))
    write_tokens(con, "SELECT * FROM examples", folder / "train.arrow")
    write_tokens(con, "SELECT * FROM examples LIMIT 0", folder / "validation.arrow")


def separate_pairs(options: argparse.Namespace, work: Path) -> dict[str, float]:
    """Train on pairs in packed rows where each answer has the prompt to itself: what sharing it is measured against."""
    from medcode_assets.training import loop
    from medcode_assets.training.objectives.dpo import DirectPreference
    from medcode_assets.training.objectives.objective import Row
    from medcode_assets.training.objectives.rows import packed_row

    class Separate(DirectPreference):
        def row(self, examples: Sequence[Any], *, packed: bool, pad: int) -> Row:
            names = ("chosen_ids", "rejected_ids")
            return packed_row([(example["prompt_ids"], [example[name]]) for example in examples for name in names])

    loop.choose_objective = lambda job: Separate(job.preference.beta)  # type: ignore[assignment]
    return medcode(options, work, pairs=True)


def lora_settings() -> dict[str, Any]:
    return {"r": 8, "alpha": 16, "dropout": 0.0}


def hugging_face(
    options: argparse.Namespace, work: Path, *, batch_size: int, to_longest: bool = False
) -> dict[str, float]:
    """Train with the plain Trainer on padded rows."""
    from peft import get_peft_model
    from transformers import Trainer, TrainingArguments

    from medcode_assets.config import LoraSettings
    from medcode_assets.training.models import lora_config

    measured, examples = start(options), make_examples(options, 1)
    model: Any = get_peft_model(load_base(options, work), lora_config(LoraSettings.model_validate(lora_settings())))
    arguments = TrainingArguments(
        **trainer_settings(options, work, batch_size, options.per_step // batch_size),
        remove_unused_columns=False,
        train_sampling_strategy="group_by_length" if to_longest else "random",
    )
    trainer = counting(Trainer, measured)(
        model=model,
        args=arguments,
        train_dataset=as_dataset(examples),
        data_collator=padding(0 if to_longest else options.longest),
    )
    trainer.train()
    return measured.outcome(sum(len(example.answers[0]) for example in examples))


def trl_packing(options: argparse.Namespace, work: Path) -> dict[str, float]:
    """Train with TRL's SFTTrainer, with packing as its documentation recommends (bfd, which is its default)."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    from medcode_assets.config import LoraSettings
    from medcode_assets.training.models import lora_config

    measured, examples = start(options), make_examples(options, 1)
    rows = max(
        1, round(options.per_step * sum(example.tokens for example in examples) / len(examples) / options.longest)
    )
    arguments = SFTConfig(
        **trainer_settings(options, work, 1, rows), packing=True, max_length=options.longest, dataset_num_proc=None
    )
    vocabulary = models.WordLevel({"<pad>": PAD, "<unk>": 1}, unk_token="<unk>")
    trainer = counting(SFTTrainer, measured)(
        model=load_base(options, work),
        args=arguments,
        train_dataset=as_dataset(examples),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(vocabulary), pad_token="<pad>", eos_token="<pad>"
        ),
        peft_config=lora_config(LoraSettings.model_validate(lora_settings())),
    )
    trainer.train()
    return measured.outcome(sum(len(example.answers[0]) for example in examples))


def load_base(options: argparse.Namespace, work: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(work / "base", dtype=dtype, attn_implementation="sdpa")
    return model.to(torch.device(options.device))


def trainer_settings(options: argparse.Namespace, work: Path, batch_size: int, accumulation: int) -> dict[str, Any]:
    """Return what both Trainers are told."""
    return {
        "output_dir": str(work / "trainer"),
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": 1,
        "learning_rate": STILL,
        "gradient_checkpointing": options.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "bf16": options.device == "cuda",
        "use_cpu": options.device == "cpu",
        "dataloader_pin_memory": options.device == "cuda",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def as_dataset(examples: Sequence[Example]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(
        {"input_ids": [example.ids for example in examples], "labels": [example.labels for example in examples]}
    )


def padding(to: int) -> Callable[[list[dict[str, list[int]]]], dict[str, Any]]:
    """Return a collator that pads to a length, or to the longest if that is more."""
    import torch

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        width = max(to, *(len(row["input_ids"]) for row in rows))
        fill = {"input_ids": PAD, "labels": IGNORED, "attention_mask": 0}
        batch = {name: torch.full((len(rows), width), value) for name, value in fill.items()}
        for number, row in enumerate(rows):
            length = len(row["input_ids"])
            batch["input_ids"][number, :length] = torch.tensor(row["input_ids"])
            batch["labels"][number, :length] = torch.tensor(row["labels"])
            batch["attention_mask"][number, :length] = 1
        return batch

    return collate


def counting(trainer: Any, measured: Measured) -> Any:
    """Return the Trainer with a count of real tokens and loss, and a mark after each optimizer step."""
    from transformers import TrainerCallback

    class Mark(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            measured.mark(Counting.seen)
            Counting.seen = 0

    class Counting(trainer):
        seen = 0

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, callbacks=[Mark()], **options)

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            mask = inputs.get("attention_mask")
            Counting.seen += int(inputs["input_ids"].numel() if mask is None else mask.sum())
            loss = super().training_step(model, inputs, num_items_in_batch)
            measured.loss += float(loss) * float(num_items_in_batch)  # summed over labels again
            return loss

    return Counting


CONTENDERS: dict[str, tuple[str, Callable[[argparse.Namespace, Path], dict[str, float]]]] = {
    "padded": ("(a) Trainer, padded to the maximum", lambda o, w: hugging_face(o, w, batch_size=o.padded_batch)),
    "grouped": (
        "(b) Trainer, grouped, padded in batch",
        lambda o, w: hugging_face(o, w, batch_size=2, to_longest=True),
    ),
    "trl": ("(c) SFTTrainer, packing", trl_packing),
    "medcode": ("medcode, 4 examples a row", medcode),
    "medcode-single": ("medcode, 1 example a row", lambda o, w: medcode(o, w, batch_size=1)),
    "medcode-compiled": ("medcode, torch.compile", lambda o, w: medcode(o, w, compile=True)),
    "shared": ("pairs, shared prompt", lambda o, w: medcode(o, w, pairs=True)),
    "separate": ("pairs, packed, a prompt each", separate_pairs),
    "padded-pairs": ("pairs, padded", lambda o, w: medcode(o, w, batch_size=1, pairs=True, attention="sdpa")),
}


def run(name: str, options: argparse.Namespace, work: Path) -> dict[str, float]:
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1", OMP_WAIT_POLICY="passive")
    return CONTENDERS[name][1](options, work)


def flops_a_token(options: argparse.Namespace, examples: Sequence[Example]) -> float:
    """Return what a model must compute for a real token: forward, and backward to activations, for base weights rest.

    The head counts for labels only and attention for the half that is not masked; recomputing is not counted.
    """
    shape = SHAPES[options.shape]
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    narrow = hidden * shape["num_key_value_heads"] // shape["num_attention_heads"]
    weights = layers * hidden * (2 * hidden + 2 * narrow + 3 * shape["intermediate_size"])
    tokens = sum(example.tokens for example in examples)
    labels = sum(len(example.answers[0]) for example in examples)
    attention = sum(6 * layers * hidden * example.tokens**2 for example in examples)
    return 4 * weights + (4 * labels * hidden * shape["vocab_size"] + attention) / tokens


def show(found: dict[str, dict[str, float]], options: argparse.Namespace, flops: float) -> None:
    """Print what was measured, beside the best of medcode's rows, or else the first contender."""
    reference = found.get("medcode") or next(iter(found.values()))
    unit = "CPU-second" if options.device == "cpu" else "second"
    print(f"\n| | real tokens / {unit} | ours over it | peak MB | grown MB | ours over it | first step s | mean loss |")
    print("|---|---|---|---|---|---|---|---|")
    for name, one in found.items():
        print(
            f"| {CONTENDERS[name][0]} | {one['speed']:,.0f} | {reference['speed'] / one['speed']:.2f} "
            f"| {one['peak']:,.0f} | {one['grown']:,.0f} | {reference['grown'] / one['grown']:.2f} "
            f"| {one['first']:.1f} | {one['loss']:.7f} |"
        )
        if options.device == "cuda":
            print(f"| model FLOPs used | {one['speed'] * flops / options.peak_tflops / 1e12:.1%} |")
    losses = [one["loss"] for one in found.values()]
    print(f"\nlosses differ by at most {max(losses) - min(losses):.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=[*CONTENDERS][:5])
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--per-step", type=int, default=4, help="examples an optimizer step")
    parser.add_argument("--longest", type=int, default=4_096)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--hidden-size", type=int)
    parser.add_argument("--num-hidden-layers", type=int)
    parser.add_argument("--padded-batch", type=int, default=1, help="(a)'s; 2 needs twice the memory")
    parser.add_argument("--gradient-checkpointing", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of the GPU in bf16, dense; an H100's")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    examples = make_examples(options, 1)
    lengths = sorted(example.tokens for example in examples)
    print(
        f"{len(lengths)} examples, {sum(lengths):,} tokens, median {lengths[len(lengths) // 2]:,}, most {lengths[-1]:,}"
    )
    print(options, flush=True)
    found = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as process,
    ):
        process.submit(make_model, options, Path(folder) / "base").result()
        for name in options.contenders:
            found[name] = process.submit(run, name, options, Path(folder)).result()
            print(name, found[name], flush=True)
    show(found, options, flops_a_token(options, examples))


if __name__ == "__main__":
    main()
