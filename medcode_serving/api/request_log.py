"""One line of log a request, and an identity for it; neither text nor query string nor exception text."""

import logging
import re
import time
import traceback
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medcode_serving.api.connection import CLIENT_GONE, ClientGoneError
from medcode_serving.api.keys import ApiKey
from medcode_serving.api.metrics import Metrics
from medcode_serving.api.problems import problem_response

REQUEST_ID_HEADER = "X-Request-ID"
_GIVEN_ID = re.compile(r"[0-9A-Za-z._:-]{1,128}")
_REFUSALS = frozenset({400, 401, 403})
"""Statuses of the checks before a route is looked for: unknown host, no key, foreign page."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

logger = logging.getLogger(__name__)


class RequestLog:
    """Around all but the headers for browsers: request id, `no-store`, the log line, and a 500 for what nobody foresaw.

    Nothing that a client makes up reaches log or metrics: the route is its pattern, other methods are "(other)". Only
    its request id is its own, of few characters and those harmless.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics | None = None) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = given if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status: int | None = None

        async def send_identified(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                headers["Cache-Control"] = "no-store"
            await send(message)

        try:
            await self._app(scope, receive, send_identified)
        except (ClientGoneError, ClientDisconnect):
            status = CLIENT_GONE
            if self._metrics is not None:
                self._metrics.rejected.labels("disconnected").inc()
        except Exception as error:  # noqa: BLE001 - its text may quote the note, so it must not reach the server's log
            logger.error("request_id=%s %s at %s", request_id, type(error).__name__, _place(error))  # noqa: TRY400
            if status is None:
                detail = "medcode failed; its log names the place under this request id"
                await problem_response(500, "internal", detail, request_id)(scope, receive, send_identified)
        finally:
            self._record(scope, request_id, status, time.perf_counter() - start)

    def _record(self, scope: Scope, request_id: str, status: int | None, seconds: float) -> None:
        # The route's pattern, not the path, which may hold anything.
        route = getattr(scope.get("route"), "path", "(refused)" if status in _REFUSALS else "(unknown)")
        method = scope["method"] if scope["method"] in _METHODS else "(other)"
        answered = "(none)" if status is None else str(status)  # none: the server was stopped
        caller = _caller(scope)
        logger.info("request_id=%s %s %s %s %s %.1f ms", request_id, caller, method, route, answered, seconds * 1000)
        if self._metrics is not None:
            self._metrics.requests.labels(method, route, answered).inc()
            self._metrics.request_seconds.labels(route).observe(seconds)


def _caller(scope: Scope) -> str:
    """Return who asked: the address, and the key's name if one was needed and found."""
    client = scope.get("client")
    caller = f"client={client[0] if client else '(local)'}"
    key: ApiKey | None = scope["state"].get("api_key")
    return caller if key is None or key.anonymous else f"{caller} key={key.name}"


def _place(error: BaseException) -> str:
    """Return the files and lines that an exception passed, without its text."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
