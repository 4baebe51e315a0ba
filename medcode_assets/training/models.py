"""The model that is trained: base and adapter, on their device, in their precision."""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.artifacts import replace_folder
from medcode_assets.training.attention import PACKED, can_pack, register_packed_attention
from medcode_assets.training.job import TrainingJob
from medcode_assets.training.settings import LoraSettings, TrainingSettings
from medcode_assets.writing import refusing_unwritable
from medcode_serving.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    AdapterForm,
    load_adapter_weights,
    load_base_model,
    nf4_config,
    read_form,
    write_form,
)
from medcode_serving.base_models import LocalModel
from medcode_serving.device import resolve_device
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Precision:
    """Number formats of a training."""

    name: str
    """bf16, fp16 or fp32: of the arithmetic."""

    @property
    def compute(self) -> "torch.dtype":
        """Format of products and sums."""
        import torch

        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[self.name]

    def weights(self, mode: str) -> "torch.dtype":
        """Format of the base's weights: those that are trained themselves stay in fp32, or small steps would vanish."""
        import torch

        return torch.float32 if mode == "full" else self.compute


def resolve_precision(wanted: str, device: str) -> Precision:
    """Return the precision of a device. Raises MedcodeError if it cannot compute in the one that is wanted."""
    import torch

    if wanted == "auto":
        if device != "cuda":
            return Precision("fp32")
        return Precision("bf16" if torch.cuda.is_bf16_supported() else "fp16")
    if wanted == "bf16" and device == "cuda" and not torch.cuda.is_bf16_supported():
        raise MedcodeError("compute.precision bf16: this GPU has no bf16; set auto or fp16")
    if wanted == "fp16" and device != "cuda":
        raise MedcodeError(f"compute.precision fp16: not on {device!r}; set auto, bf16 or fp32")
    return Precision(wanted)


def effective_mode(training: TrainingSettings) -> str:
    """Return the mode that can be had here: without bitsandbytes, qlora is lora, and says so."""
    if training.mode == "qlora" and find_spec("bitsandbytes") is None:
        logger.warning(
            "training.mode qlora needs bitsandbytes, which is not installed (pip install medcode[qlora]): "
            "training LoRA over the unquantised base instead, which needs about four times the memory for its weights"
        )
        return "lora"
    return training.mode


def load_trainable(job: TrainingJob, device: str, precision: Precision) -> "PreTrainedModel":
    """Load the base model and lay a fresh adapter over it, or the one that `training.start_from` names.

    Raises:
        MedcodeError: the device, a target module or the adapter is not there, or the adapter has another base.
    """
    import torch

    training, mode = job.training, effective_mode(job.training)
    register_packed_attention()
    options: dict[str, Any] = {"attn_implementation": own_attention(training)}
    if mode == "qlora":
        options |= {"quantization_config": nf4_config(precision.compute), "device_map": {"": device}}
    dtype = str(precision.weights(mode)).removeprefix("torch.")
    model: Any = load_base_model(job.base_path, dtype, **options)
    model.config.use_cache = False
    if packs(training, model):
        model.set_attn_implementation(PACKED)
    if training.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if mode == "qlora":
        keep_trainable_layout(model)
    if mode != "full":
        model = adapted(model, job.base, job.lora, training, job.trained_tokens)
    model.train()
    return model if mode == "qlora" else model.to(torch.device(device))


def keep_trainable_layout(model: Any) -> None:
    """Keep 4-bit weights as training needs them.

    On CPUs with AVX512-BF16, bitsandbytes packs them anew for inference at the first look at the validation split, and
    the packed kernel has no gradient: the next step fails.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def own_attention(training: TrainingSettings) -> str | None:
    """Return the attention of padded rows: the one asked for, or else transformers' choice for the model."""
    return training.attention if training.attention in ("sdpa", "eager") else None


def packs(training: TrainingSettings, model: "PreTrainedModel") -> bool:
    """Whether training uses packed rows; says why not, where one would expect it.

    Raises:
        MedcodeError: packed rows are asked for, and have not been shown right for this kind of model.
    """
    possible = can_pack(model.config)
    if training.attention == "packed" and not possible:
        raise MedcodeError(
            f"training.attention packed: not shown to be right for models of type {model.config.model_type!r}; "
            "set auto or sdpa"
        )
    if training.attention == "auto" and not possible:
        logger.warning(
            "packed rows have not been shown right for models of type %r: training with padded rows, which is slower",
            model.config.model_type,
        )
    return possible and training.attention in ("auto", "packed")


