"""Folders that assets make: written aside, sealed with the fingerprint of what they came from, then renamed."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any
from uuid import uuid4

from medcode_assets.locks import alive
from medcode_serving.errors import MedcodeError

SEAL = "made.json"


@contextmanager
def making(target: Path, made_from: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Give a fresh folder to fill and a dict for facts about it; it replaces `target` only if nothing was raised.

    Two processes that make the same artifact fill a folder each; that of the one which ends last stays.
    """
    _remove_left_over(target)
    aside = _beside(target, "new")
    aside.mkdir(parents=True)
    facts: dict[str, Any] = {}
    try:
        yield aside, facts
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    # The fingerprint says what it came from; the seal says which making this is: a repeated one may differ in bits.
    facts = {**facts, "fingerprint": made_from, "seal": f"{made_from[:12]}-{uuid4().hex[:12]}"}
    (aside / SEAL).write_text(json.dumps(facts, indent=2))
    replace_folder(aside, target)


def made(target: Path) -> dict[str, Any] | None:
    """Return the facts of a sealed artifact with its `fingerprint` and `seal`, or None if there is none."""
    try:
        facts: dict[str, Any] = json.loads((target / SEAL).read_text())
    except FileNotFoundError:
        return None
    return facts


def stands(target: Path, made_from: str, *, anew: bool = False) -> bool:
    """Whether an artifact that came from the same is there, and may stay (with `anew`, none may)."""
    facts = made(target)
    return facts is not None and facts["fingerprint"] == made_from and not anew


def required(target: Path, asset: str) -> dict[str, Any]:
    """Return the facts of a sealed artifact. Raises MedcodeError naming the asset that makes it if it is not there."""
    facts = made(target)
    if facts is None:
        raise MedcodeError(f"{target}: not made yet; materialize asset {asset} first")
    return facts


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Let a second name stand for a file's bytes, or copy them where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def replace_folder(new: Path, target: Path) -> None:
    """Put a complete folder in the place of an earlier one."""
    old = _beside(target, "old")
    while True:
        shutil.rmtree(old, ignore_errors=True)
        with suppress(FileNotFoundError):
            target.rename(old)
        try:
            new.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            continue  # another process put its folder there meanwhile
        break
    shutil.rmtree(old, ignore_errors=True)


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.{kind}")


def _remove_left_over(target: Path) -> None:
    """Remove the folders beside `target` that an earlier process of this number had, or one that was killed."""
    for kind in ("new", "old"):
        for folder in target.parent.glob(f".{escape(target.name)}.*.{kind}"):
            pid = folder.name.split(".")[-2]
            if pid == str(os.getpid()) or (pid.isdigit() and not alive(int(pid))):
                shutil.rmtree(folder, ignore_errors=True)
