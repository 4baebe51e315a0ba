"""Trainings in detached processes, each in a copy of what was sent: the runner that any other machine runs, too."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from medcode_assets.resources.compute import Compute
from medcode_assets.training.job import TrainingResult, read_job, read_result
from medcode_assets.training.launch import WORKER, launched_training
from medcode_assets.training.loop import train
from medcode_assets.training.remote import following
from medcode_assets.training.remote.detached import SubprocessLauncher
from medcode_assets.training.remote.following import RemoteRun
from medcode_assets.training.remote.launchers import (
    COPIES,
    Handle,
    UnreachableError,
    end_remote_training,
    read_handle,
)
from medcode_assets.training.remote.shipping import SCRATCH, Shipment, pack
from medcode_assets.training.settings import ComputeSettings
from medcode_serving.base_models import LocalModel
from medcode_serving.errors import MedcodeError
from tests.assets.training.jobs import make_job, tiny_base, weights

ROOT = Path(__file__).parents[4]
HOURS = 0.1
DETACHED = ComputeSettings(device="cpu", launcher="subprocess", remote_hours=HOURS)

WAITING = (
    "import sys; from pathlib import Path\n"
    "from medcode_assets.training.settings import ComputeSettings\n"
    "from medcode_assets.training.launch import launched_training\n"
    "from medcode_assets.training.remote.following import RemoteRun\n"
    "from medcode_assets.training.remote.launchers import launcher_for\n"
    f"folder, compute = Path(sys.argv[1]), ComputeSettings(launcher='subprocess', remote_hours={HOURS})\n"
    "launched_training(folder, compute, RemoteRun(launcher_for(compute, folder)))\n"
)


class Counting(SubprocessLauncher):
    """Counts what is started."""

    poll_seconds = 0.05

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        super().__init__(folder / COPIES, HOURS, environment)
        self.submitted: list[Handle] = []

    def submit(self, handle: Handle, shipment: Shipment) -> str:
        self.submitted.append(handle)
        return super().submit(handle, shipment)


@pytest.fixture(autouse=True)
def one_thread_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    return tiny_base(tmp_path_factory.mktemp("base"))


def copies(folder: Path) -> list[Path]:
    return list((folder / COPIES).glob("*"))


def wait_for(what: Callable[[], Any], seconds: float = 300) -> Any:
    give_up = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < give_up
        time.sleep(0.005)
    return found


def runner_of(folder: Path) -> psutil.Process:
    """Return the process that holds the copy."""

    def pid() -> str:
        files = list((folder / COPIES).glob("*/attempt-*/pid"))
        return files[-1].read_text() if files else ""

    return psutil.Process(int(wait_for(pid)))


def worker_of(runner: psutil.Process) -> psutil.Process | None:
    """Return the process that trains; None: not yet begun."""
    with contextlib.suppress(psutil.Error):
        return next((child for child in runner.children() if WORKER in child.cmdline()), None)
    return None


def run(folder: Path, launcher: SubprocessLauncher, **more: Any) -> TrainingResult:
    return launched_training(folder, read_job(folder).compute, RemoteRun(launcher, **more))


def test_a_training_elsewhere_is_the_training_here(
    base: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through Dagster: the losses are in its event log while it runs, and the same bits come back."""
    here = train(make_job(tmp_path / "here", base))
    folder = make_job(tmp_path / "elsewhere", base)
    monkeypatch.setattr(SubprocessLauncher, "poll_seconds", 0.05)
    seen: list[str] = []
    job = (folder / "job.json").read_text()

    @dg.asset
    def adapter(context: dg.AssetExecutionContext, compute: Compute) -> dg.MaterializeResult:
        told: list[int] = []

        def tell(step: int, _: dict[str, float]) -> None:
            (copy,) = copies(folder)
            for place, _, names in os.walk(copy) if not told else ():  # which folders may leave while it looks
                seen.extend(str((Path(place) / name).relative_to(copy)) for name in names)
            seen.append((copy / "shipped-job.json").read_text())
            told.append(step)

        result = compute.train(context, folder, tell)
        return dg.MaterializeResult(metadata={"steps": result.steps, "told": len(told)})

    with dg.DagsterInstance.ephemeral() as instance:
        settings = Compute(device="cpu", launcher="subprocess", remote_hours=HOURS)
        done = dg.materialize([adapter], instance=instance, resources={"compute": settings})
        lines = [entry.user_message for entry in instance.all_logs(done.run_id)]
    result = read_result(folder)
    assert result.losses == here.losses and weights(folder) == weights(tmp_path / "here")
    (event,) = done.asset_materializations_for_node("adapter")
    assert event.metadata["steps"].value == 12 and int(str(event.metadata["told"].value)) == 12 + 3
    for step, loss in here.losses:
        assert any(line.startswith(f"step {step}: loss {loss:.4g}, ") for line in lines)
    assert any(line.startswith("trained 12 steps with 1 processes on cpu: ") for line in lines)
    assert not any("[pipes]" in line and "did not receive" in line for line in lines)

    # It had the base model and the tokens, knew of no folder here, and left nothing.
    assert {"base/model.safetensors", "train.arrow", "validation.arrow"} <= set(seen)
    assert str(base.path) in job and not any(str(base.path) in text or str(tmp_path) in text for text in seen)
    assert copies(folder) == [] and read_handle(folder) is None
    assert {file.name for file in folder.iterdir()} == {
        *("job.json", "train.arrow", "validation.arrow", "weights", "result.json")
    }


