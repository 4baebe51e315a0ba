import email.utils
import random
import time
from collections.abc import Iterator
from threading import Event, Timer
from typing import Any

import pytest

from medcode_assets.synthesis.client import (
    FIRST_PAUSE,
    LONGEST_TOLD_PAUSE,
    Client,
    StoppedError,
    UnansweredError,
    pause,
)
from medcode_assets.synthesis.endpoints import Endpoint, resolve_endpoint
from medcode_assets.synthesis.requests import Inquiry, ListedCode, Request
from medcode_assets.synthesis.tally import Tally
from medcode_serving.errors import MedcodeError
from tests.assets.synthesis.failing_server import FailingServer


@pytest.fixture
def server() -> Iterator[FailingServer]:
    with FailingServer() as running:
        yield running


@pytest.fixture
def request_() -> Request:
    code = ListedCode("icd10cm", "I10", "Essential (primary) hypertension")
    return Inquiry(1, 0, (code,)).request(17, 1)


def client(server: FailingServer, *, model: str = "m", retries: int = 1, **more: Any) -> Client:
    """A client that waits long: what it does again, it does because of the server and not because of the machine."""
    endpoint = resolve_endpoint(model, server.api_base, ())
    return Client(endpoint, retries=retries, **{"timeout_s": 60.0, "stop": Event(), **more})


def test_pauses_grow_up_to_a_minute_and_are_spread() -> None:
    jitter = random.Random(0)
    for retries, longest in ((0, 0.5), (1, 1.0), (4, 8.0), (7, 60.0), (1000, 60.0)):
        drawn = [pause(retries, None, jitter) for _ in range(50)]
        assert longest / 2 <= min(drawn) < max(drawn) <= longest


def test_a_server_says_how_long_to_wait() -> None:
    jitter = random.Random(0)
    assert 7 < pause(0, "7", jitter) <= 7.5
    assert 300 < pause(0, "86400", jitter) <= 300.5
    asked = time.time()
    found = pause(0, email.utils.formatdate(asked + 60, usegmt=True), jitter)
    assert 59 - (time.time() - asked) < found <= 60.5  # a date has whole seconds
    for nonsense in ("soon", "nan", "-5", "", "Mon, 99 Foo"):
        assert pause(0, nonsense, jitter) <= 0.5


