"""Checkpoints that are whole or not there, and are gone on from only by the training that made them.

    checkpoints/step-00000120/   weights.safetensors, optimizer.safetensors, manifest.json (written last)
    checkpoints/best/            weights.safetensors, manifest.json

A checkpoint needs neither random state nor the place in the data: both follow from the step.
"""

import json
import logging
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.training.job import CHECKPOINTS, TrainingResult
from medcode_assets.training.world import own_share, whole_tensor
from medcode_assets.writing import refusing_unwritable
from medcode_serving.bundle import file_sha256
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

WEIGHTS, OPTIMIZER, MANIFEST = "weights.safetensors", "optimizer.safetensors", "manifest.json"
BEST = "best"
LIBRARIES = ("torch", "transformers", "peft")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are all as they were written."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps that were done."""
        return int(self.manifest["step"])


def trained_state(parameters: "dict[str, torch.nn.Parameter]") -> "dict[str, torch.Tensor]":
    """Return the trained weights on the CPU; all processes must call it."""
    return {name: whole_tensor(parameter) for name, parameter in parameters.items()}


def load_trained_state(parameters: "dict[str, torch.nn.Parameter]", file: Path) -> None:
    """Load trained weights in place, one after the other: each process would hold all of them at once otherwise."""
    import torch
    from safetensors import safe_open

    with torch.no_grad(), safe_open(file, framework="pt") as stored:
        for name, parameter in parameters.items():
            parameter.copy_(own_share(stored.get_tensor(name), parameter))


def optimizer_state(optimizer: Any, parameters: "dict[str, torch.nn.Parameter]") -> "dict[str, torch.Tensor]":
    """Return AdamW's state as `<weight>|<quantity>`; all processes must call it."""
    return {
        f"{name}|{quantity}": whole_tensor(value)
        for name, parameter in parameters.items()
        for quantity, value in optimizer.state[parameter].items()
    }


def load_optimizer_state(optimizer: Any, parameters: "dict[str, torch.nn.Parameter]", file: Path) -> None:
    """Load AdamW's state in place."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as stored:
        for key in stored.keys():  # noqa: SIM118 - it is no mapping
            value = stored.get_tensor(key)
            name, _, quantity = key.rpartition("|")
            parameter = parameters[name]
            same_shape = value.shape == parameter.shape
            optimizer.state[parameter][quantity] = own_share(value, parameter) if same_shape else value


def save_checkpoint(
    folder: Path,
    files: "dict[str, dict[str, torch.Tensor]]",
    *,
    step: int,
    fingerprint: str,
    made_with: dict[str, str],
    result: TrainingResult,
    more: dict[str, Any],
) -> None:
    """Write a checkpoint aside, its manifest last, and rename it.

    Raises:
        MedcodeError: the disk is full or the folder cannot be written.
    """
    from safetensors.torch import save_file

    aside = folder.with_name(f".{folder.name}.new")
    with refusing_unwritable(folder):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for name, tensors in files.items():
            save_file(tensors, aside / name)
        manifest = {
            "step": step,
            "fingerprint": fingerprint,
            "made_with": made_with,
            "files": {name: file_sha256(aside / name) for name in files},
            "result": result.model_dump(),
            **more,
        }
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=2))
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)


def step_folder(job_folder: Path, step: int) -> Path:
    """Return the folder of the checkpoint after a step."""
    return job_folder / CHECKPOINTS / f"step-{step:08d}"


def drop_checkpoints(job_folder: Path) -> None:
    """Delete every checkpoint."""
    shutil.rmtree(job_folder / CHECKPOINTS, ignore_errors=True)


def drop_older(job_folder: Path, keep: Path) -> None:
    """Delete every checkpoint but this one and the best."""
    for folder in (job_folder / CHECKPOINTS).glob("step-*"):
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)


def newest_checkpoint(job_folder: Path, fingerprint: str) -> Checkpoint | None:
    """Return the newest checkpoint of this training whose files are as they were written, or None."""
    for folder in sorted((job_folder / CHECKPOINTS).glob("step-*"), reverse=True):
        if (checkpoint := _valid(folder, fingerprint)) is not None:
            return checkpoint
    return None


def best_checkpoint(job_folder: Path, fingerprint: str) -> Checkpoint | None:
    """Return the weights of the lowest validation loss, or None."""
    return _valid(job_folder / CHECKPOINTS / BEST, fingerprint)


def _valid(folder: Path, fingerprint: str) -> Checkpoint | None:
    if not folder.exists():
        return None
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["fingerprint"] != fingerprint:
            return None
        if all(file_sha256(folder / name) == digest for name, digest in manifest["files"].items()):
            return Checkpoint(folder, manifest)
    except (OSError, ValueError, KeyError):
        pass  # damaged, as below
    logger.warning("%s: damaged, so it is passed over", folder)
    return None


def made_with(device: str, precision: str, mode: str) -> dict[str, str]:
    """Return what else decides the numbers of a training: libraries, kind of device, precision, the mode in effect."""
    libraries = {name: version(name) for name in (*LIBRARIES, *(["bitsandbytes"] if mode == "qlora" else []))}
    return {**libraries, "device": device.partition(":")[0], "precision": precision, "mode": mode}


def refuse_other_makers(checkpoint: Checkpoint, now: dict[str, str]) -> None:
    """Raise MedcodeError if a checkpoint was made with other libraries or on another kind of device."""
    then = checkpoint.manifest["made_with"]
    changed = [f"{name} {then.get(name)} -> {value}" for name, value in now.items() if then.get(name) != value]
    if changed:
        raise MedcodeError(
            f"{checkpoint.folder}: this checkpoint was made with {', '.join(changed)}; the adapter would not be the "
            "same. Go on all the same with training.resume=force, or begin anew with training.resume=never"
        )
