import json
import logging
import os
import resource
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import anyio
import httpx
import pytest
import yaml
from fastapi import APIRouter, Depends, FastAPI, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_serving.answers import Fallback, ModelIdentity, PredictedCode, PredictionOptions, PredictionResponse
from medcode_serving.api import browsers, metrics
from medcode_serving.api.audit import AuditLog
from medcode_serving.api.body_limit import BodyLimit
from medcode_serving.api.connection import while_connected
from medcode_serving.api.keys import (
    ApiKey,
    KeyGate,
    KeyRing,
    add_key,
    new_key,
    refuse_open_address,
    remove_key,
    require,
)
from medcode_serving.api.metrics import Metrics
from medcode_serving.api.problems import (
    ProblemError,
    describe_problems,
    install_handlers,
    problem_response,
    problem_responses,
)
from medcode_serving.api.rate_limits import RateLimits, check_rate
from medcode_serving.api.request_log import RequestLog
from medcode_serving.errors import MedcodeError
from medcode_serving.settings import ApiSettings

MARKER = "Zylophrastia-4711"
"""Stands in notes; must come out nowhere."""

ANSWER = PredictionResponse(
    codes=[PredictedCode(system="icd10cm", code="E11.9", description=None, probability=0.9)],
    model=ModelIdentity(recipe="icd", version="v1", base_model="embedded"),
    engine="linear",
    fallback=Fallback(engine="transformers", reason="timeout"),
    threshold=0.4,
    truncated=True,
    dropped=2,
    processing_time_ms=41.7,
)

predict = APIRouter(prefix="/notes", dependencies=[Depends(require("predict")), Depends(check_rate)])
others = APIRouter()


class Note(PredictionOptions):
    text: str


@predict.post("/{place}", responses=problem_responses(401, 403, 429))
async def answer(place: str, note: Note, request: Request) -> PredictionResponse:
    request.app.state.service.metrics.answered(ANSWER)
    request.app.state.service.audit.prediction(request, note.text, ANSWER, note_id="n1")
    return ANSWER


@predict.post("")
async def upload(file: UploadFile) -> int:
    return len(await file.read())


@others.get("/who")
async def who(key: Annotated[ApiKey, Depends(require("admin"))]) -> str:
    return key.name


@others.get("/busy")
async def busy() -> None:
    raise ProblemError(503, "queue_full", "too many notes", retry_after=1.2)


@others.get("/broken")
async def broken() -> None:
    raise RuntimeError(MARKER)


@others.get("/slow")
async def slow(request: Request) -> None:
    await while_connected(request, anyio.sleep_forever())


@others.post("/lines", openapi_extra={"requestBody": {"content": {"text/x": {"schema": {"properties": {"rows": {}}}}}}})
async def lines(request: Request) -> int:
    return sum([len(piece) async for piece in request.stream()])


@others.post("/rows")
async def rows() -> None:
    wrong = {"type": "missing", "msg": "Field required"}
    raise RequestValidationError([wrong | {"loc": ("body", "rows", 2)}, wrong | {"loc": ("body", MARKER)}])


@others.get("/health/live")
async def live() -> str:
    return "yes"


@others.get("/ui")
async def page() -> Response:
    return Response("<!doctype html>", headers={"Content-Security-Policy": "default-src 'self'"})


def small_app(audit_file: Path | None = None, **values) -> FastAPI:
    """The parts around the routes, wired as in the service."""
    api = ApiSettings(**values)
    app = FastAPI()
    app.state.service = SimpleNamespace(
        keys=KeyRing.load(api.keys_file),
        metrics=Metrics(),
        rate_limits=RateLimits(api.rate_limit),
        audit=AuditLog(audit_file),
    )
    install_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=10_000, streamed_paths=["/lines"])
    app.add_middleware(KeyGate, open_paths=["/health", "/openapi.json"])
    browsers.refuse_strangers(app, api)
    app.add_middleware(RequestLog, metrics=app.state.service.metrics)
    browsers.install(app, api)
    for router in (predict, others, metrics.router):
        app.include_router(router)
    describe_problems(app)
    return app


