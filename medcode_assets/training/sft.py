"""Supervised fine-tuning: a LoRA adapter that answers a note with its codes.

`train_adapter` reads top to bottom: model, data, trainer, train, save. Its settings are the sections `lora` and
`training` of training-config.yaml, one to one.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.artifacts import replace_folder
from medcode_assets.config import LoraSettings, TrainingSettings
from medcode_assets.training.callbacks import complete_checkpoint, trainer_callbacks
from medcode_assets.training.collation import collate
from medcode_assets.training.sampling import length_grouped_sampler
from medcode_serving.base_models import LocalModel
from medcode_serving.device import resolve_device
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import duckdb
    from datasets import Dataset
    from peft import PeftModel
    from torch.utils.data import Sampler
    from transformers import PreTrainedModel, TrainingArguments

LogMetrics = Callable[[int, dict[str, float]], None]
"""Told (optimizer step, metrics by name) whenever the trainer logs."""

VALIDATION_EXAMPLES = 256
"""Enough for a steady validation loss after each epoch; the metrics proper come from the evaluation."""


@dataclass
class TrainingResult:
    """What training did."""

    steps: int
    trainable_parameters: int
    device: str
    losses: list[tuple[int, float]] = field(default_factory=list)
    """(step, mean training loss since the last log)"""
    validation_losses: list[tuple[int, float]] = field(default_factory=list)
    resumed_from: int = 0
    """Step of the checkpoint that training went on from; 0: from the start."""


def training_data(con: "duckdb.DuckDBPyConnection", recipe: str, split: str, limit: int = 0) -> "Dataset":
    """Return a split's tokens as a data set: prompt_ids, completion_ids, length (tokens).

    Args:
        con: Connection of the warehouse.
        recipe: Name of the recipe, which is its schema.
        split: train, validation or test.
        limit: Examples at most, the same ones each time; 0: all.
    """
    from datasets import Dataset

    table = con.sql(
        "SELECT prompt_ids, completion_ids, CAST(len(prompt_ids) + len(completion_ids) AS INTEGER) AS length "
        f"FROM {recipe}.tokens WHERE split = ? ORDER BY md5(CAST(example_id AS VARCHAR)), example_id "
        + (f"LIMIT {limit}" if limit else ""),
        params=[split],
    ).to_arrow_table()
    return Dataset(table)


def train_adapter(
    base: LocalModel,
    train: "Dataset",
    validation: "Dataset",
    output: Path,
    *,
    lora: LoraSettings,
    training: TrainingSettings,
    checkpoints: Path,
    logging_steps: int = 10,
    log: LogMetrics | None = None,
) -> TrainingResult:
    """Train a LoRA adapter and save it to a new folder, safetensors only.

    Args:
        base: The base model.
        train: Training tokens, as `training_data` gives them.
        validation: Validation tokens; their loss is logged after each epoch.
        output: Folder to write; an earlier one is replaced once the new one is complete.
        lora: Shape of the adapter.
        training: How it is trained.
        checkpoints: Folder for checkpoints of this very training: a run that was cut off goes on from its newest.
        logging_steps: Optimizer steps between two logged losses.
        log: Told the metrics.

    Raises:
        MedcodeError: the loss became NaN or infinite, or the device or a target module is not there.
    """
    from transformers import PrinterCallback, Trainer, set_seed

    class LengthGroupedTrainer(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> "Sampler[int]":
            return length_grouped_sampler(
                train["length"][:], training.batch_size * training.gradient_accumulation, training.seed
            )

    set_seed(training.seed)
    device = resolve_device(training.device)
    model = adapted_model(base, lora, device, training)
    result = TrainingResult(0, sum(p.numel() for p in model.parameters() if p.requires_grad), device)
    pad_token_id = model.config.pad_token_id if model.config.pad_token_id is not None else model.config.eos_token_id
    if isinstance(pad_token_id, list):
        pad_token_id = pad_token_id[0]
    trainer = LengthGroupedTrainer(
        model=model,
        args=_arguments(training, device, checkpoints, logging_steps, len(train)),
        data_collator=partial(collate, pad_token_id=pad_token_id or 0),
        train_dataset=train,
        eval_dataset=validation,
        callbacks=trainer_callbacks(result, training.checkpoint_minutes, log),
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = complete_checkpoint(checkpoints)
    result.resumed_from = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    result.steps = trainer.state.global_step
    save_adapter(model, output, base.id)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return result


def adapted_model(base: LocalModel, lora: LoraSettings, device: str, training: TrainingSettings) -> "PeftModel":
    """Load a base model and lay a fresh adapter over it.

    Raises:
        MedcodeError: a target module names no layer of the model.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        base.path,
        dtype=torch.bfloat16 if device == "cuda" else torch.float32,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    model.config.use_cache = False
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    targets: str | list[str] = lora.target_modules if lora.target_modules != ["all-linear"] else "all-linear"
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError:
        raise MedcodeError(
            f"lora.target_modules {lora.target_modules}: no such layers in base model {base.id!r}; use [all-linear]"
        ) from None


def _arguments(
    training: TrainingSettings, device: str, checkpoints: Path, logging_steps: int, examples: int
) -> "TrainingArguments":
    from transformers import TrainingArguments

    steps = training.epochs * examples / (training.batch_size * training.gradient_accumulation)
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=training.epochs,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule,
        warmup_steps=round(training.warmup_ratio * steps),
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=training.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        seed=training.seed,
        bf16=device == "cuda",
        use_cpu=device == "cpu",
        remove_unused_columns=False,
        eval_strategy="epoch",
        prediction_loss_only=True,  # logits over the whole vocabulary are never gathered
        logging_steps=logging_steps,
        logging_nan_inf_filter=False,  # a NaN must be seen, not averaged away
        save_strategy="no",  # callbacks save by the clock
        save_total_limit=2,
        disable_tqdm=True,  # callbacks show one bar
        dataloader_pin_memory=device == "cuda",
        report_to="none",
        label_names=["labels"],
    )


def save_adapter(model: "PeftModel", output: Path, base_id: str) -> None:
    """Write an adapter folder aside and rename it; it names its base by id, never by a path of this machine."""
    aside = output.with_name(f".{output.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    # "auto" would look the base up on the hub; an adapter of linear layers never holds embeddings.
    model.save_pretrained(str(aside), safe_serialization=True, save_embedding_layers=False)
    config_file = aside / "adapter_config.json"
    config = json.loads(config_file.read_text())
    config_file.write_text(json.dumps({**config, "base_model_name_or_path": base_id}, indent=2, sort_keys=True))
    (aside / "README.md").unlink(missing_ok=True)  # PEFT's empty model-card template
    replace_folder(aside, output)


def loss_summary(result: TrainingResult) -> dict[str, Any]:
    """Return the numbers of a training that belong in metadata."""
    return {
        "steps": result.steps,
        "trainable_parameters": result.trainable_parameters,
        "device": result.device,
        "resumed_from_step": result.resumed_from,
        "first_loss": result.losses[0][1] if result.losses else None,
        "last_loss": result.losses[-1][1] if result.losses else None,
        "validation_loss": result.validation_losses[-1][1] if result.validation_losses else None,
    }
