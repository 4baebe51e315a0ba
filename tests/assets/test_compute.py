"""The resource `compute`, and what Kubernetes and torchrun are told."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from medcode_assets.config import Settings
from medcode_assets.definitions import build_definitions
from medcode_assets.resources.compute import GPU, KUBERNETES, Compute, gpu_tags
from medcode_assets.training.launch import launched_training, torchrun_command
from medcode_assets.training.settings import ComputeSettings
from medcode_assets.training.worker import main
from medcode_serving.errors import MedcodeError

PAGE = (Path(__file__).parents[2] / "docs" / "scale-out.md").read_text()


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_resource_has_every_setting_with_its_default_and_description() -> None:
    fields = {name: (info.default, info.description) for name, info in ComputeSettings.model_fields.items()}
    assert {name: (info.default, info.description) for name, info in Compute.model_fields.items()} == fields
    assert Compute(processes=2, sharding="full").settings == ComputeSettings(processes=2, sharding="full")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"processes": 0}, r"^resource compute: processes: Input should be greater than or equal to 1$"),
        ({"sharding": "full"}, r"^resource compute: .*sharding: full needs more than one process"),
    ],
)
def test_values_out_of_bounds_are_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(MedcodeError, match=message):
        _ = Compute(**values).settings


def test_torchrun_starts_every_process_of_this_machine() -> None:
    command = " ".join(torchrun_command(Path("/jobs/abc"), ComputeSettings(processes=4, max_restarts=2)))
    assert "--nnodes 1 --nproc-per-node 4 --standalone" in command and "--max-restarts 2" in command
    assert command.endswith("-m medcode_assets.training.worker /jobs/abc")
    several = ComputeSettings(processes=8, machines=2, rendezvous="node-0:29500")
    command = " ".join(torchrun_command(Path("/jobs/abc"), several))
    assert "--nnodes 2" in command and "--rdzv-endpoint node-0:29500 --rdzv-id abc" in command
    assert "--standalone" not in command


class Ending:
    """A launcher whose processes end with a status and leave what they are told to."""

    def __init__(self, status: int, error: str | None = None) -> None:
        self.status, self.error = status, error

    def run(self, folder: Path, compute: ComputeSettings) -> int:
        assert not (folder / "error.txt").exists() and not (folder / "result.json").exists()
        if self.error:
            (folder / "error.txt").write_text(self.error)
        return self.status


def test_a_failed_training_is_not_taken_for_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "error.txt").write_text("an earlier one")
    with pytest.raises(MedcodeError, match="ended with status 3 after 1 restarts"):
        launched_training(tmp_path, ComputeSettings(), Ending(3))
    with pytest.raises(MedcodeError, match=r"^lower it$"):
        launched_training(tmp_path, ComputeSettings(), Ending(1, "lower it"))
    with pytest.raises(MedcodeError, match="left no result"):
        launched_training(tmp_path, ComputeSettings(), Ending(0))


def test_a_restart_does_not_repeat_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "error.txt").write_text("lower it")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert main(tmp_path) == 2
    assert (tmp_path / "error.txt").read_text() == "lower it"


CHILD = """
import signal, time
from pathlib import Path

def end(*_):
    print("ended", flush=True)
    raise SystemExit(1)

signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
Path("ready").touch()
time.sleep(600)
"""
LAUNCHING = """
import os, subprocess, sys, time
from pathlib import Path
from medcode_assets.training import launch
from medcode_assets.training.settings import ComputeSettings

class AskedAtOnce(subprocess.Popen):
    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        while not Path("ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), 15)

child, moment = sys.argv[1:]
launch.torchrun_command = lambda *_: [sys.executable, "-c", child]
if moment == "at once":
    subprocess.Popen = AskedAtOnce
launch.Subprocesses().run(Path("."), ComputeSettings())
"""


@pytest.mark.parametrize("moment", ["at once", "later"])
def test_ending_signals_reach_the_processes(tmp_path: Path, moment: str) -> None:
    """A launcher that is asked to end ends its processes first, even those that it has only just started."""
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHING, CHILD, moment],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    if moment == "later":
        process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "ended\n"
    assert process.wait(timeout=120) == 128 + signal.SIGTERM


def test_a_worker_whose_launcher_is_gone_ends() -> None:
    nobody = 2**22 + 1  # above every process number that Linux gives
    script = (
        "import time; from medcode_assets.training import worker; import threading\n"
        "threading.Thread(target=worker._end_with_those_who_wait, daemon=True).start(); time.sleep(600)"
    )
    worker = subprocess.run([sys.executable, "-c", script], env={"MEDCODE_LAUNCHER_PID": str(nobody)}, timeout=300)
    assert worker.returncode == 1


@pytest.mark.parametrize("processes", [1, 4])
def test_kubernetes_understands_the_gpu_tags(processes: int) -> None:
    k8s = pytest.importorskip("dagster_k8s")
    import kubernetes

    tags = gpu_tags(ComputeSettings(processes=processes))
    config = k8s.job.UserDefinedDagsterK8sConfig.from_dict(tags[KUBERNETES])
    assert config.container_config["resources"]["limits"] == {"nvidia.com/gpu": processes}
    container = k8s.models.k8s_model_from_dict(
        kubernetes.client.V1Container, {"name": "step", **config.container_config}
    )
    assert bool(container.volume_mounts) == (processes > 1)
    if processes > 1:
        pod = k8s.models.k8s_model_from_dict(
            kubernetes.client.V1PodSpec, {"containers": [{"name": "step"}], **config.pod_spec_config}
        )
        assert pod.volumes[0].empty_dir.medium == "Memory"


def test_only_assets_that_want_cuda_ask_for_a_gpu() -> None:
    assert gpu_tags(ComputeSettings(device="cpu")) == gpu_tags(ComputeSettings(device="mps")) == {}
    limits = gpu_tags(ComputeSettings(device="cuda", processes=8), gpus=1)[KUBERNETES]["container_config"]
    assert limits == {"resources": {"limits": {"nvidia.com/gpu": 1}}}


def test_assets_with_models_are_in_the_gpu_pool_with_its_tags(tmp_path: Path) -> None:
    definitions = build_definitions(tmp_path, Settings(compute={"processes": 2}))
    for name in ("adapter", "evaluation"):
        asset = definitions.resolve_assets_def(dg.AssetKey(["icd", name]))
        assert asset.op.pool == GPU
        assert "nvidia.com/gpu" in str(asset.op.tags[KUBERNETES])


def test_the_pages_cluster_definitions_and_run_configuration_are_valid() -> None:
    k8s = pytest.importorskip("dagster_k8s")
    (module,), (run_config, instance) = code_blocks("python"), code_blocks("yaml")
    scope: dict[str, Any] = {}
    exec(module, scope)
    job = scope["defs"].resolve_job_def("icd")
    config = yaml.safe_load(run_config)
    assert dg.validate_run_config(job, config)
    (step,) = config["execution"]["config"]["per_step_k8s_config"]
    assert step in {node.name for node in job.nodes}
    k8s.job.UserDefinedDagsterK8sConfig.from_dict(config["execution"]["config"]["per_step_k8s_config"][step])
    launcher = yaml.safe_load(instance)["run_launcher"]
    assert launcher["class"] == k8s.K8sRunLauncher.__name__
    result = dg._config.validate_config(k8s.K8sRunLauncher.config_type(), launcher["config"])
    assert result.success, result.errors
