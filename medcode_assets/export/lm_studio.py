"""LM Studio finds a model at `models/<publisher>/<model>/<file>.gguf`."""

import os
import shutil
from pathlib import Path

from medcode_serving.bundle import file_sha256
from medcode_serving.errors import MedcodeError
from medcode_serving.gguf_folder import GgufManifest, read_gguf_manifest

_MODELS = "models"
_CARD = "README.md"


def install_in_lm_studio(folder: Path, lm_studio: Path, *, publisher: str = "medcode") -> list[Path]:
    """Put a folder's GGUF files and model card where LM Studio finds them.

    A GGUF file becomes a hard link where both are on one file system, else a copy. What is there already with the same
    contents is left; other contents are replaced, each file at once.

    Args:
        folder: A sealed folder of GGUF files.
        lm_studio: LM Studio's folder of models, or its home (`~/.lmstudio`) with `models` in it.
        publisher: Under whose name LM Studio lists the model.

    Returns:
        The GGUF files that LM Studio sees.

    Raises:
        MedcodeError: a folder that does not exist, a file that the manifest names and the folder lacks, no room for a
            copy, or LM Studio's folder is not writable.
    """
    manifest = read_gguf_manifest(folder)
    target = _models(lm_studio.expanduser()) / publisher / f"medcode-{manifest.recipe}-{manifest.version}"
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, sha256 in _wanted(manifest).items():
            _install(folder / name, target / name, sha256)
    except OSError as error:
        raise MedcodeError(f"{target}: cannot be written: {error.strerror}; name another folder of models") from error
    return [target / file.file for file in manifest.files]


def _models(lm_studio: Path) -> Path:
    if not lm_studio.is_dir():
        raise MedcodeError(f"{lm_studio}: no such folder; name LM Studio's folder of models, as in ~/.lmstudio/models")
    return lm_studio / _MODELS if (lm_studio / _MODELS).is_dir() else lm_studio


def _wanted(manifest: GgufManifest) -> dict[str, str]:
    card = {name: sha256 for name, sha256 in manifest.others.items() if name == _CARD}
    return {file.file: file.sha256 for file in manifest.files} | card


def _install(source: Path, target: Path, sha256: str) -> None:
    if not source.is_file():
        raise MedcodeError(f"{source}: missing; export it again")
    if target.is_file() and (target.samefile(source) or file_sha256(target) == sha256):
        return
    aside = target.with_name(f".{target.name}.{os.getpid()}")  # no name that LM Studio would list
    try:
        _link_or_copy(source, aside)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _link_or_copy(source: Path, target: Path) -> None:
    if source.suffix == ".gguf":  # the card is text, which somebody may edit in place
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without hard links
            pass
        else:
            return
    needed, free = source.stat().st_size, shutil.disk_usage(target.parent).free
    if needed > free:
        raise MedcodeError(
            f"{target.parent}: {free / 1e6:,.0f} MB free and {source.name} needs {needed / 1e6:,.0f}; make room there"
        )
    shutil.copyfile(source, target)