class Halted(Exception):
    """The training here was cut off."""


def halt_at_five(step: int, _: dict[str, float]) -> None:
    if step == 5:
        raise Halted


def test_killed_workers_and_waiters_lose_nothing(base: LocalModel, tmp_path: Path) -> None:
    """Begun here; elsewhere, the worker is killed, then the process that waits for the second attempt."""
    undisturbed = train(make_job(tmp_path / "here", base))
    folder = make_job(tmp_path / "job", base, training={"checkpoint_minutes": 1e-6})
    with pytest.raises(Halted):
        train(folder, halt_at_five)
    launcher = Counting(folder)
    killer = threading.Thread(target=lambda: wait_for(lambda: worker_of(runner_of(folder))).kill())
    killer.start()
    with pytest.raises(MedcodeError, match=r"attempt 1: failed with status -9 \(killed by SIGKILL\); starting again"):
        run(folder, launcher)
    killer.join()
    waiter = subprocess.Popen([sys.executable, "-c", WAITING, str(folder)], cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_for(lambda: (handle := read_handle(folder)) and handle.id and handle.attempt == 2)
    waiter.kill()
    waiter.wait()

    steps: list[int] = []
    result = run(folder, launcher, on_metrics=lambda step, _: steps.append(step))
    assert [handle.attempt for handle in launcher.submitted] == [1]
    # From the checkpoint that it began with, or a later one if the worker got so far before it was killed.
    assert result.resumed_from is not None and 4 <= result.resumed_from < 12
    assert sorted(set(steps)) == [*range(result.resumed_from + 1, 13)]
    assert result.losses == undisturbed.losses and weights(folder) == weights(tmp_path / "here")
    assert copies(folder) == [] and read_handle(folder) is None


LONG = {"epochs": 100_000}
"""More than any machine trains during a test."""


class Interrupted(Counting):
    """Raises at the first look at what it started."""

    def __init__(self, folder: Path, error: BaseException) -> None:
        super().__init__(folder)
        self.error: BaseException | None = error

    def running(self, handle: Handle) -> bool:
        if handle.id is not None and self.error is not None:
            error, self.error = self.error, None
            raise error
        return super().running(handle)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a listener's")])
def test_canceling_ends_the_process(base: LocalModel, tmp_path: Path, error: BaseException) -> None:
    folder = make_job(tmp_path / "job", base, training=LONG)
    launcher = Interrupted(folder, error)
    with pytest.raises(type(error)):
        run(folder, launcher, detach=isinstance(error, RuntimeError))  # which is no interrupt
    assert launcher.submitted and not launcher.running(launcher.submitted[0])
    assert copies(folder) == [] and read_handle(folder) is None


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UnreachableError("no answer")])
def test_what_is_detached_or_out_of_reach_goes_on(
    base: LocalModel, tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PATIENCE_SECONDS", 0)
    folder = make_job(tmp_path / "job", base, training=LONG)
    launcher = Interrupted(folder, error)
    with pytest.raises(type(error)):
        run(folder, launcher, detach=isinstance(error, KeyboardInterrupt))
    handle = read_handle(folder)
    assert handle is not None and launcher.running(handle)
    end_remote_training(folder, DETACHED)
    assert not launcher.running(handle) and copies(folder) == [] and read_handle(folder) is None


def test_a_shipment_that_comes_damaged_is_not_trained_on(base: LocalModel, tmp_path: Path) -> None:
    class Damaging(Counting):
        def submit(self, handle: Handle, shipment: Shipment) -> str:
            damaged = tmp_path / "damaged"
            damaged.write_bytes(shipment.files["train.arrow"].read_bytes()[:-1] + b"?")
            return super().submit(handle, replace(shipment, files={**shipment.files, "train.arrow": damaged}))

    folder = make_job(tmp_path / "job", base)
    with pytest.raises(MedcodeError, match=r"^train\.arrow: came damaged, with 0 others; start the asset again$"):
        run(folder, Damaging(folder))
    assert copies(folder) == [] and read_handle(folder) is None


def test_the_time_is_limited(base: LocalModel, tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", base, compute={"remote_hours": 1e-5})
    launcher = Counting(folder)
    launcher.hours = 1e-5
    with pytest.raises(MedcodeError, match=r"not done after 1e-05 hours \(compute\.remote_hours\); starting"):
        run(folder, launcher)
    (copy,) = copies(folder)  # with its checkpoints
    assert copy.stat().st_mode & 0o777 == 0o700
    end_remote_training(folder, DETACHED)


def test_a_damaged_message_loses_no_training(tmp_path: Path) -> None:
    class Damaging(Counting):
        def fetch(self, handle: Handle, name: str, target: Path) -> bool:
            lines = (
                b'{"method": "opened", "params": {}}\n\xff{"method":\n7\n{"params": [1]}\n{"method": "closed"}\n{"met'
            )
            target.write_bytes(lines)
            return True

    (tmp_path / SCRATCH).mkdir()
    handle = Handle(launcher="subprocess", key="job", fingerprint="0")
    found = RemoteRun(Damaging(tmp_path))._messages(tmp_path, handle)
    assert [message["method"] for message in found] == ["opened", "closed"]


@pytest.mark.parametrize("damage", ["key", "bytes"])
def test_a_changed_handle_is_refused_and_nothing_is_deleted(tmp_path: Path, damage: str) -> None:
    (tmp_path / "precious").mkdir()
    folder = tmp_path / "job"
    folder.mkdir()
    contents = json.dumps({"launcher": "subprocess", "key": "../../precious", "fingerprint": "0"}).encode()
    (folder / "handle.json").write_bytes(contents if damage == "key" else b"\xff\xfe")
    with pytest.raises(MedcodeError, match=r"handle\.json: unreadable"):
        end_remote_training(folder, DETACHED)
    assert (tmp_path / "precious").exists()


def test_another_machine_sees_few_variables(base: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret")
    folder = make_job(tmp_path / "job", base, training=LONG)
    (folder / SCRATCH).mkdir()
    launcher = Counting(tmp_path)
    handle = Handle(launcher="subprocess", key="job", fingerprint="0")
    launcher.submit(handle, pack(folder, with_checkpoints=False))
    pid = int(launcher._started[0].pid)
    assert {"SOME_TOKEN", "PYTEST_CURRENT_TEST"}.isdisjoint(psutil.Process(pid).environ())
    assert psutil.Process(pid).cwd().startswith(str(tmp_path))
    launcher.discard(handle)
