"""Where a base model's files are: the embedded one, a local folder, or the hub's cache."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcode_serving.base_models.added_tokens import extended_revision, plain_revision, with_added_tokens
from medcode_serving.bundle import file_sha256, refuse_pickles
from medcode_serving.errors import MedcodeError

EMBEDDED = "embedded"


@dataclass(frozen=True)
class LocalModel:
    """A base model on this machine."""

    id: str
    path: Path
    revision: str
    """Hub commit, or sha256 over weights, configuration and tokenizer; with added tokens, also a hash of these."""
    added_tokens: tuple[str, ...] = ()
    """Special tokens that its tokenizer got."""


def resolve_base_model(
    model_id: str, cache: Path, *, revision: str | None = None, added_tokens: Sequence[str] = ()
) -> LocalModel:
    """Find a base model's folder, downloading it once if its id asks for the hub.

    Args:
        model_id: `embedded`, a local folder, or a Hugging Face id.
        cache: Folder of downloaded models; what is there already is not fetched again.
        revision: Hub branch, tag or commit. A local model must have this fingerprint if one is given.
        added_tokens: Special tokens that its tokenizer is to have (`medcode_serving.base_models.added_tokens`).

    Raises:
        MedcodeError: the model is not to be had, has no safetensors, or is not the asked-for revision.
    """
    plain = _resolve_plain(model_id, cache, plain_revision(revision) if revision else None)
    if not added_tokens:
        return plain
    extended = extended_revision(plain.revision, added_tokens)
    name = hashlib.sha256(f"{plain.id} {extended}".encode()).hexdigest()[:16]
    path = with_added_tokens(plain.path, added_tokens, cache / "with-added-tokens" / name)
    return LocalModel(plain.id, path, extended, tuple(added_tokens))


def _resolve_plain(model_id: str, cache: Path, revision: str | None) -> LocalModel:
    local = Path(__file__).parent / EMBEDDED if model_id == EMBEDDED else Path(model_id).expanduser()
    if local.is_dir():
        # By its full path: a bundle that says `models/x` would be looked for on the hub from any other folder.
        name = model_id if model_id == EMBEDDED else str(local.resolve())
        found = LocalModel(name, local, folder_revision(local))
        if revision is not None and revision != found.revision:
            raise MedcodeError(
                f"base model {model_id!r} at {local} has revision {found.revision[:12]}, asked for {revision[:12]}; "
                "take the files that the adapter was trained on, or train anew"
            )
        return found
    if Path(model_id).is_absolute() or model_id.startswith(("./", "../", "~")):
        raise MedcodeError(f"base model {model_id!r}: no such folder; give a folder, a hub id, or `{EMBEDDED}`")
    return _from_hub(model_id, cache, revision)


def _from_hub(model_id: str, cache: Path, revision: str | None) -> LocalModel:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.model", "merges.txt", "vocab.*", "LICENSE*"]
    wanted: dict[str, Any] = {"repo_id": model_id, "revision": revision, "cache_dir": cache, "allow_patterns": patterns}
    try:
        path = _complete_snapshot(Path(snapshot_download(**wanted, local_files_only=True)))
    except HFValidationError:
        raise MedcodeError(f"base model {model_id!r}: neither a folder nor a hub id of the form owner/name") from None
    except (LocalEntryNotFoundError, FileNotFoundError):
        if os.environ.get("HF_HUB_OFFLINE") == "1":
            raise _not_to_be_had(model_id, cache, "HF_HUB_OFFLINE=1 forbids asking the hub") from None
        try:
            path = Path(snapshot_download(**wanted))
        except Exception as error:  # noqa: BLE001 - the hub client raises from several libraries' hierarchies
            raise _not_to_be_had(model_id, cache, f"the hub answered {type(error).__name__}") from None
    refuse_missing_weights(model_id, path)
    return LocalModel(model_id, path, path.name)


def _complete_snapshot(path: Path) -> Path:
    """Return the snapshot if all its weights arrived: a download that was cut off leaves a partial one."""
    index = path / "model.safetensors.index.json"
    needed = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    if not all((path / name).exists() for name in {"config.json", *needed}):
        raise FileNotFoundError(path)
    return path


def _not_to_be_had(model_id: str, cache: Path, reason: str) -> MedcodeError:
    return MedcodeError(
        f"base model {model_id!r} is not in {cache} and {reason}; download it on a machine with access and name its "
        f"folder, or use the model that medcode ships: --base-model {EMBEDDED} (setting model.base)"
    )


def refuse_missing_weights(model_id: str, path: Path) -> None:
    """Raise MedcodeError unless a model folder has a configuration and safetensors weights."""
    if not (path / "config.json").exists():
        raise MedcodeError(f"base model {model_id!r}: {path} has no config.json; name a Hugging Face model folder")
    if not list(path.glob("*.safetensors")):
        refuse_pickles(path)
        raise MedcodeError(f"base model {model_id!r}: {path} has no *.safetensors; only safetensors are loaded")


def folder_revision(path: Path) -> str:
    """Return a sha256 over a local model's weights, configuration and tokenizer.

    Raises:
        MedcodeError: the folder holds no loadable model.
    """
    refuse_missing_weights(str(path), path)
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.suffix in {".safetensors", ".json", ".model", ".txt", ".jinja"}:
            digest.update(f"{file.name}:{file_sha256(file)}\n".encode())
    return digest.hexdigest()
