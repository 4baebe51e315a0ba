"""The three forms of what training writes, and how each becomes a model that answers.

    adapter.json                 which form it is and which base model it belongs to (`AdapterForm`)
    adapter_config.json          lora, qlora: PEFT's description of the adapter
    adapter_model.safetensors    lora, qlora: its weights
    config.json, *.safetensors   full: a complete model; its tokenizer is the base model's

A folder without adapter.json is older than the file and holds a LoRA adapter.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medcode_serving.bundle import refuse_pickles
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from transformers import BitsAndBytesConfig, PreTrainedModel

FORM = "adapter.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MODEL_CONFIG = "config.json"

TRAIN_ANEW = "train it anew: medcode train"

Mode = Literal["lora", "qlora", "full"]


class AdapterForm(BaseModel):
    """The contents of adapter.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode = Field(description="lora: over the plain base; qlora: over the base in NF4; full: all weights.")
    base_model: str = Field(description="Id of the base model; empty: not recorded.")
    base_revision: str = Field(description="Its hub commit or fingerprint; empty: not recorded.")


BEFORE_FORMS = AdapterForm(mode="lora", base_model="", base_revision="")
"""What a folder without adapter.json is."""


def write_form(adapter: Path, form: AdapterForm) -> None:
    """Write adapter.json into an adapter folder."""
    (adapter / FORM).write_text(form.model_dump_json(indent=2) + "\n")


def read_form(adapter: Path) -> AdapterForm:
    """Read an adapter folder's adapter.json.

    Raises:
        MedcodeError: the file is there and is not what `write_form` writes.
    """
    file = adapter / FORM
    if not file.is_file():
        return BEFORE_FORMS
    try:
        return AdapterForm.model_validate_json(file.read_bytes())
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, problem["loc"])) or "no JSON object" for problem in error.errors())
        raise MedcodeError(f"{file}: missing or wrong: {wrong}; {TRAIN_ANEW}") from None


def nf4_config(compute_dtype: "torch.dtype") -> "BitsAndBytesConfig":
    """Return how mode qlora quantises its base model, in training and in loading: NF4, double quantisation.

    Args:
        compute_dtype: In which the 4-bit layers multiply.

    Raises:
        MedcodeError: a library that it needs is not installed.
    """
    # Without accelerate, transformers loads no quantised weights.
    if missing := [name for name in ("bitsandbytes", "accelerate") if find_spec(name) is None]:
        raise MedcodeError(f"mode qlora needs {' and '.join(missing)}; install it: pip install 'medcode[qlora]'")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def load_adapted_model(
    base: Path, adapter: Path | None, *, dtype: str, merge: bool, base_revision: str | None = None
) -> "PreTrainedModel":
    """Load a base model on the CPU, with its adapter, whatever form that has.

    Args:
        base: Folder of the base model: config.json and safetensors.
        adapter: Folder that training wrote; None for the untuned base.
        dtype: float32, bfloat16 or float16.
        merge: Whether a LoRA adapter is summed into the weights or stays beside them.
        base_revision: The base model's revision; an adapter that names another one is refused. None: not known.

    Raises:
        MedcodeError: weights are missing or no safetensors, adapter and base do not belong together, or
            bitsandbytes is needed and not installed.
    """
    if adapter is None:
        return load_base_model(base, dtype)
    form = check_adapter(adapter, base, base_revision)
    if form.mode == "full":
        return load_base_model(adapter, dtype, mend=TRAIN_ANEW)
    model = _load_dequantized(base, dtype) if form.mode == "qlora" else load_base_model(base, dtype)
    return with_adapter(model, base, adapter, merge=merge)


def check_adapter(adapter: Path, base: Path, base_revision: str | None) -> AdapterForm:
    """Return the form of an adapter folder that is complete and belongs to a base model.

    Args:
        adapter: Folder that training wrote.
        base: Folder of the base model.
        base_revision: Its revision; None: not known.

    Raises:
        MedcodeError: a file is missing or no safetensors, or the adapter names another base model.
    """
    refuse_pickles(adapter)
    form = read_form(adapter)
    if base_revision and form.base_revision not in ("", base_revision):
        raise MedcodeError(
            f"{adapter / FORM}: made for base model {form.base_model!r} at revision {form.base_revision[:12]}, "
            f"and the base model at {base} has {base_revision[:12]}; take that base model, or {TRAIN_ANEW}"
        )
    _refuse_incomplete(adapter, form.mode)
    return form


