"""How much memory a training will take, before it starts, and what to change if that is more than there is.

The numbers come from a rehearsal of the step (`medcode_assets.training.rehearsal`). `medcode plan` prints them; the
adapter asset calls `check_memory`.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medcode_assets.training.attention import can_pack
from medcode_assets.training.job import TRAIN, VALIDATION, TrainingJob
from medcode_assets.training.memory import GIB
from medcode_assets.training.models import effective_mode, resolve_precision
from medcode_assets.training.order import balanced_rows, grouped_rows
from medcode_assets.training.preflight import refuse_unstartable
from medcode_assets.training.rehearsal import Lengths, Stage, read_model_config, rehearse
from medcode_assets.training.settings import ComputeSettings, TrainingSettings
from medcode_assets.training.token_file import TokenFile
from medcode_serving.device import resolve_device

MARGIN = 0.1
"""Share of a device's memory that is left free: allocators lose some to gaps."""
CUDA_CONTEXT = GIB // 2
"""Bytes that CUDA, its kernels and its libraries' workspaces take on the device."""
MOST_EXAMPLES = 4096
"""Batch sizes beyond this are not looked for."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes at the fullest moment of a training step, on each device, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    other: int = 0
    """The process itself: CUDA's context on a GPU; Python and its libraries on the CPU."""

    @property
    def tensors(self) -> int:
        """What the training's tensors take."""
        return self.peak - self.other

    @property
    def peak(self) -> int:
        """Everything."""
        return sum(self.facts.values())

    @property
    def facts(self) -> dict[str, int]:
        """Bytes by kind."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class MemoryCheck:
    """A plan beside the memory that there is."""

    plan: MemoryPlan
    available: int
    """Bytes that the training may take."""
    row: list[int]
    """Tokens of each example in the fullest row."""
    warning: str | None
    """What will run out and what to change, in a sentence; none: it fits."""

    @property
    def facts(self) -> dict[str, float]:
        """What an asset shows: GiB by kind, the peak, what there is, tokens in the fullest row."""
        sizes = {f"{name}_gb": round(size / GIB, 3) for name, size in self.plan.facts.items()}
        return {
            **sizes,
            "peak_gb": round(self.plan.peak / GIB, 3),
            "available_gb": round(self.available / GIB, 3),
            "row_tokens": sum(self.row),
        }


def plan(stage: Stage, lengths: Lengths, *, processes: int = 1) -> MemoryPlan:
    """Return the memory of a step on one row.

    Args:
        stage: The training; `stage.sharded` shares weights, gradients and optimizer out over the processes.
        lengths: Tokens of each example in the row: its prompt's and its completions'.
        processes: Of the training, on all machines.

    Raises:
        MedcodeError: as `rehearse`.
    """
    return _fullest(rehearse(stage, lengths), stage, processes)


class Growth:
    """Memory as batch_size grows: two rehearsals, since every phase's memory grows by the same amount an example."""

    def __init__(self, stage: Stage, longest: tuple[int, ...], typical: tuple[int, ...], processes: int = 1) -> None:
        """Rehearse rows of one and two examples: the longest, and typical ones after it."""
        self._stage, self._processes = stage, processes
        self._one, self._two = (rehearse(stage, row) for row in ([longest], [longest, typical]))
        self.longest = longest

    def plan(self, examples: int) -> MemoryPlan:
        """Return the memory with so many examples in a row."""
        peaks = {
            phase: {kind: size + (self._two[phase][kind] - size) * (examples - 1) for kind, size in sizes.items()}
            for phase, sizes in self._one.items()
        }
        return _fullest(peaks, self._stage, self._processes)

    def with_longest(self, longest: tuple[int, ...]) -> "Growth":
        """Return the same with another longest example: one rehearsal, for what the others add stays as it is."""
        other = copy.copy(self)
        other.longest, other._one = longest, rehearse(self._stage, [longest])
        other._two = {
            phase: {kind: size + self._two[phase][kind] - self._one[phase][kind] for kind, size in sizes.items()}
            for phase, sizes in other._one.items()
        }
        return other

    def largest_batch(self, memory: int) -> int:
        """Return the most examples that fit into so many bytes with a margin; 0: not even one."""
        fits, too_many = 0, MOST_EXAMPLES + 1
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            fits, too_many = (middle, too_many) if self.plan(middle).peak <= memory * (1 - MARGIN) else (fits, middle)
        return fits


