"""Runs the application under uvicorn."""

import errno
import logging
import math
import os
import socket
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from medcode_serving.api.app import create_app
from medcode_serving.api.keys import refuse_open_address
from medcode_serving.errors import MedcodeError
from medcode_serving.settings import InferenceSettings

logger = logging.getLogger(__name__)


def serve(settings: InferenceSettings) -> None:
    """Serve until interrupted; then requests that run are finished, for `api.shutdown_s` at most.

    Logs go to stderr; uvicorn's access log, which has query strings, is off.

    Raises:
        MedcodeError: a public address without API keys, one that cannot be listened on, or settings that are not
            usable.
    """
    logging.basicConfig(
        level=settings.logging.level, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    refuse_open_address(settings.api.host, keys_required=settings.api.keys_file is not None)
    sockets = bind(settings.api.host, settings.api.port)  # before the model is loaded, which takes longer
    logger.info("loading the model ...")
    with suppress(KeyboardInterrupt):  # uvicorn raises it once more after it has shut down
        TellingServer(uvicorn_config(create_app(settings), settings), ui=settings.api.ui).run(sockets)


def uvicorn_config(app: FastAPI, settings: InferenceSettings) -> uvicorn.Config:
    """Return how uvicorn serves the application, all but where: `uvicorn.Server.run` is given bound sockets."""
    return uvicorn.Config(
        app,
        http="h11",  # httptools, uvicorn's choice otherwise, keeps headers of any size and number in memory
        access_log=False,
        log_config=None,
        proxy_headers=False,  # whoever asks could give himself another address in each request
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.api.shutdown_s),
    )


class TellingServer(uvicorn.Server):
    """A server that tells its addresses in the log as soon as it answers there."""

    def __init__(self, config: uvicorn.Config, *, ui: bool) -> None:
        """Take how to serve, and whether there is a page."""
        super().__init__(config)
        self._ui = ui

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Load what the application loads, and listen.

        Raises:
            MedcodeError: somebody else has come to listen there while the model was loaded.
        """
        addresses = [url(bound) for bound in sockets or ()]
        try:
            await super().startup(sockets)
            for bound in sockets or ():
                bound.getsockname()  # fails where uvloop could not listen: it closes the socket without a word
        except OSError:
            await self.lifespan.shutdown()
            raise MedcodeError(f"{addresses[0]}: another server was sooner; choose another port: --port") from None
        for address in addresses:
            page = f", page {address}/ui" if self._ui else ""
            logger.info("serving: API %s, its documentation %s/docs%s; Ctrl-C ends it", address, address, page)


def url(bound: socket.socket) -> str:
    """Return the address under which a socket answers."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind a socket to each address of a host, without listening: until the model is loaded, connections are refused.

    Args:
        host: Name or address.
        port: The same for all; 0 takes a free one.

    Raises:
        MedcodeError: the host has no address of this machine, or the port is in use or not for everyone.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise MedcodeError(f"api.host {host}: no such address; choose another: --host") from None
    sockets: list[socket.socket] = []
    elsewhere: set[str] = set()
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
        try:
            sockets.append(_bound(family, (address[0], port, *address[2:])))
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                elsewhere.add(str(address[0]))  # `localhost` is ::1, too, even where IPv6 is off
                continue
            for bound in sockets:
                bound.close()
            raise MedcodeError(_refusal(error, str(address[0]), port)) from None
        port = port or sockets[0].getsockname()[1]
    if not sockets:
        addresses = ", ".join(sorted(elsewhere))
        raise MedcodeError(f"api.host {host}: {addresses} is no address of this machine; choose another: --host")
    return sockets


def _refusal(error: OSError, address: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"api.port {port} is in use on {address}; choose another: --port"
    return f"api.port {port} on {address}: {error.strerror}; choose another: --port"


def _bound(family: int, address: tuple[object, ...]) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two servers have one port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
