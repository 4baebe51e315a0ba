"""Which base model to train: those that fit a device's memory, the most promising first."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, cast

import yaml

from medcode_assets.training.settings import LoraSettings, TrainingSettings
from medcode_serving.base_models import EMBEDDED
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Task = Literal["choices", "open", "reasoning"]
Mode = Literal["lora", "qlora", "full"]
TASKS: tuple[Task, ...] = ("choices", "open", "reasoning")
MODES: tuple[Mode, ...] = ("qlora", "lora", "full")
ANSWER = 24
"""Tokens of an answer, where memory is planned."""


@dataclass(frozen=True)
class KnownModel:
    """A model of models.yaml."""

    id: str
    parameters: float
    """Billions."""
    context: int
    license: str
    good_at: tuple[str, ...]
    note: str
    medical: bool = False
    config: tuple[tuple[str, Any], ...] = ()
    """Numbers of its config.json; none of the embedded one, which is on this machine."""


@dataclass(frozen=True)
class Candidate:
    """A model with the memory that its training takes."""

    model: KnownModel
    mode: Mode
    needed_gib: float
    """At the fullest moment of a step."""
    fits: bool
    """With the margin that plans leave free."""


@cache
def known_models() -> tuple[KnownModel, ...]:
    """Return the models of models.yaml, in its order."""
    text = resources.files(__package__).joinpath("models.yaml").read_text(encoding="utf-8")
    return tuple(
        KnownModel(**{**entry, "good_at": tuple(entry["good_at"]), "config": tuple(entry.get("config", {}).items())})
        for entry in yaml.safe_load(text)["models"]
    )


def choose_model(
    memory_gib: float,
    task: Task = "choices",
    mode: Mode = "qlora",
    *,
    tokens: int = 512,
    training: TrainingSettings | None = None,
    lora: LoraSettings | None = None,
    commercial: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> list[Candidate]:
    """Return the known models, those that fit first, the most promising of them at the head.

    Of those that fit: good at the task before others, medical before others, then the larger one. Those that do not
    fit follow, the one that needs least first.

    Args:
        memory_gib: Memory of the device.
        task: What the answers are to be.
        mode: How it is trained; a plan for a CUDA device in bf16.
        tokens: Of an example, answer included.
        training: batch_size, checkpointing and so on; none: those of recipe medqa.
        lora: Shape of the adapter; none: that of recipe medqa.
        commercial: Leave out those whose licence forbids commercial use.
        on_progress: Is told how many more are planned, which takes some seconds each.

    Raises:
        MedcodeError: task or mode is unknown, or there is no room for a question in so many tokens.
    """
    if task not in TASKS or mode not in MODES:
        raise MedcodeError(f"task {task}, mode {mode}: choose of {', '.join(TASKS)} and of {', '.join(MODES)}")
    if tokens <= ANSWER:
        raise MedcodeError(f"{tokens} tokens: give more than the {ANSWER} of an answer")
    from medcode_assets.recipes.medqa.settings import MedqaSettings
    from medcode_assets.training.planning import MARGIN

    defaults = MedqaSettings.model_fields
    training = training or cast(TrainingSettings, defaults["training"].default)
    lora = lora or cast(LoraSettings, defaults["lora"].default)
    found = []
    for model in known_models():
        if not (commercial and "not commercial" in model.license):
            needed = planned_gib(model, mode, tokens, training, lora)
            found.append(Candidate(model, mode, needed, needed <= memory_gib * (1 - MARGIN)))
        if on_progress:
            on_progress(1)
    return ranked(found, task)


def ranked(candidates: Iterable[Candidate], task: Task) -> list[Candidate]:
    """Return candidates in the order of `choose_model`."""
    return sorted(candidates, key=lambda one: _rank(one, task))


def _rank(candidate: Candidate, task: Task) -> tuple[Any, ...]:
    if not candidate.fits:
        return True, candidate.needed_gib
    model = candidate.model
    return False, task not in model.good_at, not model.medical, -model.parameters, model.id


def planned_gib(model: KnownModel, mode: Mode, tokens: int, training: TrainingSettings, lora: LoraSettings) -> float:
    """Return the GiB that a training of a model takes on CUDA in bf16, by the planner's rehearsal."""
    from medcode_assets.training.memory import GIB
    from medcode_assets.training.models import Precision
    from medcode_assets.training.planning import plan
    from medcode_assets.training.rehearsal import Stage

    stage = Stage(
        config=model_config(model),
        mode=mode,
        lora=lora,
        training=training.model_copy(update={"mode": mode}),
        precision=Precision("bf16"),
        device="cuda",
    )
    example = (tokens - ANSWER, ANSWER)
    return plan(stage, [example] * training.batch_size).peak / GIB


def model_config(model: KnownModel) -> "PretrainedConfig":
    """Return the configuration of a known model, as its config.json would give it."""
    from transformers import AutoConfig

    if model.id == EMBEDDED:
        from pathlib import Path

        from medcode_assets.training.rehearsal import read_model_config
        from medcode_serving.base_models import resolve_base_model

        return read_model_config(resolve_base_model(EMBEDDED, Path()).path)
    numbers = dict(model.config)
    config: PretrainedConfig = AutoConfig.for_model(
        numbers.pop("model_type"), **numbers, max_position_embeddings=model.context
    )
    return config