class Reach:
    """How long the longest example of a row may be: a few lengths are rehearsed, straight lines drawn between them.

    Memory grows with the length at least as fast as a straight line, so that what is read off one fits.
    """

    def __init__(self, growth: Growth, batch: int, most: int, on_progress: Callable[[], None] = lambda: None) -> None:
        """Begin with the longest example of a plan.

        Args:
            growth: The plan.
            batch: Examples of a row.
            most: Tokens that the model reads.
            on_progress: Is told of each rehearsal.
        """
        self._growth, self._batch, self._most, self._on_progress = growth, batch, most, on_progress
        self._answer = sum(growth.longest[1:])
        self._peaks = {sum(growth.longest): growth.plan(batch).peak}

    def longest(self, memory: int) -> int:
        """Return the tokens of the longest example that fits into so many bytes with a margin; 0: none does."""
        room = int(memory * (1 - MARGIN))
        least = self._answer + 1
        below = above = sum(self._growth.longest)
        while self._peak(above) <= room:
            if above >= self._most:
                return self._most
            below, above = above, min(2 * above, self._most)
        while self._peak(below) > room:
            if below <= least:
                return 0
            below, above = max(below // 2, least), below
        risen = self._peak(above) - self._peak(below)
        return below + (above - below) * (room - self._peak(below)) // max(1, risen)

    def _peak(self, length: int) -> int:
        if length not in self._peaks:
            other = self._growth.with_longest((length - self._answer, *self._growth.longest[1:]))
            self._peaks[length] = other.plan(self._batch).peak
            self._on_progress()
        return self._peaks[length]


def advice(stage: Stage, longest: tuple[int, ...], typical: tuple[int, ...], memory: int, *, processes: int = 1) -> str:
    """Return in a sentence what would fit into a device's bytes: the least change from the settings comes first.

    Args:
        stage: The training as it is set.
        longest: Tokens of the longest example: its prompt's and its completions'.
        typical: Of a typical one.
        memory: Bytes of the device, of which `MARGIN` is left free.
        processes: As in `plan`.
    """
    saving = stage.training.model_copy(update={"gradient_checkpointing": True})
    changes: list[tuple[str, Stage]] = [("", stage)]
    if not stage.training.gradient_checkpointing:
        changes.append(("training.gradient_checkpointing=true", replace(stage, training=saving)))
    if stage.mode == "full":
        changes.append(("training.mode=lora", replace(stage, mode="lora", training=saving)))
    if stage.mode != "qlora":
        changes.append(("training.mode=qlora", replace(stage, mode="qlora", training=saving)))
    wanted = stage.training.batch_size
    for change, changed in changes:
        batch = Growth(changed, longest, typical, processes).largest_batch(memory)
        if batch >= wanted or (batch and change in ("", "training.gradient_checkpointing=true") and wanted < 2 * batch):
            sizes = f"training.batch_size={batch}" if batch < wanted or not change else ""
            parts = " and ".join(part for part in (change, sizes) if part)
            return f"with {parts} it fits into {memory / GIB:.1f} GiB" + (
                " (raise training.gradient_accumulation to keep the examples of a step)" if batch < wanted else ""
            )
        if batch and change == changes[-1][0]:
            together = f"{change} and training.batch_size={batch}" if change else f"training.batch_size={batch}"
            return f"with {together} it fits into {memory / GIB:.1f} GiB"
    return f"nothing fits into {memory / GIB:.1f} GiB: lower data.max_prompt_tokens or choose a smaller base model"


def check_memory(job: TrainingJob, folder: Path) -> MemoryCheck:
    """Plan a training on its own examples and compare with the memory of the device that it will run on.

    Takes some seconds, changes nothing, and leaves the random numbers as they were.

    Args:
        job: The training, before it starts.
        folder: With its tokens.

    Raises:
        MedcodeError: as `refuse_unstartable`; the device is not there, or the model cannot be built as the job says.
    """
    data = TokenFile(folder / TRAIN)
    refuse_unstartable(job, folder, data, TokenFile(folder / VALIDATION))
    device = resolve_device(job.compute.device)
    processes = job.compute.processes * job.compute.machines
    stage = stage_of(job, device, processes)
    columns = [data.lengths[name] for name in data.columns]
    total = np.sum(columns, axis=0)
    row = fullest_row(total, job.training, processes, packed=packs_rows(stage))
    lengths = [tuple(int(column[place]) for column in columns) for place in row]
    found = plan(stage, lengths, processes=processes)
    memory = available_memory(job.compute, device)
    warning = None
    if found.peak > memory * (1 - MARGIN):
        by_length = np.argsort(total)
        longest, typical = (tuple(int(column[by_length[at]]) for column in columns) for at in (-1, len(total) // 2))
        warning = (
            f"training needs about {found.peak / GIB:.1f} GiB and {memory / GIB:.1f} GiB are free on {device} "
            f"({MARGIN:.0%} of them to spare): {advice(stage, longest, typical, memory, processes=processes)}"
        )
    return MemoryCheck(found, memory, [sum(example) for example in lengths], warning)


def stage_of(job: TrainingJob, device: str, processes: int) -> Stage:
    """Return what a job's rehearsal runs."""
    return Stage(
        config=read_model_config(job.base_path),
        mode=effective_mode(job.training),  # type: ignore[arg-type]
        lora=job.lora,
        training=job.training,
        precision=resolve_precision(job.compute.precision, device),
        device=device,
        objective=job.objective,
        summed=processes > 1,
        sharded=job.compute.sharding == "full",
    )


def packs_rows(stage: Stage) -> bool:
    """Whether rows are packed: `models.packs` without its warnings."""
    return can_pack(stage.config) and stage.training.attention in ("auto", "packed")


def fullest_row(lengths: np.ndarray, training: TrainingSettings, processes: int, *, packed: bool) -> list[int]:
    """Return the places of the examples in the row of the first epoch that takes the most memory.

    Args:
        lengths: Tokens of each example.
        training: Its settings.
        processes: Of the training.
        packed: Whether rows are packed; padded ones are as wide as their longest example.
    """
    per_step = training.batch_size * training.gradient_accumulation
    rows = max(training.gradient_accumulation, processes)
    order = np.random.default_rng([training.seed, 0]).permutation(len(lengths))
    deal = balanced_rows if packed else grouped_rows
    fullest: tuple[int, list[int]] = (-1, [])
    for start in range(0, len(order), per_step):
        places = order[start : start + per_step]
        tokens = [int(lengths[place]) for place in places]
        for row in deal(tokens, rows):
            size = sum(tokens[at] for at in row) if packed else len(row) * max(tokens[at] for at in row)
            if size > fullest[0]:
                fullest = (size, [int(places[at]) for at in row])
    return fullest[1]


def available_memory(compute: ComputeSettings, device: str) -> int:
    """Return the bytes that a training may take on its device, each process's own included."""
    import psutil
    import torch

    if compute.memory_gb:
        return int(compute.memory_gb * GIB)
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0]) + CUDA_CONTEXT  # this process has its context already
    free = psutil.virtual_memory().available
    # This process's own memory is in the plan, and in use already.
    return int(free // compute.processes + psutil.Process().memory_info().rss)


def _fullest(peaks: "Mapping[str, Mapping[str, int]]", stage: Stage, processes: int) -> MemoryPlan:
    """Return the fullest phase as a plan."""
    plans = [
        MemoryPlan(**_on_each(dict(sizes), stage, processes), other=_own(stage.device)) for sizes in peaks.values()
    ]
    return max(plans, key=lambda candidate: candidate.peak)


def _on_each(sizes: dict[str, Any], stage: Stage, processes: int) -> dict[str, Any]:
    """Divide what is sharded by the processes, and add the layers that are gathered meanwhile."""
    if not stage.sharded:
        return sizes
    width = stage.precision.compute.itemsize
    config = stage.config.get_text_config()
    outside = min(sizes["weights"], 2 * config.vocab_size * config.hidden_size * width)
    gathered = outside + (sizes["weights"] - outside) * min(1.0, 2 / stage.layers)  # the next layer comes ahead
    wider = 4 / width if stage.mode == "full" else 1  # shares of trained weights are kept in fp32
    shares = {kind: round(sizes[kind] * wider / processes) for kind in ("weights", "gradients", "optimizer")}
    return {**sizes, **shares, "activations": sizes["activations"] + round(gathered)}


def _own(device: str) -> int:
    import psutil

    return CUDA_CONTEXT if device == "cuda" else int(psutil.Process().memory_info().rss)
