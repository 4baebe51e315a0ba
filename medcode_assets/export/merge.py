"""An adapter folded into its base model: one plain model folder that any tool can load."""

import shutil
import tempfile
from pathlib import Path

from medcode_serving.adapters import load_adapted_model
from medcode_serving.errors import MedcodeError

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


def merge_adapter(base: Path, adapter: Path, output: Path, *, base_revision: str | None = None) -> Path:
    """Merge an adapter into its base model in fp32 and write a safetensors model folder.

    A qlora adapter is merged into the base as NF4 rounds it; a model of mode full is complete and only converted.

    Args:
        base: Folder of the base model, safetensors, any float type; the sums are done in fp32, because
            merging in bf16 costs ten times the KL (shared/field/gguf.md).
        adapter: Folder of the adapter, in any form (`medcode_serving.adapters`).
        output: Folder to write; it is written aside and renamed, and replaces what is there.
        base_revision: Revision of the base model, which the adapter must name if it names one; None: not known.

    Returns:
        `output`, with fp32 weights and the base's tokenizer files, byte for byte.

    Raises:
        MedcodeError: adapter or tokenizer missing, weights that are not safetensors, an adapter of another base,
            or bitsandbytes is needed and not installed.
    """
    if not (base / "tokenizer.json").exists():
        raise MedcodeError(f"{base / 'tokenizer.json'}: missing; put the base model's tokenizer files there")
    merged = load_adapted_model(base, adapter, dtype="float32", merge=True, base_revision=base_revision)
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
