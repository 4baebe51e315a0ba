"""`medcode keys`: the file of API keys that `medcode serve` asks for."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from medcode_serving.api.keys import KeyScope
    from medcode_serving.settings import InferenceSettings


def keys_file(settings: "InferenceSettings", file: Path | None) -> Path:
    """Return the file of keys that is meant: the flag's, or the settings'.

    Raises:
        MedcodeError: neither names one.
    """
    found = file or settings.api.keys_file
    if found is None:
        raise MedcodeError("keys: name their file: --file keys.yaml, or api.keys_file in the settings")
    return found


def new_key(
    file: Path, name: str, scopes: Sequence[str], rate_limit: str | None, expires: str | None, *, served: bool
) -> None:
    """Add a key and print its secret on standard output, which is all that stands there.

    Args:
        file: Made if it is not there.
        name: Whose key.
        scopes: What it opens.
        rate_limit: As in 60/minute; None: the settings'.
        expires: First day on which it is refused, as in 2027-01-31; None: never.
        served: Whether the settings name this file already.

    Raises:
        MedcodeError: as `medcode_serving.api.keys.add_key`, or `expires` is no day.
    """
    from medcode_serving.api.keys import add_key

    try:
        day = None if expires is None else date.fromisoformat(expires)
    except ValueError:
        raise MedcodeError("--expires: not a day; write it as in 2027-01-31") from None
    secret = add_key(file, name, cast("Sequence[KeyScope]", scopes), rate_limit, day)  # which refuses others
    typer.echo(f"{name}: added to {file}; the secret below is shown only now, and the file holds its hash", err=True)
    if not served:
        typer.echo(f"Serve with it: MEDCODE_SERVE_API__KEYS_FILE={file} medcode serve", err=True)
    typer.echo(secret)


def list_keys(file: Path) -> None:
    """Print the keys, without their secrets, which are stored nowhere.

    Raises:
        MedcodeError: the file cannot be read.
    """
    from medcode_serving.api.keys import read_keys

    keys = read_keys(file)
    if not keys:
        typer.echo(f"{file}: no keys, so nobody is let in; make one: medcode keys new")
        return
    width = max(len("name"), *(len(key.name) for key in keys))
    typer.echo(f"{'name':<{width}}  {'scopes':<22}  {'rate limit':<12}  expires")
    for key in keys:
        expires = "never" if key.expires is None else f"{key.expires}{' (expired)' if key.expired() else ''}"
        typer.echo(f"{key.name:<{width}}  {', '.join(key.scopes):<22}  {key.rate_limit or '-':<12}  {expires}")


def remove_key(file: Path, name: str) -> None:
    """Take a key out of the file.

    Raises:
        MedcodeError: there is no such key, or the file cannot be written.
    """
    from medcode_serving.api import keys

    keys.remove_key(file, name)
    typer.echo(f"{name}: removed from {file}; running services refuse it from now on", err=True)
