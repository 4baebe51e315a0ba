import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_serving.api import batch_stream, create_app
from medcode_serving.api.batch_notes import FIRST_WAIT_S
from medcode_serving.api.batch_stream import Lines
from medcode_serving.bundle import Decision, publish, write_bundle
from medcode_serving.engines.protocol import Prediction
from medcode_serving.loading import load_predictor
from medcode_serving.served_models import WARM_UP_NOTE
from medcode_serving.settings import InferenceSettings, load_inference_settings
from tests.serving.conftest import NOTES, make_manifest
from tests.tiny import write_codes

MARKER = "Zylophrastia-4711"
"""Stands in notes; must come out nowhere."""
SMALL = 8192
"""Bytes of a socket's buffer: a server that waits for a reader waits after that many."""


class Server:
    """An application under a real uvicorn."""

    def __init__(self, app, **config) -> None:
        import uvicorn

        self._listener = socket.create_server(("127.0.0.1", 0))
        for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self._listener.setsockopt(socket.SOL_SOCKET, buffer, SMALL)
        self.port = self._listener.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, **config))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})

    def __enter__(self) -> "Server":
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.02)
        return self

    def __exit__(self, *error) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def post(self, path: str = "/predict/batch") -> "RawPost":
        return RawPost(self.port, path)


class RawPost:
    """A request whose body is sent and whose response is read as the test likes."""

    def __init__(self, port: int, path: str) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        self._socket.settimeout(60)
        self._socket.connect(("127.0.0.1", port))
        self._response = self._socket.makefile("rb")
        lines = (
            f"POST {path} HTTP/1.1",
            "Host: 127.0.0.1",
            "Content-Type: application/x-ndjson",
            "Transfer-Encoding: chunked",
        )
        self._socket.sendall("\r\n".join((*lines, "", "")).encode())

    def send(self, data: bytes) -> None:
        self._socket.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self) -> None:
        self._socket.sendall(b"0\r\n\r\n")

    def results(self) -> Iterator[dict]:
        """Yield the results as they come; the server sends each as one chunk."""
        assert self._response.readline().startswith(b"HTTP/1.1 200")
        while self._response.readline().strip():
            pass
        while size := int(self._response.readline(), 16):
            yield json.loads(self._response.read(size))
            self._response.readline()

    def close(self) -> None:
        with suppress(OSError):  # the server was first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._response.close()
        self._socket.close()


def settings_for(home: Path, **flags) -> InferenceSettings:
    flags = {"model.home": str(home), "device": "cpu", "model.engine": "frequency_prior", "queue.gather_ms": 0} | flags
    return load_inference_settings(None, **flags)