def _refuse_incomplete(adapter: Path, mode: Mode) -> None:
    # PEFT and transformers would ask the hub for a missing file.
    for name in (MODEL_CONFIG, "*.safetensors") if mode == "full" else (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not any(adapter.glob(name)):
            raise MedcodeError(f"{adapter / name}: missing, so this is no adapter of mode {mode}; {TRAIN_ANEW}")
    # Beside a PEFT description, transformers would load the base model that it names and not these weights.
    if mode == "full" and (adapter / ADAPTER_CONFIG).exists():
        raise MedcodeError(f"{adapter / ADAPTER_CONFIG}: has no place beside a model of mode full; {TRAIN_ANEW}")


def load_base_model(path: Path, dtype: str, *, mend: str = "fetch the model anew", **options: Any) -> "PreTrainedModel":
    """Load a model folder, safetensors only, and make sure that every weight is there.

    Args:
        path: Folder with config.json and *.safetensors.
        dtype: float32, bfloat16 or float16.
        mend: What to do where weights are missing.
        options: More of transformers' `from_pretrained`.

    Raises:
        MedcodeError: transformers cannot load it, or weights are missing or of another shape.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    model: Any
    report: dict[str, Any]
    try:
        model, report = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
            path,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, which is refused below
            **options,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise MedcodeError(
            f"{path}: no causal language model that transformers can load ({first_line(error)}); "
            "the folder needs config.json and *.safetensors"
        ) from error
    mismatched = (name for name, *_ in report["mismatched_keys"])
    if lost := sorted({*report["missing_keys"], *mismatched}):
        raise MedcodeError(
            f"{path}: {len(lost)} weights are missing or have another shape than config.json says, the first is "
            f"{lost[0]}; {mend}"
        )
    return model


def _load_dequantized(base: Path, dtype: str) -> "PreTrainedModel":
    """Load a base model with the rounding of NF4 in plain weights: those that a qlora adapter was trained over.

    Over the unrounded base its answers are off by a quarter, over these by next to nothing.
    """
    import torch

    quantised = load_base_model(
        base, dtype, quantization_config=nf4_config(getattr(torch, dtype)), device_map={"": "cpu"}
    )
    plain: PreTrainedModel = quantised.dequantize()
    return plain


def with_adapter(model: "PreTrainedModel", base: Path, adapter: Path, *, merge: bool) -> "PreTrainedModel":
    """Return a base model with its LoRA adapter, summed into the weights or beside them.

    Args:
        model: The base model; its tree of modules becomes the adapted model's.
        base: Where it was loaded from, for messages.
        adapter: Folder of the adapter.
        merge: Whether to sum it into the weights.

    Raises:
        MedcodeError: adapter and base do not belong together.
    """
    from peft import get_peft_model
    from safetensors import SafetensorError

    config = peft_config(adapter)
    try:
        peft_model = get_peft_model(model, config)
        load_adapter_weights(peft_model, adapter)
        adapted: Any = peft_model.merge_and_unload(safe_merge=True) if merge else peft_model.get_base_model()
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise MedcodeError(
            f"{adapter}: the adapter does not fit base model {base} ({first_line(error)}); "
            f"name the base model that it was trained on, or {TRAIN_ANEW}"
        ) from error
    return adapted


def load_adapter_weights(peft_model: Any, adapter: Path) -> None:
    """Load an adapter folder's weights over a model's fresh ones.

    Raises:
        ValueError, RuntimeError, SafetensorError: the file is damaged or holds other weights than the model has.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    # Wrong keys would load without an error and leave the adapter at its start: ask what was not matched.
    result: Any = set_peft_model_state_dict(peft_model, load_file(adapter / ADAPTER_WEIGHTS))
    parameters = dict(peft_model.named_parameters())  # one that tied modules share, once: as the file has it
    missing = [key for key in result.missing_keys if key in parameters and "default" in key.split(".")]
    if lost := sorted({*missing, *result.unexpected_keys}):
        raise ValueError(
            f"{len(missing)} weights missing, {len(result.unexpected_keys)} without a counterpart, {lost[0]} for one"
        )


def first_line(error: Exception) -> str:
    """Return what an error says on its first line; torch quotes every tensor's shape over many."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def peft_config(adapter: Path) -> "PeftConfig":
    """Read a LoRA adapter's adapter_config.json, for inference.

    Raises:
        MedcodeError: it is none that PEFT knows.
    """
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(str(adapter))
        if config.peft_type is None:
            raise ValueError("no peft_type")
    except (ValueError, TypeError, KeyError) as error:
        raise MedcodeError(
            f"{adapter / ADAPTER_CONFIG}: no adapter that PEFT knows ({type(error).__name__}); {TRAIN_ANEW}"
        ) from error
    config.inference_mode = True
    return config
