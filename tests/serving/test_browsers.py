from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from medcode_serving.api import browsers
from medcode_serving.api.keys import add_key
from medcode_serving.errors import MedcodeError
from medcode_serving.settings import ApiSettings
from tests.serving.test_api_keys import bearer, problem, running, small_app

PAGE = "https://coding.example"
NOTE = {"text": "fever"}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with running(small_app()) as client:
        yield client


@pytest.fixture(scope="module")
def open_client() -> Iterator[httpx.Client]:
    with running(
        small_app(cors_origins=(PAGE,), trusted_hosts=("Coding.example", "*.ward.example", "[::1]"))
    ) as client:
        yield client


def test_only_this_machines_names_are_answered_on_loopback(client: httpx.Client) -> None:
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"):
        assert client.get("/who", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "[::1", "@"):
        problem(client.get("/who", headers={"Host": host}), 400, "unknown_host")
    assert client.get("/health/live", headers={"Host": "10.1.2.3:8000"}).status_code == 200


def test_trusted_hosts(open_client: httpx.Client) -> None:
    for host in ("coding.example", "a.b.WARD.example:8000", "[::1]"):
        assert open_client.get("/who", headers={"Host": host}).status_code == 200
    for host in ("ward.example", "evilward.example", "127.0.0.1"):
        problem(open_client.get("/who", headers={"Host": host}), 400, "unknown_host")


def test_a_server_for_all_addresses_knows_all_names(tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    key = bearer(add_key(keys, "a", ["admin"]))
    with running(small_app(host="0.0.0.0", keys_file=keys, cors_origins=("*",)), **key) as client:
        response = client.get("/who", headers={"Host": "any.example", "Origin": PAGE})
        assert response.json() == "a"
        assert response.headers["access-control-allow-origin"] == "*"


def test_foreign_pages_cannot_send(client: httpx.Client) -> None:
    def send(**headers: str) -> httpx.Response:
        return client.post("/notes/a", json=NOTE, headers=headers)

    own = str(client.base_url)
    assert send().status_code == send(origin=own).status_code == 200
    assert send(origin="https://name.behind.a.proxy", **{"sec-fetch-site": "same-origin"}).status_code == 200
    problem(send(origin=PAGE), 403, "foreign_page")
    problem(send(origin="null"), 403, "foreign_page")
    problem(send(origin=own, **{"sec-fetch-site": "same-site"}), 403, "foreign_page")


def test_cors_is_off_unless_pages_are_named(client: httpx.Client, open_client: httpx.Client) -> None:
    asked = {"Origin": PAGE, "Host": "coding.example", "Access-Control-Request-Method": "POST"}
    asked |= {"Access-Control-Request-Headers": "authorization,content-type,x-api-key,x-request-id"}
    allowed = open_client.options("/notes/a", headers=asked)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert "access-control-allow-credentials" not in allowed.headers
    assert open_client.options("/notes/a", headers=asked | {"Origin": "https://evil.example"}).status_code == 400
    for path, body in (("/notes/a", NOTE), ("/notes/a", {})):  # errors too: else the page could not read why
        answer = open_client.post(path, json=body, headers={"Origin": PAGE, "Host": "coding.example"})
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
    broken = open_client.get("/broken", headers={"Origin": PAGE, "Host": "coding.example"})
    assert broken.headers["access-control-allow-origin"] == PAGE
    assert "access-control-allow-origin" not in client.get("/who", headers={"Origin": PAGE}).headers


def test_every_answer_has_the_security_headers(client: httpx.Client) -> None:
    answers = [client.get(path) for path in ("/who", "/nowhere", "/broken", "/ui", "/docs")]
    answers.append(client.get("/who", headers={"Host": "evil.example"}))
    assert [answer.status_code for answer in answers] == [200, 404, 500, 200, 200, 400]
    for answer in answers:
        assert (
            browsers.SECURITY_HEADERS.items() <= {key.title(): value for key, value in answer.headers.items()}.items()
        )
    policies = [answer.headers["content-security-policy"] for answer in answers]
    data, docs = browsers.DATA_POLICY, browsers.DOCS_POLICY
    assert policies == [data, data, data, "default-src 'self'", docs, data]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cors_origins": ("*",)}, "every page"),
        ({"cors_origins": ("https://coding.example/",)}, "is no origin"),
        ({"cors_origins": ("coding.example",)}, "is no origin"),
        ({"cors_origins": ("https://Coding.example",)}, "is no origin"),
        ({"cors_origins": ("null",)}, "is no origin"),
        ({"cors_origins": ("https://[::1",)}, "is no origin"),
        ({"trusted_hosts": ("https://coding.example",)}, "is no host"),
        ({"trusted_hosts": ("*ward.example",)}, "is no host"),
        ({"trusted_hosts": ("a.*.example",)}, "is no host"),
        ({"trusted_hosts": ("",)}, "is no host"),
    ],
)
def test_settings_that_would_never_match_are_refused(values: dict, message: str) -> None:
    from fastapi import FastAPI

    with pytest.raises(MedcodeError, match=message):
        browsers.refuse_strangers(FastAPI(), ApiSettings(**values))
