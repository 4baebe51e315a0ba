"""Full disks and folders without permission, in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medcode_serving.errors import MedcodeError


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
