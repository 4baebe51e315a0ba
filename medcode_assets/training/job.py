"""One training as a folder: everything that it needs, and everything that it leaves.

    job.json          what is trained, from what, how
    train.arrow       tokens; validation.arrow likewise
    metric.arrow      notes and gold whose micro F1 is measured on the way, and codes.parquet, if any
    train.npy         log-probabilities of its pairs under the untrained model (DPO); validation.npy likewise
    checkpoints/      the last one and the best weights
    weights/          what came out
    result.json       how it went
    error.txt         what the user can mend, if it failed in a process of its own

So a training can run in this process, in processes that torchrun starts, or on another machine that sees the folder.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.training.settings import ComputeSettings, LoraSettings, PreferenceSettings, TrainingSettings
from medcode_serving.base_models import LocalModel
from medcode_serving.errors import MedcodeError

JOB, RESULT, ERROR = "job.json", "result.json", "error.txt"
TRAIN, VALIDATION, METRIC, CODES = "train.arrow", "validation.arrow", "metric.arrow", "codes.parquet"
CHECKPOINTS, WEIGHTS = "checkpoints", "weights"


class TrainingJob(BaseModel):
    """What is trained, from what, how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    objective: Literal["sft", "dpo"] = "sft"
    base_model: str = Field(description="Id of the base model.")
    base_path: Path = Field(description="Its folder on this machine.")
    base_revision: str
    trained_tokens: tuple[int, ...] = Field(
        default=(), description="Tokens whose embeddings are trained with the adapter: those added to the tokenizer."
    )
    fingerprint: str = Field(description="Of data, base and settings: a checkpoint of another one is not gone on from.")
    compute: ComputeSettings = ComputeSettings()
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    preference: PreferenceSettings = PreferenceSettings()
    logging_steps: int = Field(default=10, ge=1)
    max_codes: int = Field(default=0, ge=0, description="Codes of an answer at most, where micro F1 is measured.")
    mlflow_uri: str | None = None
    mlflow_run: str | None = None

    @property
    def base(self) -> LocalModel:
        """The base model."""
        return LocalModel(self.base_model, self.base_path, self.base_revision)


class TrainingResult(BaseModel):
    """How a training went."""

    steps: int = 0
    trainable_parameters: int = 0
    mode: str = "lora"
    """What was done: lora in the place of qlora where bitsandbytes is missing."""
    device: str = "cpu"
    precision: str = "fp32"
    attention: str = "packed"
    processes: int = 1
    losses: list[tuple[int, float]] = []
    """(step, mean training loss since the last entry)"""
    validation: list[tuple[int, dict[str, float]]] = []
    """(step, loss and metrics on the validation split)"""
    best_step: int | None = None
    stopped_early: bool = False
    resumed_from: int = 0
    """Step of the checkpoint that the last start went on from; 0: from the beginning."""
    batch_size: int = 0
    """Examples computed together at the end: fewer than asked for if memory ran out."""
    tokens_per_second: float = 0.0
    """Real tokens, padding left out, forward and backward, since the last start."""
    padding_share: float = 0.0
    peak_memory_gb: float = 0.0
    """Of this process (CPU) or of the device (CUDA), GiB."""


def write_job(folder: Path, job: TrainingJob) -> None:
    """Write job.json aside and rename it."""
    _write(folder / JOB, job.model_dump_json(indent=2))


def read_job(folder: Path) -> TrainingJob:
    """Read job.json. Raises MedcodeError if there is none."""
    try:
        return TrainingJob.model_validate_json((folder / JOB).read_text())
    except (OSError, ValueError) as error:
        raise MedcodeError(f"{folder / JOB}: no training job ({type(error).__name__})") from None


def write_result(folder: Path, result: TrainingResult) -> None:
    """Write result.json aside and rename it."""
    _write(folder / RESULT, result.model_dump_json(indent=2))


def read_result(folder: Path) -> TrainingResult:
    """Read result.json. Raises MedcodeError with error.txt's line if the training failed."""
    if (folder / ERROR).exists():
        raise MedcodeError((folder / ERROR).read_text().strip())
    try:
        return TrainingResult.model_validate_json((folder / RESULT).read_text())
    except (OSError, ValueError) as error:
        raise MedcodeError(f"{folder / RESULT}: the training left no result ({type(error).__name__})") from None


def forget_outcome(folder: Path) -> None:
    """Delete what an earlier start left of how it went: it must not pass for the outcome of this one."""
    for name in (ERROR, RESULT):
        (folder / name).unlink(missing_ok=True)


def finished(folder: Path) -> bool:
    """Whether a folder holds what a training came to, which nobody fetched yet."""
    return (folder / RESULT).exists() and (folder / WEIGHTS).exists()


def _write(file: Path, text: str) -> None:
    aside = file.with_suffix(".part")
    aside.write_text(text)
    aside.replace(file)