def adapted(
    model: "PreTrainedModel",
    base: LocalModel,
    lora: LoraSettings,
    training: TrainingSettings,
    trained_tokens: Sequence[int] = (),
) -> Any:
    """Lay an adapter over a base model. Raises MedcodeError as `load_trainable`."""
    from peft import get_peft_model, prepare_model_for_kbit_training

    if getattr(model, "is_loaded_in_4bit", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    try:
        tokens = _token_embeddings(model, trained_tokens) if trained_tokens else None
        adapted_model = get_peft_model(model, lora_config(lora, tokens))
    except ValueError as error:
        raise MedcodeError(
            f"lora.target_modules {lora.target_modules}: PEFT lays no such adapter over base model {base.id!r} "
            f"({str(error).splitlines()[0]}); use [all-linear], or other settings of section lora"
        ) from None
    for name in lora.target_modules:
        targeted = adapted_model.targeted_module_names
        if name != "all-linear" and not any(f".{target}".endswith(f".{name}") for target in targeted):
            raise MedcodeError(f"lora.target_modules: no layer {name} in base model {base.id!r}; use [all-linear]")
    for module in adapted_model.modules():
        # PEFT would copy each layer's input to fp32 for the adapter's fp32 weights; autocast brings them together.
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False
    if training.start_from is not None:
        _start_from(adapted_model, Path(training.start_from), base)
    return adapted_model


def _token_embeddings(model: "PreTrainedModel", tokens: Sequence[int]) -> dict[str, list[int]]:
    """Return the tokens to train by the name of the layer that has a row for each."""
    layers = [model.get_input_embeddings()]
    if not model.config.get_text_config().tie_word_embeddings:
        layers.append(model.get_output_embeddings())
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    return {names[id(layer)]: list(tokens) for layer in layers}


def lora_config(lora: LoraSettings, trained_tokens: dict[str, list[int]] | None = None) -> Any:
    """Return PEFT's configuration of an adapter; tokens whose embeddings it trains by the name of their layer."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules if lora.target_modules != ["all-linear"] else "all-linear",
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        trainable_token_indices=trained_tokens,
        task_type="CAUSAL_LM",
    )


def _start_from(model: Any, adapter: Path, base: LocalModel) -> None:
    """Load an adapter's weights into the fresh one."""
    from safetensors import SafetensorError

    refuse_other_base(adapter, base)
    try:
        load_adapter_weights(model, adapter)
    except (ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise MedcodeError(
            f"training.start_from {adapter}: the adapter has not the shape of section lora ({reason})"
        ) from None


def refuse_other_base(adapter: Path, base: LocalModel) -> None:
    """Raise MedcodeError unless a folder holds an adapter that was trained over this base model."""
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        raise MedcodeError(f"training.start_from {adapter}: no {ADAPTER_WEIGHTS} there; name an adapter's folder")
    form = read_form(adapter)
    if form.base_revision and form.base_revision != base.revision:
        raise MedcodeError(
            f"training.start_from {adapter}: trained over base model {form.base_model!r} "
            f"({form.base_revision[:12]}), not over {base.id!r} ({base.revision[:12]})"
        )


def save_weights(model: Any, output: Path, job: TrainingJob, mode: str, state: "dict[str, torch.Tensor]") -> None:
    """Write what was trained to a folder, safetensors only, aside and renamed.

    Args:
        model: As `load_trainable` gives it.
        output: Folder to write: a PEFT adapter, or after full fine-tuning a model without its tokenizer.
        job: The training.
        mode: `effective_mode`.
        state: The trained weights by name, on the CPU.

    Raises:
        MedcodeError: the disk is full or the folder cannot be written.
    """
    aside = output.with_name(f".{output.name}.new")
    with refusing_unwritable(output):
        shutil.rmtree(aside, ignore_errors=True)
        if mode == "full":
            model.config.use_cache = True  # off in training only
            model.save_pretrained(str(aside), state_dict=state, safe_serialization=True)
            (aside / "generation_config.json").unlink(missing_ok=True)
        else:
            # "auto" would look the base up on the hub; an adapter of linear layers never holds embeddings.
            model.save_pretrained(str(aside), state_dict=state, safe_serialization=True, save_embedding_layers=False)
            _name_base_by_id(aside / ADAPTER_CONFIG, job.base_model)
            (aside / "README.md").unlink(missing_ok=True)  # PEFT's empty model-card template
        write_form(aside, AdapterForm(mode=mode, base_model=job.base_model, base_revision=job.base_revision))
        replace_folder(aside, output)


def _name_base_by_id(file: Path, base_id: str) -> None:
    """An adapter names its base by id, never by a path of this machine."""
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "base_model_name_or_path": base_id}, indent=2, sort_keys=True))


def training_device(wanted: str, local_rank: int) -> str:
    """Return the device of a process: on CUDA, the one of its rank on the machine."""
    device = resolve_device(wanted)
    return f"cuda:{local_rank}" if device == "cuda" else device
