"""What would end a training after hours, found before it starts."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_assets.training.job import TrainingJob
from medcode_assets.training.token_file import TokenFile
from medcode_assets.writing import refuse_little_disk, refusing_unwritable
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import torch

OPTIMIZER_COPIES = 3
"""A checkpoint holds the trained weights and AdamW's two moments of each."""


def refuse_unstartable(job: TrainingJob, folder: Path, data: TokenFile, validation: TokenFile) -> None:
    """Raise MedcodeError unless there are examples, none is too long, settings agree and the folder can be written."""
    if job.compute.sharding == "full" and (job.training.mode == "qlora" or job.compute.precision == "fp16"):
        raise MedcodeError(
            "compute.sharding full: not with training.mode qlora or compute.precision fp16, whose weights and scales "
            "cannot be shared out; set sharding to none"
        )
    if not len(data):
        raise MedcodeError(
            f"table {job.recipe}.tokens: no example in the train split; look at {job.recipe}/examples and "
            "data.systems, or take in more patients"
        )
    if not len(validation) and (job.training.early_stopping or job.training.keep == "best"):
        raise MedcodeError(
            f"table {job.recipe}.tokens: no example in the validation split, which training.early_stopping and "
            "training.keep best go by; take in more patients"
        )
    for tokens in (data, validation):
        _refuse_too_long(job, tokens)
    with refusing_unwritable(folder), tempfile.NamedTemporaryFile(dir=folder):
        pass


def _refuse_too_long(job: TrainingJob, tokens: TokenFile) -> None:
    try:
        positions = json.loads((job.base_path / "config.json").read_text()).get("max_position_embeddings")
    except OSError as error:
        raise MedcodeError(
            f"base model {job.base_model!r}: {error.filename} cannot be read ({error.strerror}); materialize "
            f"{job.recipe}/base_model again"
        ) from None
    lengths = sum((tokens.lengths[name] for name in tokens.columns), start=tokens.example_ids * 0)
    longest = int(lengths.argmax()) if len(tokens) else 0
    if positions is not None and len(tokens) and lengths[longest] > positions:
        raise MedcodeError(
            f"table {job.recipe}.tokens, example_id {tokens.example_ids[longest]}: {lengths[longest]} tokens, and base "
            f"model {job.base_model!r} has {positions} positions; lower data.max_prompt_tokens"
        )


def refuse_few_checkpoints(folder: Path, parameters: "dict[str, torch.nn.Parameter]") -> None:
    """Raise MedcodeError unless there is room for two checkpoints, the best weights and the final ones."""
    weights = sum(parameter.numel() * 4 for parameter in parameters.values())
    refuse_little_disk(folder, weights * (2 * OPTIMIZER_COPIES + 2), "checkpoints of this training")
