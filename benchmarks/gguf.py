"""What GGUF files cost, lose and gain: each beside the model it was made from, and beside llama.cpp's own converter.

    python benchmarks/gguf.py --home .medcode           # a home with a published bundle: `medcode demo` makes one
    python benchmarks/gguf.py --part embedded,serving --rounds 9

Parts:
    embedded   the newest bundle's adapter merged into its base: size, loss and speed at every quantization
    serving    notes a second of engine `llamacpp` beside engine `transformers`, and whether they answer alike
    half       a random model of Qwen2.5-0.5B's shape: what each step of an export takes, and the speed of its files
    converter  the same model through llama.cpp's convert_hf_to_gguf.py (its folder: MEDCODE_LLAMACPP_CONVERTER)

What is compared takes turns in one run, each in a process of its own with as many threads. Tables are Markdown, for
docs/performance.md. All files are temporary; the home is only read.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

# This file is called as the package `gguf` is, and that one is to be found first.
sys.path.sort(key=lambda folder: Path(folder) == Path(__file__).parent)

from own_process import Held, Taken, in_own_process  # noqa: E402
from token_speed import Side, measure, print_speeds, ratio  # noqa: E402

if TYPE_CHECKING:
    from medcode_assets.export.exporting import Export

RECIPE = "icd"
WRITTEN = ("f16", "bf16", "q8_0")
QUANTIZED = ("q6_k", "q5_k_m", "q4_k_m")
CONVERTER = Path(os.environ.get("MEDCODE_LLAMACPP_CONVERTER", ".venv/llama.cpp"))
HALF = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4_864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
}
"""Qwen2.5-0.5B."""
TINY = {**HALF, "vocab_size": 4_096, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2}
TINY["num_attention_heads"] = 4
TOKENS = 2_000
"""Prompts are drawn from so many tokens: the embedded tokenizer's, which the random model has, too."""


def megabytes(path: Path) -> float:
    """Return the size of a file, or of the weights in a folder."""
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) / 1e6


def table(*columns: str) -> None:
    """Print the head of a table whose first column is text."""
    print("| " + " | ".join(columns) + " |\n|---|" + "---:|" * (len(columns) - 1))


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


# What runs in processes of its own.


def make_base(folder: Path, shape: dict[str, Any]) -> None:
    """Write a random model in bf16 with the embedded model's tokenizer; most rows of its embedding have no token."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from medcode_serving.base_models import EMBEDDED, resolve_base_model

    torch.manual_seed(0)
    config = Qwen2Config(**shape, tie_word_embeddings=True, max_position_embeddings=32_768, eos_token_id=0)
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for file in resolve_base_model(EMBEDDED, folder).path.glob("tokenizer*.json"):
        shutil.copyfile(file, folder / file.name)


def make_adapter(base: Path, folder: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).save_pretrained(folder)


def merge(base: Path, adapter: Path, output: Path) -> None:
    from medcode_assets.export.merge import merge_adapter

    merge_adapter(base, adapter, output)


def halve(merged: Path, output: Path) -> None:
    """Write a model in bf16: what is loaded from an fp32 folder holds both for a moment."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(merged, dtype="bfloat16").save_pretrained(output)


def write(merged: Path, file_type: Any, output: Path) -> None:
    from medcode_assets.export.gguf import write_gguf
    from medcode_assets.export.metadata import ModelMetadata

    write_gguf(merged, output, file_type=file_type, metadata=ModelMetadata(name="benchmark", version="1"))


def quantize(f16: Path, name: Any, output: Path) -> None:
    from medcode_assets.export.quantize import quantize_gguf

    quantize_gguf(f16, output, name)


def convert(merged: Path, file_type: str, output: Path) -> None:
    """Run llama.cpp's converter. It knows tokenizers by their hash; this one it has to be told."""
    sys.path[:0] = [os.fspath(CONVERTER), os.fspath(CONVERTER / "gguf-py")]
    import logging

    import convert_hf_to_gguf
    from conversion.base import TextModel

    logging.disable()
    sys.modules["sentencepiece"] = Mock()  # imported before it sees that the model has no such tokenizer
    TextModel.get_vocab_base_pre = lambda *_: "qwen2"
    sys.argv = ["convert_hf_to_gguf.py", os.fspath(merged), "--outtype", file_type, "--outfile", os.fspath(output)]
    convert_hf_to_gguf.main()


def equal_tensors(one: Path, other: Path) -> str:
    """Return how many tensors of the first file the second one has, byte for byte."""
    import numpy as np
    from gguf import GGUFReader

    found = {tensor.name: tensor.data for tensor in GGUFReader(other).tensors}
    tensors = GGUFReader(one).tensors
    equal = sum(tensor.name in found and np.array_equal(tensor.data, found[tensor.name]) for tensor in tensors)
    return f"{equal} of {len(tensors)}"


