"""Micro F1 while training, on the embedded model: in the arithmetic of the training, and bounded."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medcode_assets.training.job import CODES, METRIC
from medcode_assets.training.loop import train
from medcode_serving.base_models import resolve_base_model

from .jobs import make_job, write_examples


@pytest.mark.parametrize(("mode", "precision"), [("lora", "fp32"), ("lora", "bf16"), ("full", "bf16")])
def test_it_is_measured_at_each_look(tmp_path: Path, mode: str, precision: str) -> None:
    base = resolve_base_model("embedded", tmp_path)
    examples = [{"prompt_ids": [50 + index, 60, 70], "completion_ids": [80, 0]} for index in range(8)]
    folder = make_job(
        tmp_path / "job",
        base,
        examples,
        training={"mode": mode, "epochs": 1},
        compute={"precision": precision},
        max_codes=2,
    )
    write_examples(folder / METRIC, [{"prompt_ids": [50, 60], "gold": [0]}, {"prompt_ids": [51, 60], "gold": [1, 7]}])
    columns = {"system": ["icd10cm"] * 2, "code": ["I10", "E11.9"], "text": ["I10", "E11.9"], "description": ["", ""]}
    pq.write_table(pa.table({**columns, "frequency": [3, 2]}), folder / CODES)
    look = train(folder).validation[-1][1]
    assert 0 <= look["micro_f1"] <= 1
    assert look["micro_f1_notes"] == 2


def test_without_notes_nothing_is_measured(tmp_path: Path) -> None:
    base = resolve_base_model("embedded", tmp_path)
    examples = [{"prompt_ids": [50, 60], "completion_ids": [80, 0]}]
    folder = make_job(tmp_path / "job", base, examples, training={"epochs": 1}, max_codes=2)
    write_examples(folder / METRIC, [])
    assert "micro_f1" not in train(folder).validation[-1][1]
