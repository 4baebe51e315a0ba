"""Launcher `modal`: a sandbox at modal.com with a GPU, no network, and a volume that holds the training's folder.

A sandbox and not a Modal function: it runs one command and has an exit status, so nothing is pickled either way and
nothing stays deployed. Everything that needs the network is in this file; `modal` finds the account in its own
settings (`modal token new`).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import medcode_assets
import medcode_serving
from medcode_assets.training.remote.detached import RUNNER
from medcode_assets.training.remote.launchers import Handle, UnreachableError
from medcode_assets.training.remote.shipping import Shipment
from medcode_assets.training.settings import ComputeSettings
from medcode_serving.errors import MedcodeError

APP = VOLUME = "medcode-training"
MOUNT = "/training"
SOURCE = "/medcode"
LIBRARIES = (
    *("accelerate", "dagster-pipes", "duckdb", "numpy", "peft", "psutil", "pyarrow", "pydantic"),
    *("pydantic-settings", "pyyaml", "safetensors", "tokenizers", "torch", "tqdm", "transformers"),
)
"""What training imports, in the versions of this machine: `exact` resumption and equal numbers ask for them."""
NOT_SHIPPED = ["**/__pycache__/**"]
SECONDS_BEYOND = 900
"""The runner ends the training itself when its time is up; this is for its start and its last words."""


class ModalLauncher:
    """Runs trainings in sandboxes of the app `medcode-training`."""

    name = "modal"
    host: str | None = "modal.com"
    poll_seconds = 15.0
    settle_seconds = 120.0

    def __init__(self, compute: ComputeSettings) -> None:
        """Ask for the GPU and the hours that the settings say. Raises MedcodeError if `modal` is not installed."""
        if find_spec("modal") is None:
            raise MedcodeError("compute.launcher modal: its client is not installed; pip install medcode[remote-modal]")
        self.hours = compute.remote_hours
        self.gpu = compute.gpu if compute.processes == 1 else f"{compute.gpu}:{compute.processes}"

    def submit(self, handle: Handle, shipment: Shipment) -> str:
        """Upload the files to the volume and start the sandbox; or return the id of the attempt's own."""
        import modal

        with _reaching():
            with suppress(modal.exception.NotFoundError):
                begun = modal.Sandbox.from_name(APP, _sandbox_name(handle), include_terminated=True)
                return str(begun.object_id)
            app = modal.App.lookup(APP, create_if_missing=True)
            volume = _volume()
            with volume.batch_upload(force=True) as batch:
                for name, file in shipment.files.items():
                    batch.put_file(str(file), f"/{handle.key}/{name}")
            sandbox = modal.Sandbox.create(
                *("python", "-m", RUNNER, f"{MOUNT}/{handle.key}", str(handle.attempt), str(self.hours)),
                app=app,
                name=_sandbox_name(handle),
                image=_image(),
                gpu=self.gpu,
                timeout=int(self.hours * 3600) + SECONDS_BEYOND,
                volumes={MOUNT: volume},
                block_network=True,
            )
            return str(sandbox.object_id)

    def running(self, handle: Handle) -> bool:
        """Whether the sandbox has no exit status yet."""
        import modal

        with _reaching():
            return modal.Sandbox.from_id(handle.id).poll() is None

    def fetch(self, handle: Handle, name: str, target: Path) -> bool:
        """Read from the sandbox while it runs: the volume shows what it wrote only later; else from the volume."""
        import modal

        with _reaching():
            sandbox = modal.Sandbox.from_id(handle.id)
            if sandbox.poll() is None:
                try:
                    content = sandbox.filesystem.read_bytes(f"{MOUNT}/{handle.key}/{name}")
                except modal.exception.Error:  # not written yet, or the sandbox still waits for its GPU
                    return False
                target.write_bytes(content)
                return True
            try:
                with target.open("wb") as stream:
                    for chunk in _volume().read_file(f"{handle.key}/{name}"):
                        stream.write(chunk)
            except (FileNotFoundError, modal.exception.NotFoundError):
                target.unlink(missing_ok=True)
                return False
        return True

    def discard(self, handle: Handle) -> None:
        """Terminate the sandbox and remove the training's folder from the volume."""
        import modal

        with _reaching():
            with suppress(modal.exception.NotFoundError):
                found = (
                    modal.Sandbox.from_id(handle.id)
                    if handle.id is not None
                    else modal.Sandbox.from_name(APP, _sandbox_name(handle))
                )
                found.terminate(wait=True)
            with suppress(FileNotFoundError, modal.exception.NotFoundError):
                _volume().remove_file(handle.key, recursive=True)


def _sandbox_name(handle: Handle) -> str:
    return f"{handle.key}-{handle.attempt}"


def _volume() -> Any:
    import modal

    return modal.Volume.from_name(VOLUME, create_if_missing=True)


def _image() -> Any:
    """Return the image: this machine's versions of the libraries, and this very medcode."""
    import modal

    names = [*LIBRARIES, *(["bitsandbytes"] if find_spec("bitsandbytes") else [])]
    # Without the local part of a version: torch's +cpu is of this machine.
    pinned = [f"{name}=={version(name).partition('+')[0]}" for name in names]
    image = modal.Image.debian_slim(python_version=f"{sys.version_info.major}.{sys.version_info.minor}")
    image = image.pip_install(*pinned).env({"PYTHONPATH": SOURCE})
    for package in (medcode_assets, medcode_serving):
        folder = Path(str(package.__file__)).parent
        image = image.add_local_dir(str(folder), f"{SOURCE}/{folder.name}", ignore=NOT_SHIPPED)
    return image


@contextmanager
def _reaching() -> Iterator[None]:
    """Turn what the client raises into one line."""
    import aiohttp
    import modal

    failed = modal.exception
    try:
        yield
    except (failed.AuthError, failed.PermissionDeniedError):
        raise MedcodeError("compute.launcher modal: no valid token for modal.com; run: modal token new") from None
    except (failed.InvalidError, failed.ImageBuildError, failed.ResourceExhaustedError) as error:
        raise MedcodeError(
            f"compute.launcher modal: modal.com refuses the training ({type(error).__name__}); look at compute.gpu "
            "and at the account's limits"
        ) from None
    except (failed.Error, aiohttp.ClientError, ConnectionError, TimeoutError) as error:
        raise UnreachableError(
            f"modal.com: no answer ({type(error).__name__}); what runs there goes on, and starting the asset again "
            "goes on waiting for it"
        ) from None
