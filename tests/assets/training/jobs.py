"""Small trainings for tests: token files written through DuckDB, a random base model, a job folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcode_assets.training.job import TRAIN, VALIDATION, TrainingJob, write_job
from medcode_assets.training.token_file import write_tokens
from medcode_serving.base_models import LocalModel, folder_revision
from tests import tiny

Examples = Sequence[Mapping[str, list[int]]]
LEARNABLE: Examples = [
    {"prompt_ids": [5 + index % 7, 9, 11], "completion_ids": [20 + index % 7, 1]} for index in range(32)
]
PAIRS: Examples = [
    {
        "prompt_ids": [5 + index % 7, 9, 11],
        "chosen_ids": [20 + index % 7, 1],
        "rejected_ids": [20 + (index + 3) % 7, 30, 1],
    }
    for index in range(24)
]


def tiny_base(folder: Path, model: Any | None = None) -> LocalModel:
    """Save a random model and return it as a base."""
    (model or tiny.qwen2(64, seed=0, eos_token_id=1, pad_token_id=0)).save_pretrained(folder)
    return LocalModel("owner/tiny", folder, folder_revision(folder))


def write_examples(file: Path, examples: Examples) -> None:
    """Write examples with ids 100, 101, ... as a token file."""
    import duckdb

    names = list(examples[0]) if examples else ["prompt_ids", "completion_ids"]
    with duckdb.connect() as con:
        con.execute(f"CREATE TABLE t (example_id BIGINT, {', '.join(f'{name} INTEGER[]' for name in names)})")
        if examples:
            rows = [[100 + index, *example.values()] for index, example in enumerate(examples)]
            con.executemany(f"INSERT INTO t VALUES ({', '.join('?' * (len(names) + 1))})", rows)
        write_tokens(con, "SELECT * FROM t", file)


def make_job(
    folder: Path,
    base: LocalModel,
    train: Examples = LEARNABLE,
    validation: Examples | None = None,
    *,
    lora: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    compute: Mapping[str, Any] | None = None,
    **more: Any,
) -> Path:
    """Make the folder of a small training; a job that is there already keeps its files and gets the new settings."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / TRAIN).exists():
        write_examples(folder / TRAIN, train)
        write_examples(folder / VALIDATION, train[:8] if validation is None else validation)
    settings = {
        "epochs": 3,
        "learning_rate": 1e-2,
        "batch_size": 8,
        "gradient_accumulation": 1,
        "gradient_checkpointing": False,
    }
    job = TrainingJob(
        recipe="icd",
        base_model=base.id,
        base_path=base.path,
        base_revision=base.revision,
        fingerprint="0" * 64,
        lora={"r": 4, "alpha": 8, "dropout": 0.1, **(lora or {})},
        training={**settings, **(training or {})},
        compute={"device": "cpu", **(compute or {})},
        logging_steps=1,
        **more,
    )
    write_job(folder, job)
    return folder


def weights(folder: Path) -> bytes:
    """Return the bytes of what a training left."""
    (file,) = (folder / "weights").glob("*.safetensors")
    return file.read_bytes()
