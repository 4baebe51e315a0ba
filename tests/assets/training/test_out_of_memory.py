"""Memory that really runs out: a process whose address space is limited in the middle of a training."""

import subprocess
import sys
from pathlib import Path

import pytest

from medcode_assets.training.job import read_result
from medcode_assets.training.loop import train
from tests import tiny

from .jobs import make_job, tiny_base

LIMITED = """
import logging, resource, sys
from pathlib import Path
import psutil, torch
from medcode_assets.training.loop import train
from medcode_serving.errors import MedcodeError

logging.basicConfig(format="%(message)s")
torch.set_num_threads(1)

def limit(step, metrics):
    if step == 1:
        room = psutil.Process().memory_info().vms + int(sys.argv[2])
        resource.setrlimit(resource.RLIMIT_AS, (room, room))

try:
    train(Path(sys.argv[1]), limit)
except MedcodeError as error:
    sys.exit(str(error))
"""


def limited(folder: Path, megabytes: int) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-c", LIMITED, str(folder), str(megabytes * 2**20)]
    root = Path(__file__).resolve().parents[3]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=350, cwd=root)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of the address space are Linux's")
def test_when_memory_runs_out_rows_are_halved_and_the_result_is_the_same(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base", tiny.qwen2(32_000, seed=0, eos_token_id=1, pad_token_id=0))
    examples = [
        {"prompt_ids": [5 + index, 9], "completion_ids": [*range(1000 + index, 1128 + index), 1]} for index in range(16)
    ]  # 8 x 129 labels x 32,000 logits in fp32 are 132 MB, several times over
    settings = {"epochs": 1, "batch_size": 8}
    plenty = train(make_job(tmp_path / "plenty", base, examples, [], lora={"dropout": 0.0}, training=settings))
    assert plenty.batch_size == 8
    folder = make_job(tmp_path / "little", base, examples, [], lora={"dropout": 0.0}, training=settings)
    ended = limited(folder, 250)
    assert ended.returncode == 0, ended.stderr
    assert "out of memory: a step's examples go into 2 rows from here on instead of 1" in ended.stderr
    little = read_result(folder)
    assert little.batch_size < 8
    assert [loss for _, loss in little.losses] == pytest.approx([loss for _, loss in plenty.losses], abs=1e-5)

    nothing = limited(make_job(tmp_path / "nothing", base, examples, [], training=settings), 5)
    assert nothing.returncode == 1
    assert "out of memory with one example of 131 tokens at a time; lower data.max_prompt_tokens" in nothing.stderr
