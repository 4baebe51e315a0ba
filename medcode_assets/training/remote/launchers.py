"""What launches trainings elsewhere, what it started, and where notes may be sent."""

from pathlib import Path
from typing import Protocol
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.training.job import TrainingJob
from medcode_assets.training.remote.shipping import Shipment
from medcode_assets.training.settings import ComputeSettings
from medcode_serving.errors import MedcodeError

HANDLE = "handle.json"
COPIES = "elsewhere"
"""Folder, in a training's own, of what launcher `subprocess` copied."""


class UnreachableError(MedcodeError):
    """The other machine did not answer; what runs there goes on."""


class Handle(BaseModel):
    """A training that was started elsewhere, or is about to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    launcher: str
    key: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    """Name of its folder there, of this training alone; the folder is deleted in the end, so it is never a path."""
    fingerprint: str
    """The job's."""
    attempt: int = 1
    """How often it was started; a later attempt goes on from the checkpoints in the same folder."""
    id: str | None = None
    """What the launcher knows it by; none: not known to be started."""
    told: int = 0
    """Lines of its messages that MLflow was told of."""

    def file(self, name: str) -> str:
        """Return the path, in its folder there, of a file that this attempt writes."""
        return f"attempt-{self.attempt}/{name}"


class RemoteLauncher(Protocol):
    """Runs `medcode_assets.training.remote.runner` in a folder elsewhere.

    Every method raises UnreachableError where the other machine does not answer.
    """

    name: str
    """As `compute.launcher` calls it."""
    host: str | None
    """Who gets to see the tokens; none: nobody but this machine."""
    poll_seconds: float
    """Between two looks at a training."""
    settle_seconds: float
    """How long after the end a file may still be on its way to where `fetch` finds it."""

    def submit(self, handle: Handle, shipment: Shipment) -> str:
        """Send the files, start the attempt detached and return its id; or the id of what runs as this attempt."""
        ...

    def running(self, handle: Handle) -> bool:
        """Whether the attempt goes on."""
        ...

    def fetch(self, handle: Handle, name: str, target: Path) -> bool:
        """Write a file of the training's folder there to `target`; return whether it is there."""
        ...

    def discard(self, handle: Handle) -> None:
        """End what runs and delete the folder there; nothing happens if both are gone."""
        ...


def launcher_for(compute: ComputeSettings, folder: Path) -> RemoteLauncher:
    """Return the launcher that `compute.launcher` names, for the training in a folder.

    Raises:
        MedcodeError: it is `local`, which launches nothing elsewhere.
    """
    if compute.launcher == "subprocess":
        from medcode_assets.training.remote.detached import SubprocessLauncher

        return SubprocessLauncher(folder / COPIES, compute.remote_hours)
    if compute.launcher == "modal":
        from medcode_assets.training.remote.modal_cloud import ModalLauncher

        return ModalLauncher(compute)
    raise MedcodeError("compute.launcher local: trains on this machine; set subprocess or modal")


def refuse_host(launcher: RemoteLauncher, compute: ComputeSettings) -> None:
    """Raise MedcodeError unless notes may be sent where a launcher sends them."""
    if launcher.host is not None and launcher.host not in compute.allowed_hosts:
        raise MedcodeError(
            f"compute.launcher {launcher.name}: notes, as tokens, would leave this machine for {launcher.host}; if "
            f"your data use agreement permits that, name it: compute.allowed_hosts=[{launcher.host}]"
        )


def new_handle(launcher: RemoteLauncher, job: TrainingJob) -> Handle:
    """Return the handle of a training that is not started yet."""
    key = f"{job.recipe[:24]}-{job.fingerprint[:12]}-{uuid4().hex[:8]}"
    return Handle(launcher=launcher.name, key=key, fingerprint=job.fingerprint)


def write_handle(folder: Path, handle: Handle) -> None:
    """Write handle.json aside and rename it."""
    aside = folder / f"{HANDLE}.part"
    aside.write_text(handle.model_dump_json(indent=2))
    aside.replace(folder / HANDLE)


def read_handle(folder: Path) -> Handle | None:
    """Read handle.json; None if nothing was started elsewhere. Raises MedcodeError if it is damaged."""
    try:
        return Handle.model_validate_json((folder / HANDLE).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise MedcodeError(
            f"{folder / HANDLE}: unreadable ({type(error).__name__}); what it names may still run: look for it at "
            "the launcher's, then delete this file"
        ) from None


def forget_handle(folder: Path) -> None:
    """Delete handle.json."""
    (folder / HANDLE).unlink(missing_ok=True)


def end_remote_training(folder: Path, compute: ComputeSettings) -> None:
    """End what was started elsewhere for the training in a folder, and delete its files there.

    Raises:
        MedcodeError: it cannot be reached, or `compute.launcher` is another one.
    """
    handle = read_handle(folder)
    if handle is None:
        return
    refuse_other_launcher(folder, handle, compute.launcher)
    launcher_for(compute, folder).discard(handle)
    forget_handle(folder)


def refuse_other_launcher(folder: Path, handle: Handle, name: str) -> None:
    """Raise MedcodeError if a training was started by another launcher than the one that is asked for now."""
    if handle.launcher != name:
        raise MedcodeError(
            f"{folder / HANDLE}: this training was started with compute.launcher={handle.launcher} and may still run "
            "there; set that again, or end it there and delete the file"
        )
