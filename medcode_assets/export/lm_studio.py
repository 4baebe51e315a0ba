"""LM Studio finds a model at `models/<publisher>/<model>/<file>.gguf`."""

import os
import shutil
from pathlib import Path

from medcode_assets.writing import refuse_little_disk
from medcode_serving.bundle import file_sha256
from medcode_serving.errors import MedcodeError
from medcode_serving.gguf_folder import GGUF_MANIFEST, GgufManifest, read_gguf_manifest

_MODELS = "models"


def install_in_lm_studio(folder: Path, lm_studio: Path, *, publisher: str = "medcode") -> list[Path]:
    """Put a folder where LM Studio finds its GGUF files, as a complete export: `verify_folder` holds there, too.

    A GGUF file becomes a hard link where both are on one file system, else a copy. What is there already with the same
    contents is left; other contents are replaced, each file at once, the manifest last.

    Args:
        folder: A sealed folder of GGUF files.
        lm_studio: LM Studio's folder of models, or its home (`~/.lmstudio`) with `models` in it.
        publisher: Under whose name LM Studio lists the model.

    Returns:
        Absolute paths of the models there.

    Raises:
        MedcodeError: a folder that does not exist, a file that the manifest names and the folder lacks, no room for a
            copy, or LM Studio's folder is not writable.
    """
    manifest = read_gguf_manifest(folder)
    wanted = _wanted(folder, manifest)
    target = _models(lm_studio.expanduser().resolve()) / publisher / f"medcode-{manifest.recipe}-{manifest.version}"
    try:
        for name, sha256 in wanted.items():
            _install(folder / name, target / name, sha256)
    except OSError as error:
        raise MedcodeError(f"{target}: cannot be written: {error.strerror}; name another folder of models") from error
    return [target / file.file for file in manifest.files]


def _models(lm_studio: Path) -> Path:
    if not lm_studio.is_dir():
        raise MedcodeError(f"{lm_studio}: no such folder; name LM Studio's folder of models, as in ~/.lmstudio/models")
    return lm_studio / _MODELS if (lm_studio / _MODELS).is_dir() else lm_studio


def _wanted(folder: Path, manifest: GgufManifest) -> dict[str, str]:
    """Return sha256 of the files to install, by name, the manifest last. Raises MedcodeError for one not there."""
    wanted = {file.file: file.sha256 for file in manifest.files} | manifest.others
    inside = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in wanted:
        if name not in inside:  # nor is a name that leads out of the folder
            raise MedcodeError(f"{folder / name}: missing; export it again")
    return wanted | {GGUF_MANIFEST: file_sha256(folder / GGUF_MANIFEST)}


def _install(source: Path, target: Path, sha256: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file() and (target.samefile(source) or file_sha256(target) == sha256):
        return
    aside = target.with_name(f".{target.name}.{os.getpid()}")  # no name that LM Studio would list
    try:
        _link_or_copy(source, aside)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _link_or_copy(source: Path, target: Path) -> None:
    if source.suffix == ".gguf":  # the others are text, which somebody may edit in place
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without hard links
            pass
        else:
            return
    refuse_little_disk(target.parent, source.stat().st_size, source.name)
    shutil.copyfile(source, target)
