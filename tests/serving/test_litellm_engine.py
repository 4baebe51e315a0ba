import logging
import math
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from medcode_serving.bundle import DecodingSettings
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.engines.litellm import LiteLLMEngine, refuse_remote_host
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate
from medcode_serving.settings import RemoteSettings


class Stub:
    """An OpenAI-compatible server on loopback that gives a prepared answer."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.requests: list[dict] = []
        self.status, self.choice = 200, {}
        self.app.post("/v1/completions")(self.complete)

    async def complete(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.requests.append(body)
        if self.status != 200:
            return JSONResponse({"error": {"message": f"bad: {body['prompt']}"}}, self.status)
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None} | self.choice
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return JSONResponse(
            {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
        )


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Stub, str]]:
    import uvicorn

    stub = Stub()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(stub.app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.02)
    yield stub, f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join()
    listener.close()


def make_engine(vocabulary: Vocabulary, api_base: str, **remote) -> LiteLLMEngine:
    settings = RemoteSettings(model="m", api_base=api_base, **remote)
    return LiteLLMEngine(vocabulary, PromptTemplate(), DecodingSettings(max_codes=4), settings)


def test_answers_are_parsed_and_checked(served, vocabulary: Vocabulary) -> None:
    stub, api_base = served
    stub.status, stub.choice = 200, {"text": " e119, I10, Z99.9"}
    (prediction,) = make_engine(vocabulary, api_base).predict(["Diabetes."])
    assert [code.code for code in prediction.codes] == ["E11.9", "I10"]
    assert [code.probability for code in prediction.codes] == [None, None]
    assert prediction.dropped == 1
    sent = stub.requests[-1]
    assert sent["prompt"] == PromptTemplate().render("Diabetes.")
    assert (sent["temperature"], sent["repeat_penalty"]) == (0, 1.0)


def test_probabilities_come_from_the_tokens_of_a_code(served, vocabulary: Vocabulary) -> None:
    stub, api_base = served
    tokens = [" E", "11", ".9", ",", " I", "10"]
    stub.status = 200
    stub.choice = {
        "text": "".join(tokens),
        "logprobs": {"tokens": tokens, "token_logprobs": [-0.1, -0.2, -0.3, -5.0, -0.4, -0.5]},
    }
    (prediction,) = make_engine(vocabulary, api_base).predict(["Diabetes."])
    assert [code.probability for code in prediction.codes] == pytest.approx([math.exp(-0.6), math.exp(-0.9)])


def test_a_proxy_never_sees_a_note(served, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    stub, api_base = served
    stub.status, stub.choice = 200, {"text": " I10"}
    monkeypatch.setenv("no_proxy", "elsewhere.example.com")
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        (prediction,) = make_engine(vocabulary, api_base, timeout_s=5).predict(["Hypertension."])
    assert [code.code for code in prediction.codes] == ["I10"]


def test_a_code_that_was_cut_off_is_dropped(served, vocabulary: Vocabulary) -> None:
    stub, api_base = served
    stub.status, stub.choice = 200, {"text": " I10, E11", "finish_reason": "length"}
    (prediction,) = make_engine(vocabulary, api_base).predict(["Diabetes."])
    assert [code.code for code in prediction.codes] == ["I10"]
    assert prediction.dropped == 1


def test_failures_quote_nothing(served, vocabulary: Vocabulary, caplog: pytest.LogCaptureFixture, capfd) -> None:
    stub, api_base = served
    caplog.set_level(logging.DEBUG)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    for status, address in ((500, api_base), (400, api_base), (200, nowhere)):
        stub.status, stub.choice = status, {"text": " I10"}
        with pytest.raises(MedcodeError, match="127.0.0.1") as caught:
            make_engine(vocabulary, address).predict(["Zylophrastia."])
        assert "Zylophrastia" not in str(caught.value)
        assert caught.value.__context__ is None
    assert "Zylophrastia" not in caplog.text
    assert "Zylophrastia" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "address",
    [
        "http://llm.example.com/v1",
        "http://10.0.0.7/v1",
        "http://127.0.0.1.example.com/v1",
        "http://localhost@example.com/v1",
        "http://[2001:db8::1]/v1",
        "ftp://127.0.0.1",
        "127.0.0.1:8080",
        "http://[::1",
    ],
)
def test_notes_do_not_leave_this_machine(vocabulary: Vocabulary, address: str) -> None:
    with pytest.raises(MedcodeError):
        make_engine(vocabulary, address)


def test_hosts_on_this_machine_or_named_are_allowed(vocabulary: Vocabulary) -> None:
    for address in ("http://127.0.0.1:8080/v1", "http://localhost/v1", "http://[::1]:8080/v1"):
        assert refuse_remote_host(address, [])
    assert make_engine(vocabulary, "https://llm.example.com/v1", allowed_hosts=("llm.example.com",))


def test_model_and_address_are_needed(vocabulary: Vocabulary) -> None:
    with pytest.raises(MedcodeError, match="remote.model"):
        LiteLLMEngine(vocabulary, PromptTemplate(), DecodingSettings(), RemoteSettings())
