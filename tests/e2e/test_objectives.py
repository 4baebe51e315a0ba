"""The other ways to train, on the embedded model and real tokens of the small job: each improves its own measure."""

from pathlib import Path

import pytest

from medcode_assets.recipes.fitting import write_training_data
from medcode_assets.training.job import METRIC, TRAIN, VALIDATION, TrainingJob, write_job
from medcode_assets.training.loop import train
from medcode_assets.training.token_file import write_tokens
from medcode_assets.warehouse import open_warehouse
from medcode_serving.base_models import resolve_base_model

from .conftest import Job

SETTINGS = {"batch_size": 16, "gradient_accumulation": 1, "gradient_checkpointing": False, "epochs": 0.5}


def job(tmp_path: Path, **settings: object) -> TrainingJob:
    base = resolve_base_model("embedded", tmp_path)
    return TrainingJob(
        recipe="icd",
        base_model=base.id,
        base_path=base.path,
        base_revision=base.revision,
        fingerprint="0",
        **settings,  # type: ignore[arg-type]
    )


def test_full_fine_tuning_predicts_more_codes_right(mimic_iv_job: Job, tmp_path: Path) -> None:
    """The untrained model is measured after one step, whose learning rate is that of the warm-up's beginning: 0."""
    found = {}
    for name, epochs in (("untrained", 0.01), ("trained", 0.5)):
        folder = tmp_path / name
        with open_warehouse(mimic_iv_job.home / "warehouse" / "small.duckdb", read_only=True) as con:
            write_training_data(con, "icd", folder, metric_documents=16)
        training = {**SETTINGS, "mode": "full", "learning_rate": 1e-3, "epochs": epochs, "warmup_ratio": 0.6}
        write_job(folder, job(tmp_path, training=training, max_codes=8))
        found[name] = train(folder).validation[-1][1]
    assert found["trained"]["loss"] < 0.8 * found["untrained"]["loss"]
    assert found["trained"]["micro_f1"] > found["untrained"]["micro_f1"]


def test_dpo_prefers_the_right_answers_of_notes_it_has_not_seen(mimic_iv_job: Job, tmp_path: Path) -> None:
    pairs = """
        SELECT a.example_id, a.prompt_ids, a.completion_ids AS chosen_ids, b.completion_ids AS rejected_ids
        FROM icd.tokens AS a JOIN icd.tokens AS b ON b.example_id = (
            SELECT min(c.example_id) FROM icd.tokens AS c
            WHERE c.example_id > a.example_id AND c.completion_ids <> a.completion_ids)
        WHERE a.split = ? ORDER BY a.example_id LIMIT 96
    """
    with open_warehouse(mimic_iv_job.home / "warehouse" / "small.duckdb", read_only=True) as con:
        for file, split in ((TRAIN, "train"), (VALIDATION, "validation")):
            write_tokens(con, pairs, tmp_path / file, [split])
    assert not (tmp_path / METRIC).exists()
    training = {**SETTINGS, "batch_size": 8, "epochs": 1, "evaluations_per_epoch": 2, "learning_rate": 1e-3}
    write_job(tmp_path, job(tmp_path, objective="dpo", training=training, logging_steps=1))
    result = train(tmp_path)
    assert result.losses[0][1] == pytest.approx(0.6931, abs=1e-3)
    last = result.validation[-1][1]
    assert last["loss"] < 0.5
    assert last["reward_accuracy"] > 0.85
