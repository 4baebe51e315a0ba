"""What a process that serves does before it answers, and what it takes from the network: real sockets, real uvicorn."""

import contextlib
import logging
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI

from medcode_serving.api import page, server
from medcode_serving.errors import MedcodeError
from medcode_serving.settings import InferenceSettings, load_inference_settings

ENDLESS = 5_000_000
"""Bytes of a header that never ends."""


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


def settings(**flags: object) -> InferenceSettings:
    return load_inference_settings(None, **{"api.port": 0, **flags})


@contextlib.contextmanager
def serving(sockets: list[socket.socket]) -> Iterator[str]:
    """The page alone, served as `medcode serve` serves; gives its address."""
    running = page_server()
    thread = threading.Thread(target=running.run, args=(sockets,))
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive(), "uvicorn did not start"
            time.sleep(0.01)
        yield server.url(sockets[0])
    finally:
        running.should_exit = True
        thread.join()


def page_server() -> server.TellingServer:
    app = FastAPI()
    app.include_router(page.router)
    return server.TellingServer(server.uvicorn_config(app, settings()), ui=True)


def test_a_port_in_use_is_told_before_a_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(MedcodeError) as error:
            server.serve(settings(**{"api.port": port, "model.home": "/nowhere"}))
    assert str(error.value) == f"api.port {port} is in use on 127.0.0.1; choose another: --port"
    for host, told in [("192.0.2.1", "is no address of this machine"), ("no-such.invalid", "no such address")]:
        with pytest.raises(MedcodeError, match=f"api.host {host}: .*{told}"):
            server.bind(host, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a port is bound once")
def test_of_two_servers_that_load_at_once_one_serves() -> None:
    first = server.bind("127.0.0.1", 0)
    second = server.bind("127.0.0.1", first[0].getsockname()[1])
    with serving(first) as address, pytest.raises(MedcodeError, match=f"{address}: another server was sooner"):
        page_server().run(second)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6"))]
)
def test_where_it_serves_is_told(host: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with (
        serving(server.bind(host, 0)) as address,
        httpx.Client(base_url=address, timeout=60, trust_env=False) as client,
    ):
        found = client.get("/")
        assert (found.status_code, found.headers["Location"]) == (307, "ui")
        assert client.get("/", follow_redirects=True).url.path == "/ui"
    assert f"serving: API {address}, its documentation {address}/docs, page {address}/ui" in caplog.text


@pytest.mark.parametrize("piece", [b"x" * 50_000, b"x: y\r\n" * 8000], ids=["one endless header", "endless headers"])
def test_headers_without_end_are_refused(piece: bytes) -> None:
    with serving(server.bind("127.0.0.1", 0)) as address:
        url = httpx.URL(address)
        tracemalloc.start()
        try:
            with socket.create_connection((url.host, url.port), timeout=60) as client:
                sent, answer = 0, b""
                with contextlib.suppress(ConnectionError):
                    client.sendall(b"GET /ui HTTP/1.1\r\nHost: a\r\nx: ")
                    while sent < ENDLESS:
                        client.sendall(piece)
                        sent += len(piece)
                with contextlib.suppress(ConnectionError):
                    answer = client.recv(100)
                peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert sent < ENDLESS or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431")), "it went on reading"
        assert peak < ENDLESS / 2
        assert httpx.get(f"{address}/ui", timeout=60, trust_env=False).status_code == 200