@contextmanager
def running(app: FastAPI, **headers: str) -> Iterator[httpx.Client]:
    """Run an application under a real uvicorn."""
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=60, headers=headers, verify=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def problem(response: httpx.Response, status: int, kind: str) -> dict:
    """Check the form of a problem document and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["type"] == f"urn:medcode:problem:{kind}"
    assert body["request_id"] == response.headers["x-request-id"]
    assert MARKER not in response.text
    return body


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.yaml"


@pytest.fixture(scope="module")
def secrets(keys_file: Path) -> dict[str, str]:
    made = {scope: add_key(keys_file, f"{scope}-key", [scope]) for scope in ("predict", "metrics", "admin")}
    return made | {"old": add_key(keys_file, "old", ["admin"], expires=datetime.now(UTC).date())}


@pytest.fixture(scope="module")
def client(keys_file: Path, secrets: dict[str, str]) -> Iterator[httpx.Client]:
    with running(small_app(keys_file=keys_file)) as client:
        yield client


def test_a_key_opens_its_scopes_and_admin_opens_all(client: httpx.Client, secrets: dict[str, str]) -> None:
    def status(path: str, scope: str) -> int:
        method = "POST" if path.startswith("/notes") else "GET"
        body = {"text": "fever"} if method == "POST" else None
        return client.request(method, path, json=body, headers=bearer(secrets[scope])).status_code

    assert [status("/notes/a", scope) for scope in ("predict", "metrics", "admin")] == [200, 403, 200]
    assert [status("/metrics", scope) for scope in ("predict", "metrics", "admin")] == [403, 200, 200]
    assert [status("/who", scope) for scope in ("predict", "metrics", "admin")] == [403, 403, 200]
    assert client.get("/who", headers={"X-API-Key": secrets["admin"]}).json() == "admin-key"
    problem(client.get("/who", headers=bearer(secrets["predict"])), 403, "forbidden")
    metrics = client.get("/metrics", headers=bearer(secrets["metrics"])).text
    assert 'medcode_rejected_total{reason="forbidden"} 5.0' in metrics


def test_nothing_else_gets_in(client: httpx.Client, secrets: dict[str, str]) -> None:
    wrong = [
        {},
        bearer("mck_" + "a" * 43),
        bearer(secrets["predict"][:-1]),
        {"Authorization": "Bearer"},
        bearer(secrets["old"]),
    ]
    wrong += [{"Authorization": secrets["predict"]}, {"X-API-Key": "ü".encode("latin-1")}]  # type: ignore[dict-item]
    for headers in wrong:
        response = client.post("/notes/a", json={"text": MARKER}, headers=headers)
        problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
    problem(client.get("/busy"), 401, "unauthorized")  # a route that forgot to ask
    problem(client.get(f"/{MARKER}"), 401, "unauthorized")
    assert client.get("/health/live").status_code == 200


def test_strangers_are_turned_away_before_their_body_is_read(client: httpx.Client) -> None:
    # Behind the key check this would be a 422, and twice the limit a 413.
    problem(client.post("/notes/a", content=b"{" + MARKER.encode()), 401, "unauthorized")
    problem(client.post("/notes/a", content=bytes(20_000)), 401, "unauthorized")


def test_openapi_offers_both_ways_and_only_problem_documents(client: httpx.Client) -> None:
    description = client.get("/openapi.json").json()
    assert set(description["components"]["securitySchemes"]) == {"bearer", "x_api_key"}
    operation = description["paths"]["/notes/{place}"]["post"]
    assert operation["security"] == [{"bearer": []}, {"x_api_key": []}]  # a list says: one of them
    assert set(operation["responses"]) == {"200", "401", "403", "422", "429"}
    assert "Retry-After" in operation["responses"]["429"]["headers"]
    assert not {"HTTPValidationError", "ValidationError"} & set(description["components"]["schemas"])
    for path in description["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if not status.startswith("2"):
                    assert list(response["content"]) == ["application/problem+json"]


def test_body_limit(client: httpx.Client, secrets: dict[str, str]) -> None:
    headers = bearer(secrets["predict"])
    problem(client.post("/notes/a", json={"text": MARKER * 1000}, headers=headers), 413, "http_413")
    problem(client.post("/notes", files={"file": bytes(20_000)}, headers=headers), 413, "http_413")
    pieces = (bytes(1000) for _ in range(20))  # a body that does not tell its length
    problem(client.post("/notes/a", content=pieces, headers=headers), 413, "http_413")
    assert client.post("/lines", content=bytes(20_000), headers=headers).json() == 20_000


def test_the_log_tells_who_asked_from_where(
    keys_file: Path, secrets: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="medcode_serving.api.request_log")
    with running(small_app(keys_file=keys_file)) as client:
        client.get("/who", headers=bearer(secrets["admin"]))
        client.get("/who", headers=bearer(secrets["predict"]))
        client.get("/who", headers=bearer(secrets["old"]))
        client.get(f"/{MARKER}")
        client.get("/health/live")
    assert [record.getMessage().split()[1:-2] for record in caplog.records] == [
        ["client=127.0.0.1", "key=admin-key", "GET", "/who", "200"],
        ["client=127.0.0.1", "key=predict-key", "GET", "/who", "403"],
        ["client=127.0.0.1", "GET", "(refused)", "401"],
        ["client=127.0.0.1", "GET", "(refused)", "401"],
        ["client=127.0.0.1", "GET", "/health/live", "200"],
    ]


@pytest.mark.parametrize("given", ["7", "4bf92f35.00:f0_67-aa", "x" * 128])
def test_a_request_id_of_the_client_is_kept(client: httpx.Client, given: str) -> None:
    assert client.get("/health/live", headers={"X-Request-ID": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "a\tb", "a=b", "x" * 129, "\u00e9".encode("latin-1")])
def test_another_one_is_replaced(client: httpx.Client, given: str) -> None:
    answer = client.get("/health/live", headers={"X-Request-ID": given})
    assert len(answer.headers["x-request-id"]) == 32


def test_retry_after_is_in_whole_seconds(client: httpx.Client, secrets: dict[str, str]) -> None:
    response = client.get("/busy", headers=bearer(secrets["predict"]))
    problem(response, 503, "queue_full")
    assert response.headers["retry-after"] == "2"


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters(), max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "recipe", "top_k", "\ud800", MARKER]), children, max_size=4)
    ),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(body=anything)
def test_whatever_is_sent_no_error_is_ours_and_none_quotes_it(
    client: httpx.Client, secrets: dict[str, str], body: object
) -> None:
    headers = bearer(secrets["predict"]) | {"content-type": "application/json"}
    response = client.post("/notes/a", content=json.dumps(body), headers=headers)
    if response.status_code != 200:
        errors = problem(response, 422, "invalid_request")["errors"]
        known = {"body", "path", "place", "(unknown)", *Note.model_fields}
        assert all(isinstance(part, int) or part in known for error in errors for part in error["loc"])


def test_every_documented_name_is_told(client: httpx.Client, secrets: dict[str, str]) -> None:
    errors = problem(client.post("/rows", headers=bearer(secrets["predict"])), 422, "invalid_request")["errors"]
    assert [error["loc"] for error in errors] == [["body", "rows", 2], ["body", "(unknown)"]]


def test_half_a_surrogate_pair_in_a_detail_is_no_server_error() -> None:
    assert b'"no recipe ?"' in problem_response(404, "unknown_recipe", "no recipe \ud800", "5f0c").body


def test_without_a_file_everybody_of_this_machine_may_do_all() -> None:
    with running(small_app()) as client:
        assert client.get("/who").json() == "anonymous"
        assert client.get("/metrics").status_code == 200
    refuse_open_address("127.0.0.7", keys_required=False)
    refuse_open_address("::1", keys_required=False)
    refuse_open_address("localhost", keys_required=False)
    refuse_open_address("0.0.0.0", keys_required=True)
    for host in ("0.0.0.0", "::", "10.0.0.1", "coding.example", ""):
        with pytest.raises(MedcodeError, match="medcode keys new"):
            refuse_open_address(host, keys_required=False)


def test_the_file_holds_no_secret_and_keeps_its_comments(tmp_path: Path) -> None:
    path = tmp_path / "made" / "keys.yaml"
    first = add_key(path, "coder", ["predict"], rate_limit="60/minute", expires=date(2999, 1, 1))
    path.write_text("# ward 7\n" + path.read_text().rstrip("\n"))
    second = add_key(path, "scraper", ["metrics"])
    text = path.read_text()
    assert text.startswith("# ward 7\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert first not in text and second not in text
    assert len(first) == len("mck_") + 43  # 256 bits in base64
    ring = KeyRing.load(path)
    coder, scraper = ring.find(first), ring.find(second)
    assert coder and scraper
    assert (coder.name, coder.rate_limit, scraper.scopes) == ("coder", "60/minute", ("metrics",))
    with pytest.raises(MedcodeError, match=r"entry 3: name: another key is called coder"):
        add_key(path, "coder", ["admin"])
    assert path.read_text() == text


def test_a_changed_file_is_in_force_at_once_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.yaml"
    first = add_key(path, "first", ["predict"])
    ring = KeyRing.load(path)
    second = add_key(path, "second", ["predict"])
    assert ring.find(second)
    path.write_text("- name: [")
    assert ring.find(first) and ring.find(second)
    path.unlink()
    assert ring.find(first) and ring.find(second)
    assert [record.levelname for record in caplog.records if "keys read before" in record.message] == ["ERROR"] * 2
    entries = new_key("third", ["admin"])[1]
    path.write_text(entries)
    assert ring.find(first) is None and ring.find(second) is None
    path.write_text("")  # nobody is left: that does not mean everybody
    assert ring.required


def test_a_file_that_could_not_be_read_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys.yaml"
    first = add_key(path, "first", ["predict"])
    ring = KeyRing.load(path)
    remove_key(path, "first")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert ring.find(first) and ring.find(first)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert ring.find(first) is None
    assert caplog.text.count("Too many open files") == 1


def test_an_edit_that_keeps_size_and_time_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    first = add_key(path, "first", ["predict"])
    ring = KeyRing.load(path)
    before, (entry,) = path.stat(), yaml.safe_load(path.read_text())
    path.write_text(path.read_text().replace(entry["sha256"], "a" * 64))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the file system's clock ticks every few milliseconds
        time.sleep(0.001)
        path.chmod(0o600)
    assert ring.find(first) is None


def test_a_removed_key_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    first, second = (add_key(path, name, ["predict"]) for name in ("first", "second"))
    ring = KeyRing.load(path)
    remove_key(path, "first")
    assert ring.find(first) is None
    assert ring.find(second)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(MedcodeError, match="no key is called 'first'"):
        remove_key(path, "first")
    remove_key(path, "second")
    assert KeyRing.load(path).required


def test_expiry_is_by_day() -> None:
    def key(day: date) -> ApiKey:
        return ApiKey(name="k", sha256="0" * 64, scopes=("predict",), expires=day)

    today = datetime.now(UTC).date()
    assert key(today - timedelta(days=1)).expired()
    assert not key(today + timedelta(days=2)).expired()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "hunter2"}, r"entry 2: sha256: String should match"),
        ({"scopes": []}, r"entry 2: scopes: "),
        ({"scopes": ["root"]}, r"entry 2: scopes.0: Input should be 'predict', 'metrics' or 'admin'"),
        ({"rate_limit": "often"}, r"entry 2: rate_limit: .*60/minute"),
        ({"expires": "someday"}, r"entry 2: expires: "),
        ({"name": "a b"}, r"entry 2: name: "),
        ({"scope": "admin"}, r"entry 2: scope: "),
        ({"sha256": "0" * 64}, r"entry 2: sha256: another entry"),
    ],
)
def test_a_wrong_entry_is_named_and_not_quoted(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "keys.yaml"
    good = {"name": "a", "sha256": "0" * 64, "scopes": ["predict"]}
    path.write_text(yaml.safe_dump([good, good | {"name": "b", "sha256": "1" * 64} | change]))
    with pytest.raises(MedcodeError, match=f"{path}, {message}") as caught:
        KeyRing.load(path)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys.yaml"
    with pytest.raises(MedcodeError, match="medcode keys new"):
        KeyRing.load(path)
    for contents in (b"a: 1", b"- 7", b"\xff", b"[", b"- {name: \x00}"):
        path.write_bytes(contents)
        with pytest.raises(MedcodeError, match=str(path)):
            KeyRing.load(path)
    with pytest.raises(MedcodeError, match="new key: scopes"):
        new_key("a", [])
    path.write_text("[]\n")
    secret = add_key(path, "a", ["predict"])
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        assert KeyRing.load(path).find(secret)
    assert "chmod 600" in caplog.text
