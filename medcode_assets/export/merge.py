"""An adapter folded into its base model: one plain model folder that any tool can load."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_serving.bundle import refuse_pickles
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER_WEIGHTS = "adapter_model.safetensors"

# Copied as they are: transformers 5's `save_pretrained` of a tokenizer rewrites `tokenizer_class`, drops
# `add_bos_token` and tokenizer.model (seen, shared/field/gguf.md), and the GGUF's tokenizer is read from
# these files.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)


def merge_adapter(base: Path, adapter: Path, output: Path) -> Path:
    """Merge a PEFT adapter into its base model in fp32 and write a safetensors model folder.

    Args:
        base: Folder of the base model, safetensors, any float type; the sums are done in fp32, because
            merging in bf16 costs ten times the KL (shared/field/gguf.md).
        adapter: Folder of the adapter.
        output: Folder to write; it is written aside and renamed, and replaces what is there.

    Returns:
        `output`, with fp32 weights and the base's tokenizer files, byte for byte.

    Raises:
        MedcodeError: adapter or tokenizer missing, weights that are not safetensors, or an adapter of another
            base.
    """
    _refuse_incomplete(base, adapter)
    merged = _adapted_model(base, adapter).merge_and_unload(safe_merge=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        merged.save_pretrained(aside)
        for name in TOKENIZER_FILES:
            if (base / name).exists():
                shutil.copyfile(base / name, aside / name)
        aside.chmod(0o755)  # mkdtemp gives 0700
        if output.exists():
            shutil.rmtree(output)
        aside.rename(output)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return output


def _refuse_incomplete(base: Path, adapter: Path) -> None:
    for file in (adapter / "adapter_config.json", adapter / ADAPTER_WEIGHTS):
        if not file.exists():
            raise MedcodeError(f"{file}: missing, so this is no adapter folder; train one: medcode train")
    if not (base / "tokenizer.json").exists():
        raise MedcodeError(f"{base / 'tokenizer.json'}: missing; put the base model's tokenizer files there")
    refuse_pickles(adapter)


def _adapted_model(base: Path, adapter: Path) -> "PeftModel":
    """Load base and adapter in fp32 and make sure that every adapter weight found its place."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        os.fspath(base), dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    misfit = f"adapter {adapter} does not fit base model {base}; name the base model that it was trained on"
    try:
        adapted: PeftModel = PeftModel.from_pretrained(model, os.fspath(adapter), local_files_only=True)
    except (RuntimeError, ValueError) as error:  # shapes differ, or the target modules do not exist
        raise MedcodeError(f"{misfit} ({type(error).__name__})") from error
    _refuse_lost_weights(adapted, adapter, misfit)
    return adapted


def _refuse_lost_weights(adapted: "PeftModel", adapter: Path, misfit: str) -> None:
    """Raise if the adapter file and the loaded adapter name different weights: PEFT only warns about it."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(adapter / ADAPTER_WEIGHTS, framework="pt") as file:
        stored = set(file.keys())
    loaded = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if lost := sorted(stored ^ loaded):
        raise MedcodeError(f"{misfit} ({len(lost)} weights without a counterpart, {lost[0]} for one)")
