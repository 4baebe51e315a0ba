"""Launcher `modal` against a fake of modal.com, and the fake against the real client where it is installed."""

import inspect
import re
import signal
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import ValidationError

from medcode_assets.resources.compute import Compute, gpu_tags
from medcode_assets.training.job import read_job
from medcode_assets.training.launch import launched_training
from medcode_assets.training.loop import train
from medcode_assets.training.remote import following
from medcode_assets.training.remote.following import RemoteRun
from medcode_assets.training.remote.launchers import UnreachableError, launcher_for, new_handle, read_handle
from medcode_assets.training.remote.modal_cloud import ModalLauncher
from medcode_assets.training.remote.shipping import pack
from medcode_assets.training.settings import ComputeSettings
from medcode_serving.base_models import LocalModel
from medcode_serving.errors import MedcodeError
from tests.assets.training.jobs import make_job, tiny_base, weights
from tests.assets.training.remote import fake_modal
from tests.assets.training.remote.fake_modal import CLOUD

ALLOWED = {"device": "cpu", "launcher": "modal", "allowed_hosts": ["modal.com"], "remote_hours": 0.1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, "modal", fake_modal)
    monkeypatch.setattr(ModalLauncher, "poll_seconds", 0.1)
    (tmp_path / "cloud").mkdir()
    CLOUD.begin(tmp_path / "cloud")
    yield CLOUD
    for sandbox in CLOUD.sandboxes.values():
        sandbox.terminate(wait=True)


def run(folder: Path, **more: Any) -> Any:
    compute = read_job(folder).compute
    return launched_training(folder, compute, RemoteRun(launcher_for(compute, folder), **more))


def test_a_training_in_a_sandbox_is_the_training_here(base: LocalModel, tmp_path: Path, cloud: Any) -> None:
    """The sandbox has the image's libraries alone, so their list is complete."""
    here = train(make_job(tmp_path / "here", base))
    folder = make_job(tmp_path / "job", base, compute=ALLOWED)
    steps: list[int] = []
    result = run(folder, on_metrics=lambda step, _: steps.append(step))
    assert result.losses == here.losses and weights(folder) == weights(tmp_path / "here")
    assert sorted(set(steps)) == [*range(1, 13)]
    (sandbox,) = cloud.sandboxes.values()
    asked = sandbox.asked
    assert (asked["gpu"], asked["timeout"], asked["block_network"]) == ("A10", 360 + 900, True)
    image = asked["image"]
    assert image.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", package) for package in image.packages)
    assert [*cloud.volume.iterdir()] == [] and read_handle(folder) is None


def test_nothing_leaves_for_a_host_that_is_not_allowed(base: LocalModel, tmp_path: Path, cloud: Any) -> None:
    folder = make_job(tmp_path / "job", base)
    before = sorted(folder.rglob("*"))
    message = r"^compute\.launcher modal: notes, as tokens, would leave this machine for modal\.com; .*allowed_hosts="

    @dg.asset
    def adapter(context: dg.AssetExecutionContext, compute: Compute) -> None:
        compute.train(context, folder)

    cloud.failure = AssertionError("modal.com was asked")
    for hosts in ([], ["*"], ["example.com"]):
        settings = Compute(device="cpu", launcher="modal", allowed_hosts=hosts)
        with pytest.raises(MedcodeError, match=message):
            RemoteRun(ModalLauncher(settings.settings)).run(folder, settings.settings)
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(MedcodeError, match=message):
        dg.materialize([adapter], instance=instance, resources={"compute": settings})
    assert sorted(folder.rglob("*")) == before and cloud.uploads == 0


def test_a_sandbox_that_started_unnoticed_is_found_by_its_name(base: LocalModel, tmp_path: Path, cloud: Any) -> None:
    """As when this side dies between the start and the writing of its id."""
    folder = make_job(tmp_path / "job", base, compute=ALLOWED)
    launcher = ModalLauncher(read_job(folder).compute)
    handle = new_handle(launcher, read_job(folder))
    shipment = pack_into(folder)
    started = launcher.submit(handle, shipment)
    uploads = cloud.uploads
    assert launcher.submit(handle, shipment) == started
    assert (len(cloud.sandboxes), cloud.uploads) == (1, uploads)
    launcher.discard(handle)  # by its name, too
    (sandbox,) = cloud.sandboxes.values()
    assert sandbox.poll() is not None and [*cloud.volume.iterdir()] == []
    launcher.discard(handle.model_copy(update={"id": started}))  # once more is no mistake