def export_bundle(home: Path, copy: Path, notes: int) -> "Export":
    """Copy the newest bundle into another home and export it there, whatever F1 that loses."""
    from medcode_assets.export.exporting import bundle_folder, export_gguf
    from medcode_assets.export.validation import invented_sample
    from medcode_assets.recipes.exporting import validation_sample
    from medcode_assets.warehouse import open_warehouse
    from medcode_serving.base_models import resolve_base_model
    from medcode_serving.bundle import GGUF, LATEST, latest_bundle

    published = latest_bundle(home / "bundles", RECIPE)
    manifest = published.manifest
    bundles = copy / "bundles" / RECIPE
    shutil.copytree(published.path, bundles / manifest.version, ignore=shutil.ignore_patterns(GGUF))
    shutil.copyfile(published.path.parent / LATEST, bundles / LATEST)
    bundle = latest_bundle(copy / "bundles", RECIPE)
    base = resolve_base_model(manifest.base_model.id, home / "base_models", revision=manifest.base_model.revision)
    with open_warehouse(home / "warehouse" / f"{manifest.data.partition}.duckdb", read_only=True) as con:
        sample = validation_sample(con, bundle, base, prompts=20, f1_notes=notes) or invented_sample(bundle, 20)
    merge(base.path, bundle.adapter, copy / "merged")
    wanted = (*WRITTEN, *QUANTIZED)
    return export_gguf(bundle, base, wanted, target=bundle_folder(bundle), sample=sample, most_f1_lost=1.0)


class Answering:
    """An engine over the newest bundle of a home, as `medcode serve` builds it."""

    def __init__(self, home: Path, base_models: Path, settings: dict[str, Any]) -> None:
        from medcode_serving.bundle import latest_bundle
        from medcode_serving.engines.loading import load_engine
        from medcode_serving.settings import load_inference_settings

        chosen = load_inference_settings(**{"device": "cpu", "model.home": home, **settings})
        self._engine = load_engine(latest_bundle(home / "bundles", RECIPE), chosen, base_models)

    def answer(self, notes: Sequence[str]) -> list[frozenset[str]]:
        """Return each note's codes, no threshold applied."""
        predictions = self._engine.predict(notes)
        return [frozenset(f"{code.system} {code.code}" for code in found.codes) for found in predictions]


# The parts.


class Run:
    """One run's options and folder, and what several parts need."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.home: Path = options.home
        self.rounds: int = options.rounds
        self.threads: int = options.threads
        self.notes: int = options.notes
        self.shape = TINY if options.tiny else HALF
        self.folder = folder
        self.steps: dict[str, tuple[Taken, Path]] = {}
        """Of the random model's export: what each took, and what it made."""

    @cached_property
    def export(self) -> "Export":
        """All GGUF files of a copy of the newest bundle; the copy is in the folder `home`."""
        export: Export = in_own_process(export_bundle, self.home, self.folder / "home", self.notes).result
        if export.manifest is None:
            raise SystemExit("the bundle is not exported: " + "; ".join(export.problems))
        return export

    @cached_property
    def merged(self) -> Path:
        """The random model with a random adapter merged in."""
        base, adapter, merged = (self.folder / name for name in ("base", "adapter", "merged"))
        in_own_process(make_base, base, self.shape)
        in_own_process(make_adapter, base, adapter)
        self._step("merge, fp32", merge, base, adapter, merged)
        return merged

    @cached_property
    def files(self) -> dict[str, Path]:
        """The random model's GGUF files by quantization."""
        files = {name: self.folder / f"model-{name.upper()}.gguf" for name in (*WRITTEN, *QUANTIZED)}
        for name in WRITTEN:
            self._step(f"write {name}", write, self.merged, name, files[name])
        for name in QUANTIZED:
            self._step(f"quantize f16 to {name}", quantize, files["f16"], name, files[name])
        return files

    def _step(self, name: str, task: Callable[..., None], *arguments: Any) -> None:
        self.steps[name] = in_own_process(task, *arguments), arguments[-1]

    def print_speeds(self, merged: Path, files: Mapping[str, Path], prompts: int) -> None:
        """Measure and print a merged model's speed in transformers and its files' in llama.cpp."""
        halved = merged.with_name("merged-bf16")
        in_own_process(halve, merged, halved)
        sides = {
            "transformers, fp32": Side(merged),
            "transformers, bf16": Side(halved, "bfloat16"),
            **{f"llama.cpp, {name}": Side(file) for name, file in files.items()},
        }
        print_speeds(measure(sides, tokens=TOKENS, rounds=self.rounds, threads=self.threads, prompts=prompts))


def embedded(run: Run) -> None:
    columns = ("file", "MB", "KL mean", "top-1", "greedy equal", "F1 merged", "file", "loss (95 %)", "equal answers")
    table(*columns)
    for report in run.export.reports:
        losses: tuple[str, ...] = ("", "", "", "")
        if report.f1 is not None:
            f1 = report.f1
            loss = f"{f1.loss:+.4f} ({f1.low:+.4f} to {f1.high:+.4f})"
            losses = (f"{f1.merged:.4f}", f"{f1.file:.4f}", loss, f"{f1.equal_answers}/{f1.notes}")
        row(
            *(report.quantization, f"{report.size_bytes / 1e6:.1f}", f"{report.kl_mean:.1e}"),
            *(f"{report.top1_agreement:.3f}", f"{report.greedy_equal}/{report.greedy_total}", *losses),
        )
    print()
    files = {report.quantization: run.export.folder / report.file for report in run.export.reports}
    run.print_speeds(run.folder / "home" / "merged", files, prompts=8)


