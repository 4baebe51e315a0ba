"""What a training elsewhere came to: fetched aside, checked, and only then put into the training's folder."""

import json
import shutil
from pathlib import Path, PurePosixPath

from medcode_assets.artifacts import replace_folder
from medcode_assets.training.job import RESULT, WEIGHTS, read_result
from medcode_assets.training.remote.launchers import Handle, RemoteLauncher
from medcode_assets.writing import refusing_unwritable
from medcode_serving.bundle import file_sha256
from medcode_serving.errors import MedcodeError

DELIVERED = ".delivered"
FETCHED_SUFFIXES = {".safetensors", ".json"}


def delivered(folder: Path) -> bool:
    """Whether everything was fetched and checked, and only has to be put in its place."""
    return (folder / DELIVERED).exists()


def fetch_delivery(folder: Path, launcher: RemoteLauncher, handle: Handle, sums: dict[str, str]) -> None:
    """Fetch the weights and result.json; what an earlier, killed fetch left whole is not fetched again.

    Args:
        folder: Of the training.
        launcher: Of the training elsewhere.
        handle: Names it.
        sums: sha256 of each file by name, as the other machine says.

    Raises:
        MedcodeError: a file is missing, damaged, or none that a training leaves; or it cannot be written here.
    """
    for name in sums:
        _refuse_unexpected(name)
    if RESULT not in sums or len(sums) < 2:
        raise MedcodeError(f"{handle.launcher} {handle.key}: no weights came out; look at its log there")
    aside = folder / f"{DELIVERED}.new"
    with refusing_unwritable(folder, "MEDCODE_HOME"):
        for name, digest in sums.items():
            target = aside / name
            if target.exists() and file_sha256(target) == digest:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if not launcher.fetch(handle, name, target):
                raise MedcodeError(f"{handle.launcher} {handle.key}: {name} is gone; start the asset again")
            if file_sha256(target) != digest:
                target.unlink()
                raise MedcodeError(
                    f"{handle.launcher} {handle.key}: {name} came back damaged (sha256 is not {digest[:12]}…); start "
                    "the asset again: it is fetched anew"
                )
        for file in aside.rglob("*"):
            if file.is_file() and file.relative_to(aside).as_posix() not in sums:
                file.unlink()  # of an earlier attempt
        read_result(aside)
        _refuse_other_than_tensors(aside / WEIGHTS)
        aside.rename(folder / DELIVERED)


def install_delivery(folder: Path) -> None:
    """Put what was fetched into the training's folder, result.json last."""
    arrived = folder / DELIVERED
    if (arrived / WEIGHTS).exists():
        replace_folder(arrived / WEIGHTS, folder / WEIGHTS)
    (arrived / RESULT).replace(folder / RESULT)
    shutil.rmtree(arrived)


def _refuse_unexpected(name: str) -> None:
    """Raise MedcodeError unless a name that the other machine gave is one that may be written here."""
    path = PurePosixPath(name)
    plain = len(path.parts) == 2 and path.parts[0] == WEIGHTS and path.name == name.rpartition("/")[2]
    if name != RESULT and not (plain and path.suffix in FETCHED_SUFFIXES and not path.name.startswith(".")):
        raise MedcodeError(
            f"the other machine delivers {name!r}: only {RESULT} and safetensors with their configuration are taken"
        )


def _refuse_other_than_tensors(weights: Path) -> None:
    """Raise MedcodeError unless the files are what their names say."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(weights.iterdir()):
        try:
            if file.suffix == ".json":
                json.loads(file.read_text())
            else:
                with safe_open(file, framework="np") as stored:
                    stored.keys()
        except (SafetensorError, ValueError) as error:
            raise MedcodeError(
                f"{file.name}: what came back is no {file.suffix[1:]} ({type(error).__name__}); begin anew with "
                "drop_existing"
            ) from None
