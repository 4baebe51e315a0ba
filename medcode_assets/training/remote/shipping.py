"""What leaves this machine for a training: the job, its tokens and the base model, and the sha256 of each.

    shipped-job.json   the job, with no folder, server or run of this machine in it
    shipment.json      sha256 by name
    train.arrow, ...   as in the training's folder
    base/              weights, configuration and tokenizer of the base model
    start_from/        the adapter that training starts from, if any
    checkpoints/       if it was begun on this machine

Tokens of notes are notes: whoever has the tokenizer reads them.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from medcode_assets.training.job import (
    CHECKPOINTS,
    CODES,
    METRIC,
    TRAIN,
    VALIDATION,
    TrainingJob,
    read_job,
    write_job,
)
from medcode_assets.training.models import effective_mode
from medcode_assets.writing import refusing_unwritable
from medcode_serving.bundle import file_sha256
from medcode_serving.errors import MedcodeError

SHIPPED_JOB, SHIPMENT = "shipped-job.json", "shipment.json"
BASE, START_FROM = "base", "start_from"
SCRATCH = ".remote"
"""Folder, in the training's own, of what is sent or was fetched and is no part of it."""
REFERENCE = (Path(TRAIN).with_suffix(".npy").name, Path(VALIDATION).with_suffix(".npy").name)
MODEL_SUFFIXES = {".json", ".safetensors", ".txt", ".model", ".jinja", ".tiktoken"}
"""No pickles, and no other form of the same weights."""


@dataclass(frozen=True)
class Shipment:
    """Files to send: where each is on this machine, by its name there."""

    files: dict[str, Path]


def pack(folder: Path, *, with_checkpoints: bool) -> Shipment:
    """Return what the training in a folder needs elsewhere.

    Args:
        folder: Of the training; `.remote/` in it gets what is written for the purpose.
        with_checkpoints: Send those of this machine: not where there are later ones already.

    Raises:
        MedcodeError: a file is missing, or the folder cannot be written.
    """
    job = read_job(folder)
    files = {name: folder / name for name in (TRAIN, VALIDATION)}
    files |= {name: folder / name for name in (METRIC, CODES, *REFERENCE) if (folder / name).exists()}
    files |= _model_files(job.base_path, BASE, f"base model {job.base_model!r}")
    if job.training.start_from is not None:
        files |= _model_files(Path(job.training.start_from), START_FROM, "training.start_from")
    if with_checkpoints:
        kept = sorted((folder / CHECKPOINTS).rglob("*"))
        files |= {str(file.relative_to(folder)): file for file in kept if file.is_file()}
    written = folder / SCRATCH
    with refusing_unwritable(folder, "MEDCODE_HOME"):
        written.mkdir(exist_ok=True)
        (written / SHIPPED_JOB).write_text(shipped_job(job).model_dump_json(indent=2))
        files[SHIPPED_JOB] = written / SHIPPED_JOB
        sums = {name: file_sha256(file) for name, file in files.items()}
        (written / SHIPMENT).write_text(json.dumps(sums, indent=2))
    return Shipment({**files, SHIPMENT: written / SHIPMENT})


def shipped_job(job: TrainingJob) -> TrainingJob:
    """Return a job as another machine gets it: it neither launches anything further nor knows of this machine."""
    compute = job.compute.model_copy(update={"launcher": "local", "allowed_hosts": []})
    training = job.training.model_copy(
        update={
            # What can be had here is what the adapter's fingerprint says.
            "mode": effective_mode(job.training),
            "start_from": None if job.training.start_from is None else START_FROM,
        }
    )
    return job.model_copy(
        update={
            "base_path": Path(BASE),
            "compute": compute,
            "training": training,
            "mlflow_uri": None,
            "mlflow_run": None,
        }
    )


def unpack(folder: Path) -> TrainingJob:
    """Check what came and write job.json for it; on the other machine.

    Raises:
        MedcodeError: a file is missing or not as it was sent.
    """
    try:
        sums: dict[str, str] = json.loads((folder / SHIPMENT).read_text())
        damaged = [name for name, digest in sums.items() if file_sha256(folder / name) != digest]
    except (OSError, ValueError) as error:
        raise MedcodeError(f"the shipment came incomplete ({type(error).__name__}); start the asset again") from None
    if damaged:
        raise MedcodeError(f"{damaged[0]}: came damaged, with {len(damaged) - 1} others; start the asset again")
    job = TrainingJob.model_validate_json((folder / SHIPPED_JOB).read_text())
    start_from = None if job.training.start_from is None else str(folder.resolve() / START_FROM)
    training = job.training.model_copy(update={"start_from": start_from})
    located = job.model_copy(update={"base_path": folder.resolve() / BASE, "training": training})
    write_job(folder, located)
    return located


def _model_files(source: Path, name: str, what: str) -> dict[str, Path]:
    """Return a model's or adapter's files by their names there."""
    try:
        files = [file for file in sorted(source.iterdir()) if file.is_file() and file.suffix in MODEL_SUFFIXES]
    except OSError as error:
        raise MedcodeError(f"{what}: {source} cannot be read ({error.strerror}); materialize its asset again") from None
    return {f"{name}/{file.name}": file for file in files if not file.name.startswith(".")}