def test_an_answer_with_its_tokens(server: FailingServer, request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCODE_REMOTE_API_KEY", "secret-key")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nobody there: requests go past it
    server.content = "hello"
    asking = client(server)
    reply = asking.ask(request_)
    asking.close()
    assert (reply.text, reply.kind, reply.prompt_tokens, reply.completion_tokens) == ("hello", None, 100, 50)
    assert (reply.cost, reply.retries) == (None, 0)
    assert dict(server.sent) == {"17.1": 1}
    assert server.keys == ["Bearer secret-key"]
    assert server.bodies[0]["model"] == "m"
    assert server.bodies[0]["response_format"] == {"type": "json_object"}


def test_a_known_price_is_told(server: FailingServer, request_: Request) -> None:
    server.usage = {"prompt_tokens": 1_000_000, "completion_tokens": 100_000, "total_tokens": 1_100_000}
    asking = client(server, model="openai/gpt-4o-mini")
    assert asking.prices is not None
    reply = asking.ask(request_)
    assert reply.cost == pytest.approx(1e6 * asking.prices[0] + 1e5 * asking.prices[1]) and reply.cost > 0
    assert server.bodies[0]["model"] == "gpt-4o-mini"


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_refusal_for_good_is_one_clear_line_at_once(server: FailingServer, request_: Request, status: int) -> None:
    server.status = status
    with pytest.raises(MedcodeError, match=rf"^the server at 127.0.0.1 refuses \({status}, \w+\): .*$") as raised:
        client(server, retries=5).ask(request_)
    assert "\n" not in str(raised.value)
    assert server.sent["17.1"] == 1


def test_a_bad_request_is_repeated_without_json_mode_and_then_refused(server: FailingServer, request_: Request) -> None:
    server.takes_json_mode = False
    server.content = "{}"
    asking = client(server)
    assert asking.ask(request_).text == "{}"
    assert asking.ask(request_).text == "{}"
    assert ["response_format" in body for body in server.bodies] == [True, False, False]
    server.status = 400
    with pytest.raises(MedcodeError, match=r"refuses \(400"):
        asking.ask(request_)
    assert len(server.bodies) == 4


def test_it_is_asked_again_after_the_time_that_the_server_says(server: FailingServer, request_: Request) -> None:
    server.status, server.retry_after = 429, "0.7"
    with pytest.raises(UnansweredError, match="RateLimitError, status 429") as raised:
        client(server, retries=1).ask(request_)
    assert raised.value.retries == 1
    first, second = server.times["17.1"]
    assert 0.95 <= second - first < 50


@pytest.mark.parametrize("failure", ["hang", "close", "cut_body", "bad_json", "no_choices", "500", "503"])
def test_what_fails_on_the_way_is_asked_again(
    server: FailingServer, request_: Request, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "failure", lambda _name, tries: failure if tries == 0 else None)
    server.content, server.hang_s = "at last", 0.1
    reply = client(server).ask(request_)
    assert (reply.text, reply.retries) == ("at last", 1)
    assert server.sent["17.1"] == 2


def test_a_server_that_is_silent_is_asked_again(
    server: FailingServer, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = client(server, timeout_s=2.0)

    def silent_at_first(_name: str, tries: int) -> str | None:
        asking._timeout_s = 60.0  # of the next try, which is to be answered however slow this machine is
        return "hang" if tries == 0 else None

    monkeypatch.setattr(server, "failure", silent_at_first)
    server.content, server.hang_s = "at last", 3600
    reply = asking.ask(request_)
    assert (reply.text, reply.retries) == ("at last", 1)
    assert server.sent["17.1"] == 2


def test_a_server_that_is_not_there(request_: Request) -> None:
    with FailingServer() as gone:
        asking = client(gone, retries=0)
    with pytest.raises(UnansweredError):
        asking.ask(request_)


def test_stopping_ends_a_pause(server: FailingServer, request_: Request) -> None:
    class SetInThePause(Event):
        def wait(self, timeout: float | None = None) -> bool:
            Timer(0.1, self.set).start()
            return super().wait(timeout)

    server.status, server.retry_after = 429, "280"
    started = time.monotonic()
    with pytest.raises(StoppedError):
        client(server, stop=SetInThePause()).ask(request_)
    assert time.monotonic() - started < 200
    assert server.sent["17.1"] == 1


@pytest.mark.parametrize("address", ["https://models.example.org/v1", "http://10.0.0.7:8000/v1"])
def test_a_host_that_is_not_allowed(address: str) -> None:
    host = address.split("/")[2].split(":")[0]
    with pytest.raises(MedcodeError, match=f"leave this machine for {host}; if that is permitted: --allow-host {host}"):
        resolve_endpoint("m", address, ("other.example.org",))
    assert resolve_endpoint("m", address, (host,)).host == host


def test_a_hosted_model_must_be_allowed_by_its_host_and_needs_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    hosted = {
        "deepseek/deepseek-chat": ("api.deepseek.com", "DEEPSEEK_API_KEY", "hosted_vllm/deepseek-chat"),
        "gpt-4o": ("api.openai.com", "OPENAI_API_KEY", "openai/gpt-4o"),
        "anthropic/claude-sonnet-4-5": ("api.anthropic.com", "ANTHROPIC_API_KEY", "anthropic/claude-sonnet-4-5"),
        "openrouter/meta/llama": ("openrouter.ai", "OPENROUTER_API_KEY", "hosted_vllm/meta/llama"),
    }
    for model, (host, variable, asked_for) in hosted.items():
        monkeypatch.delenv(variable, raising=False)
        with pytest.raises(MedcodeError, match=f"--allow-host {host}"):
            resolve_endpoint(model, None, ())
        with pytest.raises(MedcodeError, match=f"set {variable}"):
            resolve_endpoint(model, None, (host,))
        monkeypatch.setenv(variable, "secret-key")
        endpoint = resolve_endpoint(model, None, (host,))
        assert (endpoint.host, endpoint.key, endpoint.model) == (host, "secret-key", asked_for)
        assert "secret-key" not in repr(endpoint)


def test_openais_own_models_are_asked_through_the_same_client(
    server: FailingServer, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nobody there
    server.content = "hello"
    endpoint = Endpoint("openai/gpt-4o", server.api_base, "127.0.0.1", "gpt-4o", "secret-key")
    asking = Client(endpoint, retries=1, timeout_s=60.0, stop=Event())
    assert asking.ask(request_).text == "hello"
    assert server.keys == ["Bearer secret-key"]
    server.status, server.retry_after = 429, "0.7"
    with pytest.raises(UnansweredError):
        asking.ask(request_)
    _, first, second = server.times["17.1"]
    assert second - first >= 0.95
    server.status = 401
    with pytest.raises(MedcodeError, match=r"refuses \(401"):
        asking.ask(request_)


def test_ollama_is_on_this_machine() -> None:
    assert resolve_endpoint("ollama/llama3", None, ()).api_base == "http://127.0.0.1:11434/v1"


def test_a_providers_key_does_not_go_to_another_server(
    server: FailingServer, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("OPENAI_API_KEY", "HOSTED_VLLM_API_KEY", "DEEPSEEK_API_KEY"):
        monkeypatch.setenv(variable, "secret-key")
    monkeypatch.delenv("MEDCODE_REMOTE_API_KEY", raising=False)
    for model in ("gpt-4o", "openai/gpt-4o", "deepseek/deepseek-chat"):
        client(server, model=model).ask(request_)
    assert set(server.keys) == {"Bearer none"}


def test_a_model_whose_address_nobody_knows() -> None:
    with pytest.raises(MedcodeError, match="--api-base"):
        resolve_endpoint("my-own-model", None, ())


@pytest.mark.parametrize("address", ["", "127.0.0.1:8080", "ftp://127.0.0.1", "http://[::1"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(MedcodeError, match="--api-base is no address"):
        resolve_endpoint("m", address, ())


@pytest.mark.parametrize(
    "told", ["-5", "nan", "Mon, 01 Jan 0001 00:00:00 -0000", "Mon, 01 Jan 99999 00:00:00 GMT", "+9" * 40, "soon"]
)
def test_a_time_to_wait_that_is_none_changes_nothing(told: str) -> None:
    assert 0 < pause(0, told, random.Random(0)) <= FIRST_PAUSE


@pytest.mark.parametrize("told", ["31536000", "1" * 5000, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_nobody_has_us_wait_for_a_year(told: str) -> None:
    assert LONGEST_TOLD_PAUSE < pause(0, told, random.Random(0)) <= LONGEST_TOLD_PAUSE + FIRST_PAUSE


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("close", "connection broken by 127.0.0.1:"),
        ("hang", " was silent for 0.5 s"),
        ("503", "ServiceUnavailableError, status 503"),
    ],
)
def test_why_there_is_no_answer(
    server: FailingServer, request_: Request, monkeypatch: pytest.MonkeyPatch, failure: str, reason: str
) -> None:
    monkeypatch.setattr(server, "failure", lambda _name, _tries: failure)
    server.hang_s = 3600
    asking = client(server, retries=0, timeout_s=0.5 if failure == "hang" else 60.0)
    with pytest.raises(UnansweredError) as told:
        asking.ask(request_)
    asking.close()
    assert reason in str(told.value)


def test_nobody_there_is_told_as_that(request_: Request) -> None:
    asking = Client(resolve_endpoint("m", "http://127.0.0.1:9/v1", ()), retries=0, timeout_s=60.0, stop=Event())
    with pytest.raises(UnansweredError, match=r"^connection refused by 127\.0\.0\.1:9$"):
        asking.ask(request_)
    asking.close()


def test_nothing_but_failures_is_no_success() -> None:
    assert Tally().success_rate == 1
    assert Tally(failed=2).success_rate == 0
    assert Tally(answers=4, rejected=1, failed=2).success_rate == 0.75
