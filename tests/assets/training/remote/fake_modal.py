"""A stand-in for the `modal` package: the few calls that medcode makes, with sandboxes that are processes here.

As at modal.com, a sandbox works on its own view of the volume, which others see only some time after it has ended;
names of sandboxes are unique among those that run. `CLOUD.failure` is what every call raises, if any.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SETTLING = 0.3
"""Seconds."""


class Error(Exception):
    pass


class NotFoundError(Error):
    pass


class ConnectionError(Error):
    pass


class AuthError(Error):
    pass


class PermissionDeniedError(Error):
    pass


class InvalidError(Error):
    pass


class ImageBuildError(Error):
    pass


class ResourceExhaustedError(Error):
    pass


class SandboxFilesystemNotFoundError(Error):
    pass


exception = SimpleNamespace(
    Error=Error,
    NotFoundError=NotFoundError,
    ConnectionError=ConnectionError,
    AuthError=AuthError,
    PermissionDeniedError=PermissionDeniedError,
    InvalidError=InvalidError,
    ImageBuildError=ImageBuildError,
    ResourceExhaustedError=ResourceExhaustedError,
    SandboxFilesystemNotFoundError=SandboxFilesystemNotFoundError,
)


class Cloud:
    """What modal.com would hold."""

    folder: Path
    volume: Path

    def begin(self, folder: Path) -> None:
        self.folder, self.volume = folder, folder / "volume"
        self.volume.mkdir()
        self.sandboxes: dict[str, Sandbox] = {}
        self.failure: Exception | None = None
        self.uploads = 0
        self.held = False
        """Sandboxes stand still from their first moment; SIGCONT lets them go on."""

    def reached(self) -> None:
        if self.failure is not None:
            raise self.failure


CLOUD = Cloud()


class App:
    @staticmethod
    def lookup(name: str, *, create_if_missing: bool = False) -> str:
        CLOUD.reached()
        assert create_if_missing
        return name


class Image:
    def __init__(self) -> None:
        self.packages: tuple[str, ...] = ()
        self.variables: dict[str, str] = {}
        self.folders: dict[str, str] = {}
        self.python = ""

    @staticmethod
    def debian_slim(python_version: str | None = None) -> "Image":
        image = Image()
        image.python = str(python_version)
        return image

    def pip_install(self, *packages: str) -> "Image":
        self.packages += packages
        return self

    def env(self, vars: dict[str, str]) -> "Image":
        assert not self.folders, "modal.com builds nothing after files that are added at the start"
        self.variables |= vars
        return self

    def add_local_dir(self, local_path: str, remote_path: str, *, ignore: list[str]) -> "Image":
        assert ignore and remote_path.startswith("/")
        self.folders[remote_path] = local_path
        return self


def installed(packages: tuple[str, ...], site: Path) -> Path:
    """Make a folder with these packages of this environment and all that they require, and nothing else."""
    site.mkdir()
    todo, done = [Requirement(package) for package in packages], set[str]()
    for wanted in todo:
        assert not wanted.specifier or wanted.specifier.contains(version(wanted.name)), wanted
        if canonicalize_name(wanted.name) in done:
            continue
        done.add(canonicalize_name(wanted.name))
        for file in distribution(wanted.name).files or []:
            top = site / file.parts[0]
            if file.parts[0] not in ("..", "__pycache__") and not top.exists():
                top.symlink_to(Path(str(distribution(wanted.name).locate_file(file.parts[0]))))
        for line in distribution(wanted.name).requires or []:
            further = Requirement(line)
            if further.marker is None or further.marker.evaluate({"extra": ""}):
                todo.append(further)
    return site


class Batch:
    def put_file(self, local_file: str, remote_path: str) -> None:
        target = CLOUD.volume / remote_path.removeprefix("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(local_file, target)
        CLOUD.uploads += 1


class Volume:
    @staticmethod
    def from_name(name: str, *, create_if_missing: bool = False) -> "Volume":
        return Volume()

    @contextmanager
    def batch_upload(self, force: bool = False) -> Iterator[Batch]:
        CLOUD.reached()
        yield Batch()

    def read_file(self, path: str) -> Iterator[bytes]:
        CLOUD.reached()
        for sandbox in CLOUD.sandboxes.values():
            sandbox.settle()
        content = (CLOUD.volume / path).read_bytes()
        for start in range(0, len(content), 1000):
            yield content[start : start + 1000]

    def remove_file(self, path: str, recursive: bool = False) -> None:
        CLOUD.reached()
        assert recursive
        shutil.rmtree(CLOUD.volume / path)


class Filesystem:
    def __init__(self, root: Path) -> None:
        self.root = root

    def read_bytes(self, remote_path: str) -> bytes:
        CLOUD.reached()
        try:
            return (self.root / remote_path.removeprefix("/")).read_bytes()
        except FileNotFoundError:
            raise SandboxFilesystemNotFoundError from None


class Sandbox:
    """A process whose root is a folder: the volume and the image's folders are below it."""

    def __init__(self, args: tuple[str, ...], name: str, asked: dict[str, Any]) -> None:
        self.object_id, self.name, self.asked = f"sb-{len(CLOUD.sandboxes)}", name, asked
        self.root, image = CLOUD.folder / self.object_id, asked["image"]
        (self.mount,) = asked["volumes"]
        shutil.copytree(CLOUD.volume, self._inside(self.mount))
        for remote, local in image.folders.items():
            self._inside(remote).parent.mkdir(parents=True, exist_ok=True)
            self._inside(remote).symlink_to(local)
        program, *rest = (str(self._inside(arg)) if arg.startswith("/") else arg for arg in args)
        assert program == "python"
        path = [self._inside(image.variables["PYTHONPATH"]), installed(image.packages, self.root / "site")]
        self.process = subprocess.Popen(
            [os.path.realpath(sys.executable), *rest],  # which has none of this environment's libraries
            env={"OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"], "PYTHONPATH": ":".join(map(str, path))},
        )
        if CLOUD.held:
            self.process.send_signal(signal.SIGSTOP)
        self.filesystem, self.ended = Filesystem(self.root), 0.0
        CLOUD.sandboxes[self.object_id] = self

    @staticmethod
    def create(
        *args: str,
        app: str,
        name: str,
        image: Image,
        gpu: str | None = None,
        timeout: int = 300,
        volumes: dict[str, Volume],
        block_network: bool = False,
    ) -> "Sandbox":
        CLOUD.reached()
        assert len(name) < 64
        asked = {"image": image, "gpu": gpu, "timeout": timeout, "volumes": volumes, "block_network": block_network}
        return Sandbox(args, name, asked)

    @staticmethod
    def from_id(sandbox_id: str) -> "Sandbox":
        CLOUD.reached()
        if sandbox_id not in CLOUD.sandboxes:
            raise NotFoundError
        return CLOUD.sandboxes[sandbox_id]

    @staticmethod
    def from_name(app_name: str, name: str, *, include_terminated: bool = False) -> "Sandbox":
        CLOUD.reached()
        for sandbox in reversed(CLOUD.sandboxes.values()):
            if sandbox.name == name and (include_terminated or sandbox.poll() is None):
                return sandbox
        raise NotFoundError

    def poll(self) -> int | None:
        status = self.process.poll()
        if status is not None and self.ended == 0:
            self.ended = time.monotonic()
        return status

    def settle(self) -> None:
        if self.poll() is not None and time.monotonic() > self.ended + SETTLING and self._inside(self.mount).exists():
            shutil.copytree(self._inside(self.mount), CLOUD.volume, dirs_exist_ok=True)
            shutil.rmtree(self._inside(self.mount))

    def terminate(self, *, wait: bool = False) -> int | None:
        assert wait
        self.process.kill()
        self.ended = self.ended or time.monotonic() - SETTLING
        self.process.wait()
        self.settle()
        return self.poll()

    def _inside(self, path: str) -> Path:
        return self.root / path.removeprefix("/")
