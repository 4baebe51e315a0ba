"""What `medcode plan` prints: the configured training's memory, and a table over modes and GPU sizes."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medcode_assets.config import Settings
from medcode_assets.progress import step
from medcode_assets.training.example_lengths import (
    ExampleLengths,
    as_given,
    tokenized_lengths,
    usual_lengths,
    within,
)
from medcode_serving.adapters import Mode
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from medcode_assets.training.cost import Gpu
    from medcode_assets.training.planning import Growth, MemoryPlan
    from medcode_assets.training.rehearsal import Stage

MODES: tuple[Mode, ...] = ("lora", "qlora", "full")
MOST_TOKENS = 131_072
"""Of an example, where a model does not say how many it reads."""


def print_plan(
    settings: Settings,
    home: Path,
    *,
    tokens: int | None = None,
    longest: int | None = None,
    examples: int | None = None,
    answer: int | None = None,
    name: str | None = None,
) -> None:
    """Print what a training takes: memory by kind, and what fits, how long and how dear on each GPU size.

    Args:
        settings: Of the training.
        home: State folder, below which downloaded models and the warehouses are.
        tokens: Of a typical example, answer included; None: as it was tokenized, or is usual. So are the others.
        longest: Of the longest one.
        examples: Examples an epoch.
        answer: Of an answer.
        name: Partition whose tokens are looked at; None: the one that was written last.

    Raises:
        MedcodeError: the base model's config.json is not to be had, lengths are out of order or more than it reads, or
            the partition has no tokens.
    """
    from medcode_assets.training.planning import Growth
    from medcode_assets.training.rehearsal import read_model_config

    folder = config_folder(settings, home)
    config = read_model_config(folder)
    context: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    found = tokenized_lengths(home, settings, name) or usual_lengths(settings)
    model = settings.model.base
    shape, cut = within(
        as_given(found, context, model, longest=longest, tokens=tokens, answer=answer, examples=examples),
        context,
        model,
    )
    stage, processes = _stage(settings, config), settings.compute.processes * settings.compute.machines
    training = settings.training
    typer.echo(
        f"{model}: mode {training.mode}, {stage.device} {stage.precision.name}, batch_size {training.batch_size} (one "
        f"{shape.called} of {shape.longest:,} tokens, the others {shape.tokens:,}; answers of {shape.answer:,}), "
        f"gradient_checkpointing {str(training.gradient_checkpointing).lower()}"
    )
    typer.echo(f"Lengths: {shape.origin}; --longest, --tokens, --answer and --examples set others.")
    if cut:
        typer.echo(f"Cut: {cut}.")
    growth = Growth(stage, *shape.pairs, processes)
    typer.echo("")
    for line in breakdown(growth.plan(training.batch_size)):
        typer.echo(line)
    short = shortage(settings, stage, growth, shape)
    if short:
        typer.echo(f"\n{short}")
    typer.echo("")
    for line in table(stage, shape, context):
        typer.echo(line)


def _stage(settings: Settings, config: "PretrainedConfig") -> "Stage":
    """Return what is rehearsed for this machine."""
    from medcode_assets.training.models import resolve_precision
    from medcode_assets.training.rehearsal import Stage
    from medcode_serving.device import resolve_device

    device, training = resolve_device(settings.compute.device), settings.training
    return Stage(
        config=config,
        mode=training.mode,
        lora=settings.lora,
        training=training,
        precision=resolve_precision(settings.compute.precision, device),
        device=device,
        summed=settings.compute.processes * settings.compute.machines > 1,
        sharded=settings.compute.sharding == "full",
    )


def shortage(settings: Settings, stage: "Stage", growth: "Growth", shape: ExampleLengths) -> str | None:
    """Return in a sentence what would fit this machine, where the training as it is set does not; None: it does."""
    from medcode_assets.training.memory import GIB
    from medcode_assets.training.planning import MARGIN, Reach, advice, available_memory

    batch, memory = stage.training.batch_size, available_memory(settings.compute, stage.device)
    needed = growth.plan(batch).peak
    if needed <= memory * (1 - MARGIN):
        return None
    processes = settings.compute.processes * settings.compute.machines
    shorter = Reach(growth, batch, shape.longest).longest(memory)
    by_length = f"; or with data.max_prompt_tokens={shorter - shape.answer}" if shorter >= shape.tokens else ""
    return (
        f"This machine has {memory / GIB:.1f} GiB free on {stage.device}, {MARGIN:.0%} of them to spare, and this "
        f"needs {needed / GIB:.1f}: {advice(stage, *shape.pairs, memory, processes=processes)}{by_length}."
    )


def breakdown(found: "MemoryPlan") -> Iterator[str]:
    """Yield a line a kind of memory."""
    from medcode_assets.training.memory import GIB

    for name, size in [*found.facts.items(), ("peak", found.peak)]:
        yield f"  {name:<12} {size / GIB:8.2f} GiB"


def table(stage: "Stage", shape: ExampleLengths, context: int | None) -> Iterator[str]:
    """Yield a line a mode: the largest batch_size that fits each GPU size, the hours and the price; and what length."""
    from tqdm import tqdm

    from medcode_assets.training.cost import UTILISATION, read_gpus
    from medcode_assets.training.models import Precision
    from medcode_assets.training.planning import MARGIN, Growth

    gpus, date = read_gpus()
    set_here: Growth | None = None
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
        growth = Growth(on_gpu, *shape.pairs)
        if (mode, checkpointing) == (stage.mode, stage.training.gradient_checkpointing):
            set_here = growth
        cells = (_cell(growth, on_gpu, gpu, shape.examples, shape.tokens) for gpu in gpus)
        rows.append(f"  {mode:<7}{'yes' if checkpointing else 'no':<15}" + "".join(f"{cell:>26}" for cell in cells))
    yield from rows
    if set_here is not None:
        batch = stage.training.batch_size
        yield (
            f"\nLongest {shape.called} at batch_size {batch} as set (mode {stage.mode}, checkpointing "
            f"{'yes' if stage.training.gradient_checkpointing else 'no'}), the others of {shape.tokens:,} tokens:"
        )
        yield " " * 24 + "".join(f"{cell:>26}" for cell in reaches(set_here, batch, context, gpus))
    yield (
        f"\n{shape.examples:,} examples of {shape.tokens:,} tokens, {stage.training.epochs:g} epochs; '-': not even "
        f"one {shape.called} fits with {MARGIN:.0%} to spare. Times assume {UTILISATION:.0%} of the dense bf16 TFLOP/s "
        f"(not measured); prices are rough ones of {date}: edit medcode_assets/training/gpus.yaml."
    )


def reaches(growth: "Growth", batch: int, context: int | None, gpus: "list[Gpu]") -> list[str]:
    """Return for each GPU size how many tokens the longest example of a batch may have."""
    from tqdm import tqdm

    from medcode_assets.training.planning import Reach

    most = context or MOST_TOKENS
    with tqdm(desc="planning", unit="length", leave=False) as bar:
        reach = Reach(growth, batch, most, lambda: step(bar, 1))
        found = [reach.longest(int(gpu.memory_gb * 1e9)) for gpu in gpus]
    return ["-" if not length else f"{length:,}{' (all it reads)' if length == most else ''}" for length in found]


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
