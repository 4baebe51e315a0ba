"""API keys: a file of hashed keys, and what asks for one. Nothing is allowed that a key does not name."""

import hashlib
import hmac
import ipaddress
import logging
import os
import secrets
import stat
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from fastapi import Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette._utils import get_route_path
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from medcode_serving.api.problems import ProblemError, problem_response
from medcode_serving.api.rate_limits import parse_limit
from medcode_serving.errors import MedcodeError

KeyScope = Literal["predict", "metrics", "admin"]
"""What a key opens; admin opens all."""

SECRET_PREFIX = "mck_"
"""By which scanners for leaked secrets can tell a key."""

logger = logging.getLogger(__name__)


class ApiKey(BaseModel):
    """One entry of the file of keys.

    The secret is 256 random bits, which nobody finds by trying, so one round of SHA-256 protects it; slow hashes are
    for passwords that people think of.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(pattern=r"^[0-9A-Za-z_.@-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[KeyScope, ...] = Field(min_length=1)
    rate_limit: str | None = None
    expires: date | None = None
    """The first day, in UTC, on which it is refused."""

    @field_validator("rate_limit")
    @classmethod
    def _is_limit(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parse_limit(value)
            except MedcodeError as error:
                raise ValueError(str(error)) from None
        return value

    @property
    def anonymous(self) -> bool:
        """Whether this stands for a caller of a server without keys."""
        return not self.sha256

    def allows(self, scope: KeyScope) -> bool:
        """Tell whether the key opens this."""
        return scope in self.scopes or "admin" in self.scopes

    def expired(self) -> bool:
        """Tell whether its day has come."""
        return self.expires is not None and datetime.now(UTC).date() >= self.expires


ANONYMOUS = ApiKey.model_construct(
    name="anonymous", sha256="", scopes=get_args(KeyScope), rate_limit=None, expires=None
)
"""Whoever asks a server without keys; `refuse_open_address` sees to it that this is this machine's user."""


class KeyRing:
    """The keys of a file, read again when it changes: a key is revoked by deleting its entry."""

    def __init__(self, path: Path | None) -> None:
        """Use `load`, which reads the file."""
        self._path = path
        self._keys: tuple[ApiKey, ...] = ()
        self._seen: tuple[int, ...] | None = None
        self._problem = ""

    @classmethod
    def load(cls, path: Path | None) -> "KeyRing":
        """Read a file of keys; None for a server that asks for none.

        Raises:
            MedcodeError: the file cannot be read or an entry is wrong; names file, entry and field.
        """
        ring = cls(path)
        if path is not None:
            ring._seen = _signature(path)
            ring._keys = read_keys(path)
            _warn_if_open(path)
        return ring

    @property
    def required(self) -> bool:
        """Whether callers need a key; an empty file lets nobody in."""
        return self._path is not None

    def find(self, secret: str) -> ApiKey | None:
        """Return the key with this secret; None if there is none or it has expired."""
        self._follow_file()
        digest = _digest(secret)
        found = None
        for key in self._keys:  # all of them, so that the time taken tells nothing
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return None if found is None or found.expired() else found

    def _follow_file(self) -> None:
        if self._path is None:
            return
        seen = _signature(self._path)
        if seen is not None and seen == self._seen:
            return
        try:
            self._keys = read_keys(self._path)
        except MedcodeError as error:
            # Read again at the next request: for want of file descriptors a key that was taken out would stay valid.
            if str(error) != self._problem:
                self._problem = str(error)
                logger.error("the keys read before stay in force: %s", error)  # noqa: TRY400 - a traceback tells no more
            return
        self._seen, self._problem = seen, ""
        logger.info("%s: %d API keys are in force", self._path, len(self._keys))


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Read the entries of a file of keys.

    Raises:
        MedcodeError: the file cannot be read or an entry is wrong; names file, entry and field, and quotes no value.
    """
    try:
        return _parse_keys(path, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MedcodeError(f"{path}: {error.strerror}; make a key: medcode keys new") from None
    except UnicodeDecodeError:
        raise MedcodeError(f"{path}: not a text file in UTF-8") from None


def new_key(
    name: str, scopes: Sequence[KeyScope], rate_limit: str | None = None, expires: date | None = None
) -> tuple[str, str]:
    """Make a key: its secret, which is stored nowhere, and the YAML of its entry.

    Raises:
        MedcodeError: a value is wrong.
    """
    secret = SECRET_PREFIX + secrets.token_urlsafe(32)
    entry = {
        "name": name,
        "sha256": _digest(secret),
        "scopes": list(scopes),
        "rate_limit": rate_limit,
        "expires": expires,
    }
    try:
        ApiKey.model_validate(entry)
    except ValidationError as error:
        raise MedcodeError(f"new key: {_first_problem(error)}") from None
    return secret, yaml.safe_dump([entry], sort_keys=False)


def add_key(
    path: Path,
    name: str,
    scopes: Sequence[KeyScope],
    rate_limit: str | None = None,
    expires: date | None = None,
) -> str:
    """Make a key, append its entry to a file, and return its secret.

    The file, made if missing, is replaced atomically and gets mode 0600; its comments stay.

    Raises:
        MedcodeError: a value is wrong, the name is taken, or the file is broken or cannot be written.
    """
    secret, entry = new_key(name, scopes, rate_limit, expires)
    keys = read_keys(path) if path.exists() else ()
    before = path.read_text(encoding="utf-8") if keys else ""
    if before and not before.endswith("\n"):
        before += "\n"
    _parse_keys(path, before + entry)
    _replace(path, before + entry)
    return secret


def remove_key(path: Path, name: str) -> None:
    """Take a key out of a file; running services refuse it at once. Comments of the file are lost.

    Raises:
        MedcodeError: there is no such key, or the file is broken or cannot be written.
    """
    keys = read_keys(path)
    if name not in {key.name for key in keys}:
        raise MedcodeError(f"{path}: no key is called {name!r}; `medcode keys list` shows them")
    entries = [entry for entry in yaml.safe_load(path.read_text(encoding="utf-8")) if entry["name"] != name]
    _replace(path, yaml.safe_dump(entries, sort_keys=False) if entries else "")


def _replace(path: Path, text: str) -> None:
    """Write a file of keys, whole or not at all, with mode 0600."""
    file = path.resolve()  # a link stays a link
    aside = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:  # noqa: PTH123 - a path could not set the mode at once
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(file)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise MedcodeError(f"{path}: {error.strerror}; name a file that you may write") from None


def is_loopback(host: str) -> bool:
    """Tell whether an address to listen on is reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def refuse_open_address(host: str, keys_required: bool) -> None:
    """Refuse to answer other machines without keys.

    Raises:
        MedcodeError: the address is not this machine's own and no keys are configured.
    """
    if not keys_required and not is_loopback(host):
        raise MedcodeError(
            f"api.host {host}: other machines could ask without a key; make one with `medcode keys new` and name its "
            "file as api.keys_file, or listen on 127.0.0.1"
        )


