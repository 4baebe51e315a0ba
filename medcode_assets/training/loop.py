"""The training loop: `train` reads top to bottom, and its settings are sections of training-config.yaml, one to one.

Every step follows from the job, the seed and the step's number alone: the examples, how they are dealt to rows, the
learning rate and the dropout. So a training that was killed ends in the same weights as an undisturbed one, and any
number of processes takes the same steps, but for rounding.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.training.allocator import give_freed_memory_back
from medcode_assets.training.checkpoints import drop_checkpoints, made_with
from medcode_assets.training.job import (
    TRAIN,
    VALIDATION,
    TrainingJob,
    TrainingResult,
    forget_outcome,
    read_job,
    write_result,
)
from medcode_assets.training.keeping import Keeper
from medcode_assets.training.memory import MemoryMeter
from medcode_assets.training.models import (
    Precision,
    effective_mode,
    load_trainable,
    packs,
    resolve_precision,
    training_device,
)
from medcode_assets.training.objectives.choose import add_reference, choose_objective
from medcode_assets.training.order import step_examples, steps_an_epoch
from medcode_assets.training.preflight import refuse_few_checkpoints, refuse_unstartable
from medcode_assets.training.progress import LogMetrics, reporting
from medcode_assets.training.settings import TrainingSettings
from medcode_assets.training.steps import RowComputer, out_of_memory
from medcode_assets.training.task_metric import task_metric
from medcode_assets.training.token_file import TokenFile
from medcode_assets.training.watch import LossWatch, Throughput
from medcode_assets.training.world import World, decoder_layers, joined_world, shard
from medcode_serving.device import resolve_device
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import torch


def train(folder: Path, on_metrics: LogMetrics | None = None) -> TrainingResult:
    """Train what `<folder>/job.json` says; leaves the weights in `<folder>/weights` and how it went in result.json.

    Args:
        folder: Of the training (`medcode_assets.training.job`); a run that was cut off goes on from its checkpoint.
        on_metrics: Told (optimizer step, metrics by name) whenever something is logged; the first process only.

    Raises:
        MedcodeError: the training cannot start, go on or end well; says what to change.
    """
    job = read_job(folder)
    kind = resolve_device(job.compute.device)
    try:
        with joined_world(kind, sharded=job.compute.sharding == "full") as world:
            if world.size == 1:
                forget_outcome(folder)
            result = _train(job, folder, world, on_metrics)
            if world.first:
                write_result(folder, result)
                drop_checkpoints(folder)  # last: until the result is there, they are all there is
            world.wait()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise MedcodeError(
            "out of memory; lower training.batch_size or data.max_prompt_tokens, set "
            "training.gradient_checkpointing=true or training.mode=qlora, choose a smaller base (medcode plan), or "
            "share the model out over several GPUs (compute.sharding=full)"
        ) from None
    return result


def _train(job: TrainingJob, folder: Path, world: World, on_metrics: LogMetrics | None) -> TrainingResult:
    import torch

    training, mode = job.training, effective_mode(job.training)
    device = training_device(job.compute.device, world.local_rank)
    precision = resolve_precision(job.compute.precision, device.partition(":")[0])
    data, validation = TokenFile(folder / TRAIN), TokenFile(folder / VALIDATION)
    refuse_unstartable(job, folder, data, validation)

    if device == "cpu" and job.compute.memory_gb:
        give_freed_memory_back()
    torch.manual_seed(training.seed)  # the fresh adapter is the same in every process
    computer = make_computer(job, world, device, precision)
    if job.objective == "dpo":
        for tokens, name in ((data, TRAIN), (validation, VALIDATION)):
            add_reference(computer, tokens, (folder / name).with_suffix(".npy"))
    model = computer.model
    shard(model, world, precision.compute)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    refuse_few_checkpoints(folder, parameters)
    if training.compile:
        compile_layers(model)
    optimizer = make_optimizer(parameters, training)
    watch = LossWatch()
    keeper = Keeper(job, folder, parameters, optimizer, computer, watch, made_with(device, precision.name, mode))
    result = keeper.resume()
    result.trainable_parameters = sum(p.numel() for p in parameters.values())
    result.device, result.precision, result.processes = device.partition(":")[0], precision.name, world.size
    result.mode, result.attention = mode, "packed" if computer.packed else model.config._attn_implementation

    schedule = Schedule.of(training, len(data))
    measure = task_metric(job, folder, computer)
    meter, since_log, since_start = MemoryMeter(device), Throughput(), Throughput()
    with reporting(job, schedule.steps, result.steps, world, on_metrics) as report:
        while result.steps < schedule.steps and not result.stopped_early:
            step, started = result.steps, time.perf_counter()
            rate = learning_rate_at(step, schedule.steps, training)
            places = step_examples(len(data), schedule.per_step, training.seed, step)
            sums = computer.gradients(data, places, training.seed, step)
            norm = clip_and_step(optimizer, rate, training.max_grad_norm, computer.scaler)
            result.steps = step + 1
            watch.refuse_explosion(sums.mean_loss, norm, result.steps, data.example_ids[places].tolist())
            for throughput in (since_log, since_start):
                throughput.count(sums, time.perf_counter() - started)

            last, metrics = result.steps == schedule.steps, {}
            if last or result.steps % job.logging_steps == 0:
                result.losses.append((result.steps, since_log.sums.mean_loss))
                metrics = {**since_log.metrics, "learning_rate": rate, "grad_norm": norm, **meter.now()}
                since_log = Throughput()
            report(result.steps, metrics)
            if last or result.steps % schedule.look_every == 0:
                look = look_at_validation(computer, validation, math.ceil(schedule.per_step / computer.rows), measure)
                result.validation.append((result.steps, look))
                report(result.steps, {f"validation_{name}": value for name, value in look.items()})
                keeper.keep_if_best(result, look)
            if not last and not result.stopped_early:
                keeper.save_if_due(result)

    result.batch_size = math.ceil(schedule.per_step / computer.rows)
    result.tokens_per_second, result.padding_share = since_start.tokens_per_second, since_start.padding_share
    result.peak_memory_gb = meter.peak_gb()
    keeper.finish(result, model, mode)
    return result


@dataclass(frozen=True)
class Schedule:
    """How many steps a training takes."""

    per_step: int
    """Examples a step."""
    steps: int
    look_every: int
    """Steps between two looks at the validation split."""

    @classmethod
    def of(cls, training: TrainingSettings, examples: int) -> "Schedule":
        """Return the schedule for a number of training examples."""
        per_step = training.batch_size * training.gradient_accumulation
        epoch = steps_an_epoch(examples, per_step)
        looks = max(1, round(epoch / training.evaluations_per_epoch))
        return cls(per_step, max(1, math.ceil(training.epochs * epoch)), looks)


def make_computer(job: TrainingJob, world: World, device: str, precision: Precision) -> RowComputer:
    """Load the model and return what computes rows with it. Raises MedcodeError as `load_trainable`."""
    import torch

    model = load_trainable(job, device, precision)
    return RowComputer(
        model,
        choose_objective(job),
        packed=packs(job.training, model),
        pad=pad_token(model),
        device=device,
        compute=precision.compute,
        world=world,
        rows=max(job.training.gradient_accumulation, world.size),
        scaler=torch.amp.GradScaler(device) if precision.name == "fp16" else None,
    )


def look_at_validation(
    computer: RowComputer,
    validation: TokenFile,
    batch_size: int,
    measure: Callable[[], dict[str, float]] | None,
) -> dict[str, float]:
    """Return loss and metrics on the validation split; nothing if it is empty."""
    if not len(validation):
        return {}
    sums = computer.evaluate(validation, batch_size)
    return {"loss": sums.mean_loss, **sums.means, **(measure() if measure else {})}


def learning_rate_at(step: int, steps: int, training: TrainingSettings) -> float:
    """Return the learning rate of a step (0-based): linear warm-up, then as `training.schedule` says.

    As transformers' schedulers of the same names, which the plain Trainer uses.
    """
    peak, warmup = training.learning_rate, round(training.warmup_ratio * steps)
    if step < warmup:
        return peak * step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if training.schedule == "linear":
        return peak * (1 - done)
    if training.schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * done))
    return peak


def make_optimizer(parameters: "dict[str, torch.nn.Parameter]", training: TrainingSettings) -> "torch.optim.AdamW":
    """AdamW; biases, norms and magnitudes, which are vectors, do not decay."""
    import torch

    decaying = [p for p in parameters.values() if p.ndim > 1]
    others = [p for p in parameters.values() if p.ndim <= 1]
    groups = [{"params": decaying, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=training.learning_rate)


def clip_and_step(optimizer: "torch.optim.Optimizer", rate: float, max_norm: float, scaler: Any) -> float:
    """Clip the gradients, take the step, forget the gradients; returns their norm before clipping.

    With a loss scaler, the step is left out if a gradient overflowed, as happens while it finds its scale; the norm is
    0 then.
    """
    import torch

    if scaler:
        scaler.unscale_(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found: Any = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    norm = float(found.full_tensor() if hasattr(found, "full_tensor") else found)
    for group in optimizer.param_groups:
        group["lr"] = rate
    if scaler:
        scaler.step(optimizer)
        scaler.update()
        if not math.isfinite(norm):
            if scaler.get_scale() < 1:
                raise MedcodeError("gradients overflow in fp16 however the loss is scaled; set compute.precision=fp32")
            norm = 0.0
    else:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def compile_layers(model: Any) -> None:
    """Compile each decoder layer; one compilation serves all, whatever a row's length."""
    for layer in decoder_layers(model):
        layer.compile(dynamic=True)


def pad_token(model: Any) -> int:
    """Return the token that fills padded rows; which one does not matter, it is masked out."""
    for token in (model.config.pad_token_id, model.config.eos_token_id):
        if isinstance(token, list):
            return int(token[0])
        if token is not None:
            return int(token)
    return 0
