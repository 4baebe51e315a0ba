"""What protects a server that a browser can reach: known hosts, no foreign pages, CORS by name, security headers."""

from collections.abc import Collection
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medcode_serving.api.keys import is_loopback
from medcode_serving.api.problems import problem_response
from medcode_serving.errors import MedcodeError
from medcode_serving.settings import ApiSettings

THIS_MACHINE = ("localhost", "127.0.0.1", "::1")

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Keeps other pages from embedding answers; those that CORS admits ask in another mode, which this leaves alone.
    "Cross-Origin-Resource-Policy": "same-origin",
}
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""Content-Security-Policy of what is no page; a page that has one of its own keeps it."""
DOCS_POLICY = "frame-ancestors 'none'"
"""Of FastAPI's /docs and /redoc, which load scripts from a CDN and have some in the page."""
PROBES = "/health/"
"""Below this, every host is known: Kubernetes asks by the pod's address."""


def refuse_strangers(app: FastAPI, settings: ApiSettings) -> None:
    """Refuse unknown hosts and what foreign pages send.

    To be called before `RequestLog` is added, which names and logs such requests.

    Raises:
        MedcodeError: a host or origin is malformed, or every page is let in though no key is needed.
    """
    app.add_middleware(
        StrangerCheck, hosts=_hosts(settings), origins=_origins(settings, settings.keys_file is not None)
    )


def install(app: FastAPI, settings: ApiSettings) -> None:
    """Add CORS, if pages are named, and the security headers.

    To be called after `RequestLog` is added, so that its answers to unforeseen errors have the headers too.

    Raises:
        MedcodeError: as `refuse_strangers`.
    """
    origins = _origins(settings, settings.keys_file is not None)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", "X-API-Key", "X-Request-ID"),
            expose_headers=("X-Request-ID", "Retry-After"),
            allow_private_network=True,  # a page that is named may ask a server in the house
        )
    app.add_middleware(SecurityHeaders)


class StrangerCheck:
    """Refuses requests that a web page of somebody else made the user's browser send.

    Unknown host, 400: evil.example may resolve to 127.0.0.1 (DNS rebinding); to the browser its page and this server
    are then one origin, and the page may read every answer. Only the Host header tells.

    Foreign page, 403: a page may send a form anywhere, without reading the answer; without keys it could so have notes
    predicted, or a model reloaded.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], origins: Collection[str]) -> None:
        """Take known host names ("*": all, "*.example.org": all below) and the origins of known pages."""
        self._app = app
        self._hosts = frozenset(hosts)
        self._suffixes = tuple(host[1:] for host in hosts if host.startswith("*."))
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            refusal = None
            if not self._knows_host(headers.get("host", "")) and not get_route_path(scope).startswith(PROBES):
                detail = "this server does not go by the name in the Host header; api.trusted_hosts lists its names"
                refusal = (400, "unknown_host", detail)
            elif scope["method"] not in ("GET", "HEAD", "OPTIONS") and self._from_foreign_page(headers):
                detail = "web pages of other origins may not ask; api.cors_origins lists those that may"
                refusal = (403, "foreign_page", detail)
            if refusal:
                scope["app"].state.service.metrics.rejected.labels(refusal[1]).inc()
                await problem_response(*refusal, scope["state"]["request_id"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _knows_host(self, header: str) -> bool:
        if "*" in self._hosts:
            return True
        host = _hostname(header)
        return host is not None and (host in self._hosts or host.endswith(self._suffixes))

    def _from_foreign_page(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None or "*" in self._origins or origin in self._origins:
            return False  # no browser, or a page that is known
        site = headers.get("sec-fetch-site")
        if site is not None:
            return site not in ("same-origin", "none")
        return origin.partition("://")[2].lower() != headers.get("host", "").lower()


class SecurityHeaders:
    """Outermost middleware: tells browsers what they must not do with an answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        policy = DOCS_POLICY if get_route_path(scope).startswith(("/docs", "/redoc")) else DATA_POLICY

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers.setdefault("Content-Security-Policy", policy)
            await send(message)

        await self._app(scope, receive, send_protected)


def _hosts(settings: ApiSettings) -> tuple[str, ...]:
    if settings.trusted_hosts:
        hosts = {host: host if host.startswith("*") else _hostname(host) for host in settings.trusted_hosts}
        for name, host in hosts.items():
            if host is None or "*" in host[1:] or (host.startswith("*") and host[1:2] not in ("", ".")):
                raise MedcodeError(f"api.trusted_hosts: {name!r} is no host; write it as in coding.hospital.example")
        return tuple(host.lower() for host in hosts.values() if host)
    if is_loopback(settings.host):
        return (*THIS_MACHINE, settings.host.strip("[]"))
    return ("*",)


def _origins(settings: ApiSettings, keys_required: bool) -> tuple[str, ...]:
    for origin in settings.cors_origins:
        if origin == "*" and keys_required:
            continue
        if origin == "*":
            raise MedcodeError(
                "api.cors_origins: '*' lets every page that this machine's user visits ask; name the pages, or set "
                "api.keys_file"
            )
        if not _is_origin(origin):
            raise MedcodeError(
                f"api.cors_origins: {origin!r} is no origin; write it as browsers do, as in https://coding.example"
            )
    return settings.cors_origins


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https") and bool(parts.netloc) and text == f"{parts.scheme}://{parts.netloc.lower()}"
    )


def _hostname(authority: str) -> str | None:
    """Return the host of host[:port], without the brackets of IPv6; None if it is malformed."""
    try:
        parts = urlsplit(f"//{authority}")
        return None if parts.path or parts.query or parts.fragment or "@" in parts.netloc else parts.hostname
    except ValueError:
        return None