def identify(connection: HTTPConnection) -> ApiKey:
    """Return the key that a request was sent with, and keep it as `state.api_key`.

    Raises:
        ProblemError: 401 if keys are needed and it has none that is in force.
    """
    state = connection.scope.setdefault("state", {})
    if "api_key" in state:
        known: ApiKey = state["api_key"]
        return known
    service = connection.app.state.service
    keys: KeyRing = service.keys
    secret = _secret(connection)
    key = (keys.find(secret) if secret else None) if keys.required else ANONYMOUS
    if key is None:
        service.metrics.rejected.labels("unauthorized").inc()
        detail = "a valid API key is needed: Authorization: Bearer <key>, or X-API-Key: <key>"
        raise ProblemError(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
    state["api_key"] = key
    return key


_BEARER = HTTPBearer(auto_error=False, scheme_name="bearer", description="An API key.")
_HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="x_api_key", description="An API key.")


@cache
def require(scope: KeyScope) -> Callable[..., Awaitable[ApiKey]]:
    """Return the dependency that lets in callers with a key of this scope.

    It raises ProblemError: 401 `unauthorized`, 403 `forbidden`. Without keys everybody is `ANONYMOUS`.
    """

    async def allowed(
        request: Request,
        # These two only tell OpenAPI of the ways to send a key, for the Authorize button of /docs.
        _bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
        _header: Annotated[str | None, Security(_HEADER)],
    ) -> ApiKey:
        key = identify(request)
        if not key.allows(scope):
            request.app.state.service.metrics.rejected.labels("forbidden").inc()
            raise ProblemError(403, "forbidden", f"this API key lacks the scope {scope}")
        return key

    return allowed


class KeyGate:
    """Asks for a key before anything of a request's body is read.

    FastAPI reads and parses a body before it runs dependencies, so `require` alone would let strangers fill the memory
    and would leave a route that forgot it open. Which scope is needed stays with `require`.
    """

    def __init__(self, app: ASGIApp, open_paths: Collection[str]) -> None:
        """Take the paths that need no key; each stands for all below it."""
        self._app = app
        self._open_paths = tuple(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and not self._is_open(get_route_path(scope)):
            try:
                identify(HTTPConnection(scope))
            except ProblemError as error:
                request_id = scope["state"]["request_id"]
                response = problem_response(error.status, error.kind, error.detail, request_id, headers=error.headers)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path == "/" or any(path == known or path.startswith(f"{known}/") for known in self._open_paths)


def _secret(connection: HTTPConnection) -> str | None:
    scheme, _, secret = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret.strip():
        return secret.strip()
    return connection.headers.get("x-api-key")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _signature(path: Path) -> tuple[int, ...] | None:
    """Return what changes with a file; Kubernetes changes a mounted secret by turning a link to another file."""
    try:
        status = path.stat()
    except OSError:
        return None
    # The time of change too, which nobody can set back, as copying tools do with the other one.
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_mode


def _warn_if_open(path: Path) -> None:
    if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        logger.warning("%s: every user of this machine may read or write it; chmod 600 it", path)


def _parse_keys(path: Path, text: str) -> tuple[ApiKey, ...]:
    try:
        entries: Any = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        raise MedcodeError(f"{path}: not YAML; `medcode keys new` writes entries") from None
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise MedcodeError(f"{path}: not a list of keys; `medcode keys new` writes entries")
    keys: list[ApiKey] = []
    for number, entry in enumerate(entries, start=1):
        try:
            key = ApiKey.model_validate(entry)
        except ValidationError as error:
            raise MedcodeError(f"{path}, entry {number}: {_first_problem(error)}") from None
        if key.name in {other.name for other in keys}:
            raise MedcodeError(f"{path}, entry {number}: name: another key is called {key.name}; take another name")
        if key.sha256 in {other.sha256 for other in keys}:
            raise MedcodeError(f"{path}, entry {number}: sha256: another entry has the same; one key, one entry")
        keys.append(key)
    return tuple(keys)


def _first_problem(error: ValidationError) -> str:
    wrong = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in wrong["loc"])
    return f"{field}: {wrong['msg']}" if field else "no mapping of name, sha256 and scopes"
