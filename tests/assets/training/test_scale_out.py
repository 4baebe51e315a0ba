"""Trainings in several processes, as torchrun really starts them: gloo workers on this machine's CPU."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from medcode_assets.resources.compute import Compute
from medcode_assets.training import launch
from medcode_assets.training.job import TrainingResult, read_job
from medcode_assets.training.launch import Subprocesses, launched_training, torchrun_command
from medcode_assets.training.loop import train
from medcode_assets.training.settings import ComputeSettings
from medcode_serving.base_models import LocalModel
from medcode_serving.errors import MedcodeError
from tests.assets.training.jobs import LEARNABLE, make_job, tiny_base, weights

ROOT = Path(__file__).parents[3]
# One more than comes out even: an epoch's last step has one example, and one of two processes has none.
EXAMPLES = [*LEARNABLE, LEARNABLE[0]]
OFTEN = 1e-6
"""Minutes between checkpoints: one at each step."""
ADAPTER: dict[str, Any] = {
    "training": {"epochs": 2, "batch_size": 4, "gradient_accumulation": 2, "checkpoint_minutes": OFTEN}
}
"""Two rows a step; with dropout."""
WHOLE: dict[str, Any] = {
    "training": {"epochs": 2, "mode": "full", "learning_rate": 1e-3, "checkpoint_minutes": OFTEN},
    "lora": {"dropout": 0},
}
"""All weights; one row a step for one process, two for two."""


@dataclass(frozen=True)
class Trained:
    folder: Path
    result: TrainingResult

    @property
    def losses(self) -> list[float]:
        return [loss for _, loss in self.result.losses]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def dagster_run(base: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, list[str]]:
    """Two processes started by an asset, and what its event log says."""
    folder = make_job(tmp_path_factory.mktemp("dagster"), base, EXAMPLES, compute={"processes": 2}, **ADAPTER)
    told: list[int] = []

    @dg.asset
    def adapter(context: dg.AssetExecutionContext, compute: Compute) -> dg.MaterializeResult:
        result = compute.train(context, folder, lambda step, _: told.append(step))
        return dg.MaterializeResult(metadata={"steps": result.steps, "told": len(told)})

    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize([adapter], instance=instance, resources={"compute": Compute(device="cpu", processes=2)})
        lines = [entry.user_message for entry in instance.all_logs(run.run_id)]
    (event,) = run.asset_materializations_for_node("adapter")
    assert event.metadata["steps"].value == 10
    assert {*range(1, 11)} == set(told)
    return Trained(folder, launch.read_result(folder)), lines


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchrun start `watched_worker.py`."""

    def command(folder: Path, compute: ComputeSettings) -> list[str]:
        *torchrun, _, _, folder_name = torchrun_command(folder, compute)
        return [*torchrun, str(Path(__file__).with_name("watched_worker.py")), folder_name]

    monkeypatch.setattr(launch, "torchrun_command", command)


def in_one_process(folder: Path, base: LocalModel, settings: Mapping[str, Any]) -> Trained:
    return Trained(folder, train(make_job(folder, base, EXAMPLES, **settings)))


def in_two(folder: Path, base: LocalModel, settings: Mapping[str, Any], **compute: Any) -> Trained:
    make_job(folder, base, EXAMPLES, compute={"processes": 2, **compute}, **settings)
    return Trained(folder, launched_training(folder, read_job(folder).compute, Subprocesses()))


def farthest(one: Path, other: Path) -> float:
    """Return the greatest difference of any weight."""
    from safetensors.torch import load_file

    (first,), (second,) = ((folder / "weights").glob("*.safetensors") for folder in (one, other))
    left, right = load_file(first), load_file(second)
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def test_two_processes_take_the_same_steps_as_one(
    base: LocalModel, dagster_run: tuple[Trained, list[str]], tmp_path: Path
) -> None:
    one, two = in_one_process(tmp_path, base, ADAPTER), dagster_run[0]
    assert (one.result.processes, two.result.processes) == (1, 2)
    assert two.losses == pytest.approx(one.losses, abs=1e-5)
    assert two.result.validation[-1][1]["loss"] == pytest.approx(one.result.validation[-1][1]["loss"], abs=1e-5)
    assert farthest(one.folder, two.folder) < 1e-5


def test_progress_is_in_the_event_log(dagster_run: tuple[Trained, list[str]]) -> None:
    trained, lines = dagster_run
    for step, loss in trained.result.losses:
        assert any(line.startswith(f"step {step}: loss {loss:.4g}, ") for line in lines)
    assert any(line.startswith("trained 10 steps with 2 processes on cpu: ") for line in lines)


@pytest.mark.usefixtures("watched")
def test_a_killed_process_is_restarted_and_ends_in_the_same_weights(
    base: LocalModel, dagster_run: tuple[Trained, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILL_STEP", "5")
    killed = in_two(tmp_path, base, ADAPTER, max_restarts=1)
    assert killed.result.resumed_from == 5
    assert killed.losses == dagster_run[0].losses
    assert weights(killed.folder) == weights(dagster_run[0].folder)


@pytest.mark.usefixtures("watched")
def test_a_shared_out_model_is_held_by_halves_and_trained_as_a_whole_one(
    base: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARES", "1")
    monkeypatch.setenv("KILL_STEP", "5")
    whole = in_one_process(tmp_path / "whole", base, WHOLE)
    shared = in_two(tmp_path / "shared", base, WHOLE, sharding="full", max_restarts=1)
    first, second = (json.loads((shared.folder / f"shares-{rank}.json").read_text()) for rank in (0, 1))
    assert len(first) == 26
    for name, (held, all_of_it) in first.items():
        assert held * 2 == all_of_it and second[name] == [held, all_of_it], name
    assert (shared.result.resumed_from, shared.result.steps) == (5, 10)
    assert shared.result.trainable_parameters == whole.result.trainable_parameters
    assert shared.losses == pytest.approx(whole.losses, abs=1e-5)
    assert farthest(whole.folder, shared.folder) < 1e-5


def test_a_mistake_is_one_line_and_is_made_once(
    base: LocalModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_job(tmp_path, base, EXAMPLES, lora={"target_modules": ["nope"]})
    (tmp_path / "result.json").write_text(TrainingResult().model_dump_json())  # of an earlier start
    with pytest.raises(MedcodeError, match=r"^lora\.target_modules \['nope'\]: PEFT lays no such adapter"):
        launched_training(tmp_path, ComputeSettings(max_restarts=3), Subprocesses())
    assert capfd.readouterr().err.count("Loading weights") <= 1
