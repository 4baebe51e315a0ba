"""Refuses a request whose body is too long: at once if it says so, else while it arrives.

FastAPI's own `max_body_size` answers in plain text, around the problem documents and the request log.
"""

from collections.abc import Collection

from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyTooLongError(HTTPException):
    """A body of more bytes than is allowed. FastAPI lets no other kind of error through while it reads a body."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(413, f"the request has more than {max_bytes} bytes (api.max_body_bytes)")


class BodyLimit:
    """Innermost middleware: raises 413 inside the handler, where it becomes a problem document."""

    def __init__(self, app: ASGIApp, max_bytes: int, streamed_paths: Collection[str] = ()) -> None:
        """Take the most bytes of a body, and the paths whose handlers read one piece by piece, without limit."""
        self._app = app
        self._max_bytes = max_bytes
        self._streamed_paths = frozenset(streamed_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or get_route_path(scope) in self._streamed_paths:
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        too_long = announced.isdecimal() and int(announced) > self._max_bytes
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            if too_long:
                raise BodyTooLongError(self._max_bytes)
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise BodyTooLongError(self._max_bytes)
            return message

        await self._app(scope, receive_within_limit, send)
