"""Stops the work for a client that has gone away: a plain handler would run on to its end."""

from collections.abc import Awaitable
from typing import TypeVar

import anyio
from fastapi import Request

Result = TypeVar("Result")

CLIENT_GONE = 499
"""Status in the log for a request whose client did not wait for the answer (nginx's convention)."""


class ClientGoneError(Exception):
    """The client closed the connection before the answer."""


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """Await something, and cancel it if the client closes the connection. The request's body has to be read already.

    Raises:
        ClientGoneError: the client went away first.
    """
    outcome: list[Result] = []
    failure: list[Exception] = []

    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            outcome.append(await work)
        except Exception as error:  # noqa: BLE001 - raised again below: a task group would wrap it in a group
            failure.append(error)
        group.cancel_scope.cancel()
    if failure:
        raise failure[0]
    if not outcome:
        raise ClientGoneError
    return outcome[0]
