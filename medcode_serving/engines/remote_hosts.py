"""Where notes may be sent, and what answers there."""

import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import httpx

ASKING_SECONDS = 5


def refuse_remote_host(api_base: str, allowed: Sequence[str]) -> str:
    """Return the host of an address if notes may be sent there.

    Raises:
        MedcodeError: it is neither this machine nor allowed by name, or the address is none.
    """
    try:
        parts = urlsplit(api_base)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in {"http", "https"}:
        raise MedcodeError("remote.api_base is no address; write it as http://127.0.0.1:8080/v1")
    if host in allowed or host == "localhost":
        return host
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise MedcodeError(
            f"remote.api_base: notes would leave this machine for {host}; if that is permitted, name it in "
            "remote.allowed_hosts"
        )
    return host


def direct_client(timeout_s: float) -> "httpx.Client":
    """Return a client that goes to the address it is given and nowhere else.

    A proxy that the environment names would see the notes, and so would the goal of a redirect. Certificates are
    still those that the environment names.
    """
    import httpx

    return httpx.Client(trust_env=False, verify=httpx.create_ssl_context(), follow_redirects=False, timeout=timeout_s)


def served_by(client: "httpx.Client", api_base: str, key: str) -> str | None:
    """Return what a server says that it is, `llamacpp` or `vllm` for two; None if it does not say.

    Raises:
        MedcodeError: it gives no list of models.
    """
    import httpx

    try:
        response = client.get(
            f"{api_base.rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"}, timeout=ASKING_SECONDS
        )
        owner = response.raise_for_status().json()["data"][0].get("owned_by")
        return owner if isinstance(owner, str) else None
    except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = type(error).__name__
    raise MedcodeError(f"no list of models under remote.api_base ({reason})")