def pack_into(folder: Path) -> Any:
    (folder / ".remote").mkdir()
    return pack(folder, with_checkpoints=True)


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (fake_modal.AuthError("who?"), MedcodeError, "no valid token for modal.com; run: modal token new"),
        (fake_modal.InvalidError("no GPU B52"), MedcodeError, "modal.com refuses the training (InvalidError)"),
        (fake_modal.ConnectionError("down"), UnreachableError, "modal.com: no answer (ConnectionError)"),
        (TimeoutError(), UnreachableError, "modal.com: no answer (TimeoutError)"),
    ],
)
def test_what_the_client_raises_is_one_line(
    base: LocalModel, tmp_path: Path, cloud: Any, failure: Exception, kind: type[Exception], message: str
) -> None:
    folder = make_job(tmp_path / "job", base, compute=ALLOWED)
    cloud.failure = failure
    with pytest.raises(kind, match=re.escape(message)) as raised:
        run(folder)
    assert type(raised.value) is kind and "\n" not in str(raised.value)


def test_a_short_loss_of_the_network_is_waited_out(
    base: LocalModel, tmp_path: Path, cloud: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_job(tmp_path / "job", base, compute={**ALLOWED, "remote_hours": 1e-4})
    naps, nap = list[float](), following.time.sleep
    cloud.held = True  # it is still running at the second look

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        cloud.failure = fake_modal.ConnectionError("down") if len(naps) == 1 else None
        if len(naps) > 1:
            cloud.sandboxes["sb-0"].process.send_signal(signal.SIGCONT)
            cloud.sandboxes["sb-0"].process.wait()
            nap(seconds)

    monkeypatch.setattr(following.time, "sleep", sleep)
    with pytest.raises(MedcodeError, match=r"attempt 1: not done after 0\.0001 hours"):
        run(folder)
    assert len(naps) >= 2
    handle = read_handle(folder)
    assert handle is not None and (handle.attempt, handle.id) == (2, None)


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcode_assets.training.remote.modal_cloud.find_spec", lambda name: None)
    with pytest.raises(MedcodeError, match=r"pip install medcode\[remote-modal\]$"):
        ModalLauncher(ComputeSettings(launcher="modal"))


def test_one_gpu_a_process_on_one_machine(cloud: Any) -> None:
    assert ModalLauncher(ComputeSettings(launcher="modal", gpu="H100", processes=4)).gpu == "H100:4"
    with pytest.raises(ValidationError, match="launcher modal trains on one machine"):
        ComputeSettings(launcher="modal", machines=2, rendezvous="a:1")
    with pytest.raises(ValidationError, match="gpu"):
        ComputeSettings(gpu="A10; rm")
    with pytest.raises(ValidationError, match="remote_hours"):
        ComputeSettings(remote_hours=24)
    # The step that waits for modal.com needs no GPU of its own; one that evaluates does.
    assert gpu_tags(ComputeSettings(launcher="modal")) == {}
    assert gpu_tags(ComputeSettings(launcher="modal"), gpus=1) and gpu_tags(ComputeSettings())


FAKED = {
    "App": ["lookup"],
    "Image": ["debian_slim", "pip_install", "env", "add_local_dir"],
    "Volume": ["from_name", "batch_upload", "read_file", "remove_file"],
    "Sandbox": ["create", "from_id", "from_name", "poll", "terminate"],
}


def test_the_fake_takes_nothing_that_the_real_client_does_not() -> None:
    modal: Any = pytest.importorskip("modal", reason="medcode[remote-modal] is not installed")
    from modal.sandbox._filesystem import _SandboxFilesystem
    from modal.volume import _AbstractVolumeUploadContextManager

    calls = [
        (getattr(fake_modal, name), getattr(modal, name), each) for name, methods in FAKED.items() for each in methods
    ]
    calls += [
        (fake_modal.Batch, _AbstractVolumeUploadContextManager, "put_file"),
        (fake_modal.Filesystem, _SandboxFilesystem, "read_bytes"),
    ]
    for fake, real, method in calls:
        wanted = inspect.signature(getattr(fake, method)).parameters
        found = inspect.signature(getattr(real, method)).parameters
        for name, parameter in wanted.items():
            assert name in found, f"{real.__name__}.{method} has no {name}"
            assert found[name].kind == parameter.kind or parameter.kind == parameter.POSITIONAL_OR_KEYWORD
    assert isinstance(inspect.getattr_static(modal.Sandbox, "filesystem"), property)
    for name, fake_error in vars(fake_modal.exception).items():
        real_error = getattr(modal.exception, name)
        assert issubclass(real_error, modal.exception.Error)
        assert issubclass(fake_error, fake_modal.Error)
