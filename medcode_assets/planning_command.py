"""What `medcode plan` prints: the configured training's memory, and a table over modes and GPU sizes."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medcode_assets.config import Settings
from medcode_serving.adapters import Mode
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from medcode_assets.training.cost import Gpu
    from medcode_assets.training.models import Precision
    from medcode_assets.training.planning import Growth, MemoryPlan
    from medcode_assets.training.rehearsal import Stage

MODES: tuple[Mode, ...] = ("lora", "qlora", "full")
ANSWER = 100
"""Tokens of an answer, unless told: about twelve codes."""


def print_plan(
    settings: Settings, home: Path, *, tokens: int, longest: int, examples: int, answer: int = ANSWER
) -> None:
    """Print what a training takes: memory by kind, and what fits, how long and how dear on each GPU size.

    Args:
        settings: Of the training.
        home: State folder, below which downloaded models are.
        tokens: Of a typical example, answer included.
        longest: Of the longest one.
        examples: Examples an epoch.
        answer: Of an answer.

    Raises:
        MedcodeError: the base model's config.json is not to be had, or lengths are out of order.
    """
    from medcode_assets.training.planning import Growth
    from medcode_assets.training.rehearsal import Stage, read_model_config

    if not answer < tokens <= longest:
        raise MedcodeError(
            f"--answer {answer} --tokens {tokens} --longest {longest}: expected answer < tokens <= longest"
        )
    folder = config_folder(settings, home)
    device, precision = _device_and_precision(settings)
    training = settings.training
    processes = settings.compute.processes * settings.compute.machines
    stage = Stage(
        config=read_model_config(folder),
        mode=training.mode,
        lora=settings.lora,
        training=training,
        precision=precision,
        device=device,
        summed=processes > 1,
        sharded=settings.compute.sharding == "full",
    )
    lengths = (longest - answer, answer), (tokens - answer, answer)
    found = Growth(stage, *lengths, processes).plan(training.batch_size)
    typer.echo(
        f"{settings.model.base}: mode {training.mode}, {device} {precision.name}, batch_size {training.batch_size} "
        f"(one note of {longest:,} tokens, the others {tokens:,}), gradient_checkpointing "
        f"{str(training.gradient_checkpointing).lower()}\n"
    )
    for line in breakdown(found):
        typer.echo(line)
    typer.echo("")
    for line in table(stage, lengths, examples, tokens):
        typer.echo(line)


def breakdown(found: "MemoryPlan") -> Iterator[str]:
    """Yield a line a kind of memory."""
    from medcode_assets.training.memory import GIB

    for name, size in [*found.facts.items(), ("peak", found.peak)]:
        yield f"  {name:<12} {size / GIB:8.2f} GiB"


def table(
    stage: "Stage", lengths: tuple[tuple[int, int], tuple[int, int]], examples: int, tokens: int
) -> Iterator[str]:
    """Yield a line a mode: the largest batch_size that fits each GPU size, the hours and the price."""
    from tqdm import tqdm

    from medcode_assets.training.cost import UTILISATION, read_gpus
    from medcode_assets.training.models import Precision
    from medcode_assets.training.planning import MARGIN, Growth

    gpus, date = read_gpus()
    yield "Largest batch_size, hours and price on one GPU:"
    yield f"  {'mode':<7}{'checkpointing':<15}" + "".join(f"{f'{gpu.name} ({gpu.memory_gb:g} GB)':>26}" for gpu in gpus)
    rows = []
    for mode, checkpointing in tqdm(list(product(MODES, (True, False))), desc="planning", unit="mode", leave=False):
        training = stage.training.model_copy(update={"mode": mode, "gradient_checkpointing": checkpointing})
        on_gpu = replace(
            stage,
            mode=mode,
            training=training,
            device="cuda",
            precision=Precision("bf16"),
            summed=False,
            sharded=False,
        )
        growth = Growth(on_gpu, *lengths)
        cells = (_cell(growth, on_gpu, gpu, examples, tokens) for gpu in gpus)
        rows.append(f"  {mode:<7}{'yes' if checkpointing else 'no':<15}" + "".join(f"{cell:>26}" for cell in cells))
    yield from rows
    yield (
        f"\n{examples:,} examples of {tokens:,} tokens, {stage.training.epochs:g} epochs; '-': not even one note fits "
        f"with {MARGIN:.0%} to spare. Times assume {UTILISATION:.0%} of the dense bf16 TFLOP/s (not measured); prices "
        f"are rough ones of {date}: edit medcode_assets/training/gpus.yaml."
    )


def _cell(growth: "Growth", stage: "Stage", gpu: "Gpu", examples: int, tokens: int) -> str:
    from medcode_assets.training.cost import hours

    batch = growth.largest_batch(int(gpu.memory_gb * 1e9))
    if not batch:
        return "-"
    time = hours(stage, tokens, examples, gpu)
    price = time * gpu.usd_per_hour
    return f"{batch}, {_duration(time)}, ${price:,.{0 if price >= 10 else 2}f}"


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{max(1, round(hours * 60))} min"


def config_folder(settings: Settings, home: Path) -> Path:
    """Return a folder with the base model's config.json: a plan needs no weights.

    Raises:
        MedcodeError: the model is not to be had.
    """
    from medcode_serving.base_models import resolve_base_model

    local = Path(settings.model.base).expanduser()
    if (local / "config.json").is_file():
        return local
    try:
        return resolve_base_model(settings.model.base, home / "base_models", revision=settings.model.revision).path
    except MedcodeError as error:
        raise MedcodeError(f"{error}; for a plan, a folder with only its config.json suffices") from None


def _device_and_precision(settings: Settings) -> "tuple[str, Precision]":
    from medcode_assets.training.models import resolve_precision
    from medcode_serving.device import resolve_device

    device = resolve_device(settings.compute.device)
    return device, resolve_precision(settings.compute.precision, device)