def serving(run: Run) -> None:
    """Answer synthetic notes with the served engines in turn."""
    from medcode_assets.corpora.synthetic_notes import generate_notes

    _ = run.export
    llamacpp = {"model.engine": "llamacpp", "llamacpp.threads": run.threads}
    engines: dict[str, dict[str, Any]] = {
        "transformers": {"model.engine": "transformers"},
        **{f"llamacpp, {name}": {**llamacpp, "llamacpp.quantization": name} for name in ("f16", "q8_0", "q4_k_m")},
    }
    notes = [note.text for note in generate_notes(run.notes, seed=77)]
    taken: dict[str, list[Taken]] = {name: [] for name in engines}
    with ExitStack() as stack:
        home, base_models = run.folder / "home", run.home / "base_models"
        held = {
            name: stack.enter_context(Held(Answering, home, base_models, settings))
            for name, settings in engines.items()
        }
        for engine in held.values():
            engine.ask("answer", notes[:8])
        for _ in range(run.rounds):
            for name, engine in held.items():
                taken[name].append(engine.ask("answer", notes))
    table("engine", "notes/s", "times transformers", "CPU ms a note", "peak MB", "equal sets of codes")
    first = taken["transformers"]
    for name, turns in taken.items():
        speed, theirs = ([len(notes) / turn.seconds for turn in one] for one in (turns, first))
        equal = sum(one == other for one, other in zip(turns[0].result, first[0].result, strict=True))
        cpu = statistics.median(1_000 * turn.cpu_seconds / len(notes) for turn in turns)
        ratios = "" if turns is first else ratio(speed, theirs)
        median = f"{statistics.median(speed):.1f}"
        row(name, median, ratios, f"{cpu:.0f}", f"{turns[-1].peak:,.0f}", f"{equal}/{len(notes)}")


def half(run: Run) -> None:
    files = run.files
    table("step", "seconds", "CPU seconds", "peak MB", "written MB")
    for name, (taken, output) in run.steps.items():
        seconds = (f"{taken.seconds:.1f}", f"{taken.cpu_seconds:.1f}")
        row(name, *seconds, f"{taken.peak:,.0f}", f"{megabytes(output):,.0f}")
    print()
    run.print_speeds(run.merged, files, prompts=1)


def converter(run: Run) -> None:
    """Write the same files with llama.cpp's converter, in turn with ours."""
    if not (CONVERTER / "convert_hf_to_gguf.py").exists():
        print(f"Not run: no convert_hf_to_gguf.py in {CONVERTER}; name its folder: MEDCODE_LLAMACPP_CONVERTER")
        return
    table("file, by", "seconds", "times ours", "CPU seconds", "times ours", "peak MB", "times ours", "equal tensors")
    for file_type in ("f16", "q8_0"):
        ours, theirs = run.folder / "ours.gguf", run.folder / "theirs.gguf"
        turns: list[tuple[Taken, Taken]] = []
        for _ in range(run.rounds):
            by_us = in_own_process(write, run.merged, file_type, ours)
            turns.append((by_us, in_own_process(convert, run.merged, file_type, theirs)))
        equal = in_own_process(equal_tensors, ours, theirs).result
        for place, by in enumerate(("medcode", "llama.cpp")):
            cells: list[str] = []
            for quantity in ("seconds", "cpu_seconds", "peak"):
                mine, its = ([getattr(turn[side], quantity) for turn in turns] for side in (0, place))
                cells += [f"{statistics.median(its):,.1f}", ratio(its, mine) if place else ""]
            row(f"{file_type}, {by}", *cells, equal if place else "")


PARTS: dict[str, Callable[[Run], None]] = {
    "embedded": embedded,
    "serving": serving,
    "half": half,
    "converter": converter,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("MEDCODE_HOME", ".medcode")))
    parser.add_argument("--part", default=",".join(PARTS), help="Some of them, with commas between.")
    parser.add_argument("--rounds", type=int, default=5, help="How often each side has its turn; medians are shown.")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="Of each side.")
    parser.add_argument("--notes", type=int, default=100, help="Validation notes for F1, synthetic ones for serving.")
    parser.add_argument("--tiny", action="store_true", help="A small random model, to try this script.")
    options = parser.parse_args()
    chosen = options.part.split(",")
    if unknown := set(chosen) - PARTS.keys():
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    quiet = {"TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"}
    os.environ.update(quiet, OMP_NUM_THREADS=str(options.threads))  # for the processes to come
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "xllamacpp", "cyllama"))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {options.threads} threads a side; {libraries}")
    with tempfile.TemporaryDirectory() as folder:
        run = Run(options, Path(folder))
        for part in chosen:
            print(f"\n### {part}\n")
            PARTS[part](run)


if __name__ == "__main__":
    main()
