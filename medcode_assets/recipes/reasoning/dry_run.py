"""A stage rehearsed: everything loaded, a small part of its corpus made, one step trained, and what it would take told.

Nothing is kept. The step starts from the base model: of the stage before there may be no adapter yet.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path

from medcode_assets.config import DataSettings
from medcode_assets.recipes.reasoning.corpus.build import build_corpus
from medcode_assets.recipes.reasoning.corpus.mimic import mimic_lines
from medcode_assets.recipes.reasoning.examples import load_stage
from medcode_assets.recipes.reasoning.recipe import REASONING
from medcode_assets.recipes.reasoning.settings import StageSettings
from medcode_assets.recipes.reasoning.staging import StageLengths, stage_job, write_stage_tokens
from medcode_assets.recipes.recipe import Stage
from medcode_assets.training.job import TrainingJob, TrainingResult, write_job
from medcode_assets.training.loop import train
from medcode_assets.training.order import steps_an_epoch
from medcode_assets.training.planning import check_memory
from medcode_assets.warehouse import open_warehouse
from medcode_serving.base_models import LocalModel, resolve_base_model
from medcode_serving.codes.tables import code_tables

MOST_EXAMPLES = 400
"""Of the corpus, all splits together."""


def rehearse_stage(stage: Stage, settings: StageSettings, folder: Path, home: Path) -> dict[str, str]:
    """Rehearse a stage and return what it would take, for people.

    Args:
        stage: Which one.
        settings: Its settings; of the corpus, 400 examples at most are made.
        folder: Everything is written there.
        home: MEDCODE_HOME: base models and MIMIC's warehouses.

    Raises:
        MedcodeError: a source, the base model or the memory is not there, or a setting is wrong.
    """
    base = resolve_base_model(
        settings.model.base,
        home / "base_models",
        revision=settings.model.revision,
        added_tokens=REASONING.added_tokens,
    )
    wanted = settings.reasoning.model_copy(update={"examples": min(settings.reasoning.examples, MOST_EXAMPLES)})
    corpus = build_corpus(
        {stage.number: wanted},
        folder / "corpus",
        tables=code_tables(Path(wanted.cpt_descriptions) if wanted.cpt_descriptions else None),
        mimic=lambda name: mimic_lines(home / "warehouse" / f"{name}.duckdb"),
    )
    with open_warehouse(folder / "dry-run.duckdb") as con:
        load_stage(con, stage.number, folder / "corpus")
        lengths = write_stage_tokens(con, stage, base, settings.data.max_prompt_tokens, folder / "training")
    job = one_step(stage_job(stage, base, "dry run", settings, None), len(lengths.prompts))
    write_job(folder / "training", job)
    memory = check_memory(job, folder / "training").facts
    started = time.monotonic()
    result = train(folder / "training")
    seconds = time.monotonic() - started
    kept = sum(split.lines for split in corpus.stages[stage.number].splits.values())
    return {
        **_sizes(base, result),
        "examples": f"{kept} of {settings.reasoning.examples:,} made for this, {len(lengths.prompts)} of them train",
        "codes": ", ".join(f"{system} {found.codes_kept}" for system, found in corpus.coverage.items()),
        **_tokens(lengths, settings.data),
        "memory": f"{memory.get('peak_gb', 0):.2f} GiB planned, {result.peak_memory_gb:.2f} GiB taken by one step",
        "step": f"{seconds:.1f} s with loading, loss {result.losses[-1][1]:.3f}",
        "time": _time(settings, lengths, result),
    }


def one_step(job: TrainingJob, examples: int) -> TrainingJob:
    """Return a job that trains one step of so many examples, as the whole training's steps are."""
    steps = steps_an_epoch(examples, job.training.batch_size * job.training.gradient_accumulation)
    training = job.training.model_copy(update={"epochs": 0.9 / steps, "warmup_ratio": 0.0})
    return job.model_copy(update={"training": training})


def _sizes(base: LocalModel, result: TrainingResult) -> dict[str, str]:
    megabytes = sum(file.stat().st_size for file in base.path.glob("*.safetensors")) / 1e6
    return {
        "base model": f"{base.id}, {megabytes:,.0f} MB, tokens added: {', '.join(base.added_tokens)}",
        "trained": f"{result.trainable_parameters:,} parameters ({result.mode}, {result.precision}, {result.device})",
    }


def _tokens(lengths: StageLengths, data: DataSettings) -> dict[str, str]:
    return {
        "prompt tokens": f"{_spread(lengths.prompts)}; limit {data.max_prompt_tokens}, {lengths.shortened} shortened",
        "answer tokens": _spread(lengths.answers),
    }


def _spread(numbers: Sequence[int]) -> str:
    ordered = sorted(numbers)
    at = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95)]
    return f"median {at[0]}, 95 % {at[1]}, longest {ordered[-1]}"


def _time(settings: StageSettings, lengths: StageLengths, result: TrainingResult) -> str:
    """Return how long the whole training would take at the speed of the one step."""
    train_share = 1 - settings.reasoning.validation_share - settings.reasoning.test_share
    examples = settings.reasoning.examples * train_share * settings.training.epochs
    tokens = sum(lengths.prompts) + sum(lengths.answers)
    hours = examples * tokens / max(1, len(lengths.prompts)) / max(1e-9, result.tokens_per_second) / 3600
    steps = math.ceil(examples / (settings.training.batch_size * settings.training.gradient_accumulation))
    speed = f"{result.tokens_per_second:,.0f} tokens/s"
    return f"about {hours:,.1f} h for {steps:,} steps at {speed}; the first step, which this is, is slower than others"