@pytest.fixture(scope="module")
def prior_home(vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MEDCODE_HOME with a bundle that is served without a language model."""
    home = tmp_path_factory.mktemp("home")
    adapter, base_model = home / "adapter", home / "base"
    adapter.mkdir()
    base_model.mkdir()
    (base_model / "config.json").touch()
    (base_model / "model.safetensors").touch()
    manifest = make_manifest(base_model)
    counted = manifest.data.model_copy(update={"train_documents": 20})
    measured = {"frequency_prior": Decision(threshold=0.0)}
    manifest = manifest.model_copy(update={"data": counted, "baselines": measured})
    codes = write_codes(home / "codes.parquet", vocabulary)
    publish(write_bundle(home / "bundles", manifest, adapter=adapter, codes=codes))
    return home


@pytest.fixture(scope="module")
def server(prior_home: Path) -> Iterator[Server]:
    # The queue takes fewer notes than a request has in work: they wait for each other.
    limits = {"api.max_body_bytes": 50_000, "api.max_batch_notes": 40, "queue.max_notes": 6}
    with Server(create_app(settings_for(prior_home, **limits))) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def lines_of(response: httpx.Response) -> list[dict]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] in ("application/x-ndjson", "application/jsonl")
    assert response.headers["cache-control"] == "no-store"
    return [json.loads(line) for line in response.text.splitlines()]


def post_lines(client: httpx.Client, body, *, path="/predict/batch", media_type="application/x-ndjson") -> list[dict]:
    return lines_of(client.post(path, content=body, headers={"content-type": media_type}))


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def kind(result: dict) -> str | None:
    return result["problem"]["type"].removeprefix("urn:medcode:problem:") if "problem" in result else None


def test_a_document_is_answered_in_order_and_errors_are_a_note_s_own(client: httpx.Client) -> None:
    notes = [{"id": place, "text": NOTES[place % len(NOTES)]} for place in range(30)]
    notes[3] = {"text": " \n"}
    notes[4] = {"id": "half a pair", "text": f"\ud800 {MARKER}"}
    notes[5] = {"id": "misspelt", "txt": MARKER}
    notes[6] = {"id": "many", "text": "fever"} | {f"{MARKER}{place}": 1 for place in range(1000)}
    notes[7] = [MARKER]
    notes[8] = {"id": 3.5, "text": MARKER}
    response = client.post(
        "/predict/batch", content=json.dumps({"notes": notes, "top_k": 2}), headers={"content-type": "application/json"}
    )
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    ids = [0, 1, 2, None, "half a pair", "misspelt", "many", None, None, *range(9, 30)]
    assert [result["id"] for result in results] == ids
    kinds = [None, None, None, "empty", "not_unicode", *["invalid_request"] * 4, None]
    assert [kind(result) for result in results[:10]] == kinds
    assert results[3]["problem"]["status"] == 422
    alone = client.post("/predict", json={"text": NOTES[0], "top_k": 2}).json()
    assert results[0]["prediction"]["codes"] == alone["codes"] != []
    assert results[0].keys() == {"id", "prediction"}
    assert MARKER not in response.text
    assert client.post("/predict/batch", json={"notes": []}).json() == {"results": []}


def test_options_stand_in_the_document_or_in_the_query(client: httpx.Client) -> None:
    note = {"notes": [{"text": "fever"}]}
    (result,) = client.post("/predict/batch?top_k=1&threshold=0.3", json=note | {"top_k": 2}).json()["results"]
    assert len(result["prediction"]["codes"]) == 2
    assert result["prediction"]["threshold"] == 0.3
    (line,) = post_lines(client, b'{"text": "fever"}', path="/predict/batch?top_k=1")
    assert len(line["prediction"]["codes"]) == 1


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (b"", 422, "invalid_json"),
        (b'{"notes": [' + MARKER.encode(), 422, "invalid_json"),
        (b"[" * 40_000, 422, "invalid_json"),
        (json.dumps({"notes": MARKER}), 422, "invalid_request"),
        (json.dumps({"notes": [{"text": [MARKER]}], "threshold": 3}), 422, "invalid_request"),
        (
            json.dumps({"notes": [{"text": "x"}]} | dict.fromkeys(map(str, range(3000)), MARKER[0])),
            422,
            "invalid_request",
        ),
        (json.dumps({"notes": [{"text": "x"}] * 41}), 413, "too_many_notes"),
        (json.dumps({"notes": [{"text": MARKER * 5000}]}), 413, "http_413"),
        (json.dumps({"notes": [], "recipe": MARKER}), 404, "unknown_recipe"),
    ],
)
def test_documents_that_are_refused(client: httpx.Client, body, status: int, expected: str) -> None:
    response = client.post("/predict/batch", content=body, headers={"content-type": "application/json; charset=utf-8"})
    assert response.status_code == status
    assert response.json()["type"] == f"urn:medcode:problem:{expected}"
    assert MARKER not in response.text
    assert len(response.content) < 2000


def test_only_json_and_lines_are_read(client: httpx.Client) -> None:
    response = client.post("/predict/batch", content=MARKER, headers={"content-type": "text/plain"})
    assert (response.status_code, response.json()["type"]) == (415, "urn:medcode:problem:media_type")
    response = client.post("/predict/batch?recipe=x", content="", headers={"content-type": "application/jsonl"})
    assert response.status_code == 404
    response = client.post("/predict/batch?top_k=0", content="", headers={"content-type": "application/jsonl"})
    assert response.status_code == 422


def test_lines_are_answered_each_with_its_number(client: httpx.Client) -> None:
    body = b"\n".join(
        [
            b'{"id": "a", "text": "Hypertension."}\r',
            b"",
            b"  \t ",
            b'{"id": "b", "text": ""}',
            MARKER.encode(),
            b'{"id": 5, "text": "' + b"x" * 60_000 + b'"}',
            b'{"id": 6, "text": "fever", "' + MARKER.encode() + b'": 1}',
            b'["' + MARKER.encode() + b'"]',
            b'{"id": "\xff"}',
            b"[" * 20_000,
            b"9" * 5000,
            json.dumps({"id": "c", "text": "fever"} | {f"{MARKER}{place}": 1 for place in range(1000)}).encode(),
            b'{"id": 11, "text": "Pneumonia."}',  # nothing ends the last line
        ]
    )
    results = post_lines(client, body, media_type="application/jsonl")
    assert [(result["line"], result["id"], kind(result)) for result in results] == [
        (1, "a", None),
        (4, "b", "empty"),
        (5, None, "invalid_json"),
        (6, None, "line_too_long"),
        (7, 6, "invalid_request"),
        (8, None, "invalid_request"),
        (9, None, "invalid_json"),
        (10, None, "invalid_json"),
        (11, None, "invalid_json"),
        (12, "c", "invalid_request"),
        (13, 11, None),
    ]
    assert MARKER not in json.dumps(results)
    assert len(json.dumps(results[-2])) < 300
    assert post_lines(client, b"") == post_lines(client, b"\n\n") == []


def test_a_body_without_end_is_answered_while_it_arrives(server: Server) -> None:
    post = server.post()
    post.send(b'{"id": 1, "text": "Hyperten')
    post.send(b'sion."}\n{"id": 2,')
    results = post.results()
    assert next(results)["id"] == 1
    post.send(b' "text": ""}\n')
    assert kind(next(results)) == "empty"
    for place in range(3, 6):
        post.send(b'{"id": %d, "text": "fever"}\n' % place)
        assert next(results)["line"] == place
    post.end()
    assert list(results) == []
    post.close()


def many_lines(count: int) -> bytes:
    """Notes every hundredth of which is answered; the others are empty, which costs little."""
    texts = ("fever" if place % 100 == 0 else " " * 200 for place in range(count))
    return b"".join(json.dumps({"id": place, "text": text}).encode() + b"\n" for place, text in enumerate(texts))


def test_a_client_may_send_everything_before_it_reads(server: Server) -> None:
    post = server.post()
    for _ in range(4):
        post.send(many_lines(1000))
    post.end()
    results = list(post.results())
    assert [result["line"] for result in results] == list(range(1, 4001))
    assert [kind(result) for result in results[:2]] == [None, "empty"]
    post.close()


def test_a_client_that_never_reads_is_given_up(
    prior_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batch_stream, "HELD_BYTES", 20_000)
    with Server(create_app(settings_for(prior_home, **{"api.timeout_s": 0.5}))) as server:
        post = server.post()

        def send_only() -> None:
            with suppress(OSError):
                while True:
                    post.send(many_lines(1000))

        sending = threading.Thread(target=send_only)
        sending.start()
        wait_until(lambda: "reads no results" in caplog.text)
        post.close()
        sending.join()


def test_a_client_that_reads_is_not_given_up_however_much_it_sends(
    prior_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_stream, "HELD_BYTES", 20_000)
    with Server(create_app(settings_for(prior_home))) as server, server.client() as client:
        assert len(post_lines(client, (many_lines(500) for _ in range(4)))) == 2000


def test_a_client_that_neither_reads_nor_sends_is_given_up(prior_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Server(create_app(settings_for(prior_home, **{"api.timeout_s": 0.3}))) as server:
        post = server.post()
        for _ in range(3):
            post.send(many_lines(1000))
        wait_until(lambda: "reads no results" in caplog.text)
        post.close()


def test_a_client_may_read_late_while_it_sends(prior_home: Path) -> None:
    with Server(create_app(settings_for(prior_home, **{"api.timeout_s": 5}))) as server:
        post = server.post()
        for _ in range(3):
            post.send(many_lines(1000))  # more results than go into the sockets' buffers
        for _ in range(28):
            time.sleep(0.2)
            post.send(b"\n")
        post.end()
        assert len(list(post.results())) == 3000
        post.close()


def test_a_server_that_ends_ends_its_streams(prior_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Server(create_app(settings_for(prior_home)), timeout_graceful_shutdown=0.1) as server:
        post = server.post()
        post.send(b'{"text": "fever"}\n')
        next(post.results())
    post.close()
    assert "timeout graceful shutdown exceeded" in caplog.text
    assert "ExceptionGroup" not in caplog.text


class Endless:
    """An engine that answers no note but the first, until its requests leave or `may_end` is set."""

    name = "frequency_prior"

    def __init__(self) -> None:
        self.started, self.ended, self.may_end = threading.Event(), threading.Event(), threading.Event()

    def predict(self, notes, *, options=None, on_progress=None):
        if list(notes) == [WARM_UP_NOTE]:
            return [Prediction(())]
        self.started.set()
        while not self.may_end.is_set() and not all(option.ended() for option in options):
            time.sleep(0.005)
        self.ended.set()
        return [Prediction((), outcome="ended" if option.ended() else "complete") for option in options]

    def close(self) -> None:
        pass

    def load(self, *arguments):
        predictor = load_predictor(*arguments)
        predictor.engine = self
        return predictor


def test_a_client_that_leaves_cancels_its_notes(prior_home: Path) -> None:
    engine = Endless()
    with Server(create_app(settings_for(prior_home), load=engine.load)) as server:
        document = json.dumps({"notes": [{"text": "fever"}] * 50}).encode()
        stream = b'{"text": "fever"}\n' * 50
        for media_type, body in (("application/json", document), ("application/x-ndjson", stream)):
            engine.started.clear(), engine.ended.clear()
            head = f"POST /predict/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {media_type}\r\n"
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                assert engine.started.wait(60)
            assert engine.ended.wait(60)


def test_streams_leave_half_of_the_queue_to_others(prior_home: Path, tmp_path: Path) -> None:
    engine = Endless()
    flags = {"queue.max_notes": 8, "generation.batch_size": 4, "logging.audit_file": str(tmp_path / "audit.jsonl")}
    app = create_app(settings_for(prior_home, **flags), load=engine.load)
    with Server(app) as server, server.client() as client, ThreadPoolExecutor(4) as pool:
        posts = [server.post() for _ in range(3)]
        for post in posts:
            post.send(b'{"text": "fever"}\n' * 20)
            post.end()
        queue = app.state.service.queue
        wait_until(lambda: len(queue) >= 4)
        time.sleep(3 * FIRST_WAIT_S)  # the others have asked again
        assert len(queue) == 4
        singles = [pool.submit(client.post, "/predict", json={"text": "fever"}) for _ in range(3)]
        wait_until(lambda: len(queue) == 7)
        assert client.get("/health/ready").status_code == 204
        engine.may_end.set()
        assert [single.result().status_code for single in singles] == [200] * 3
        assert [len(list(post.results())) for post in posts] == [20] * 3
        outcomes = [json.loads(line)["outcome"] for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
        assert outcomes == ["answered"] * 63
        rejected = re.findall(r'rejected_total{reason="queue_full"} (.+)', client.get("/metrics").text)
        assert rejected in ([], ["0.0"])
        for post in posts:
            post.close()


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(server: Server) -> None:
    body = b'{"text": "fever"}\n'
    head = (
        "POST /predict/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/jsonl\r\nExpect: 100-continue\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as connection, connection.makefile("rb") as response:
        connection.settimeout(60)
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        assert response.readline() == b"HTTP/1.1 100 Continue\r\n"
        response.readline()
        connection.sendall(body)
        assert response.readline() == b"HTTP/1.1 200 OK\r\n"


def test_the_description_tells_of_both_kinds(client: httpx.Client) -> None:
    route = client.get("/openapi.json").json()["paths"]["/predict/batch"]["post"]
    kinds = {"application/json", "application/x-ndjson", "application/jsonl"}
    assert set(route["requestBody"]["content"]) == set(route["responses"]["200"]["content"]) == kinds
    assert route["requestBody"]["content"]["application/json"]["schema"]["examples"]
    assert {parameter["name"] for parameter in route["parameters"]} >= {"recipe", "top_k", "evidence"}
    assert {"413", "415", "422", "503"} <= set(route["responses"])


@given(st.lists(st.binary(max_size=6)), st.lists(st.integers(1, 9)), st.integers(0, 7))
def test_lines_do_not_depend_on_where_the_body_is_cut(parts: list[bytes], cuts: list[int], most: int) -> None:
    body = b"\n".join(parts)
    whole = body.split(b"\n")
    expected = [line if len(line) <= most else None for line in (whole if whole[-1] else whole[:-1])]
    lines, found, start = Lines(most), [], 0
    for size in [*cuts, len(body)]:
        found += lines.feed(body[start : start + size])
        start += size
    assert [*found, *lines.end()] == expected
