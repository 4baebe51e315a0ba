"""Full disks and folders without permission, in one line."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medcode_serving.errors import MedcodeError


def refuse_little_disk(folder: Path, needed: float, what: str) -> None:
    """Refuse what will not fit onto the disk, before hours go into it.

    Args:
        folder: An existing folder on the disk in question.
        needed: Bytes.
        what: They are for.

    Raises:
        MedcodeError: not enough room.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise MedcodeError(
            f"{folder}: {needed / 1e9:.3f} GB needed for {what}, {free / 1e9:.3f} GB free; make room there, or name "
            "another folder"
        )


@contextmanager
def refusing_unwritable(target: Path, flag: str = "--output-dir") -> Iterator[None]:
    """Turn what a full disk or a folder without permission raises into one line; `flag` names another folder.

    Raises:
        MedcodeError: names the target, the reason and the way out.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise MedcodeError(
            f"{target}: not written ({reason}); make room there, or name another folder with {flag}"
        ) from None
