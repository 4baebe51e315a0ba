import asyncio
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
from medcode_serving.codes.vocabulary import Vocabulary, VocabularyCode
from medcode_serving.engines.constraints import CodeLanguage
from medcode_serving.engines.litellm import LiteLLMEngine
from medcode_serving.engines.protocol import NoteOptions, Prediction
from medcode_serving.engines.remote_hosts import refuse_remote_host
from medcode_serving.errors import EngineTimeoutError, MedcodeError
from medcode_serving.prompts import PromptTemplate
from medcode_serving.reasoned import code_line
from medcode_serving.settings import RemoteSettings


class Stub:
    """An OpenAI-compatible server on loopback that gives a prepared answer."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.app.post("/v1/completions")(self.complete)
        self.app.post("/v1/chat/completions")(self.chat)
        self.app.get("/v1/models")(self.models)
        self.reset()

    def reset(self) -> None:
        self.requests: list[dict] = []
        self.asked = 0
        self.status, self.owner = 200, "somebody"
        self.choice: dict = {"text": " I10"}
        self.headers: dict[str, str] = {}
        self.refusal = "bad: {prompt}"
        self.released = threading.Event()
        self.released.set()
        self.once = False
        """Whether one answer closes the door behind it."""

    async def complete(self, request: Request) -> JSONResponse:
        body = await request.json()
        return await self._answer(body, body["prompt"], "text_completion")

    async def chat(self, request: Request) -> JSONResponse:
        body = await request.json()
        return await self._answer(body, body["messages"][0]["content"], "chat.completion")

    async def models(self) -> JSONResponse:
        self.asked += 1
        return JSONResponse({"object": "list", "data": [{"id": "m", "owned_by": self.owner}]}, self.status)

    async def _answer(self, body: dict, prompt: str, kind: str) -> JSONResponse:
        self.requests.append(body)
        await asyncio.to_thread(self.released.wait)
        if self.once:
            self.released.clear()
        if self.status != 200:
            return JSONResponse({"error": {"message": self.refusal.format(prompt=prompt)}}, self.status, self.headers)
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None} | self.choice
        if choice["text"] == "echo":  # what the note begins with
            choice["text"] = prompt.partition("text: ")[2][:8]
        if kind == "chat.completion":
            choice["message"] = {"role": "assistant", "content": choice.pop("text")}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return JSONResponse(
            {"id": "1", "object": kind, "created": 1, "model": "m", "choices": [choice], "usage": usage}
        )


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Stub, str]]:
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


@pytest.fixture
def served(running: tuple[Stub, str]) -> tuple[Stub, str]:
    running[0].reset()
    return running


ENGINES: list[LiteLLMEngine] = []


def make_engine(vocabulary: Vocabulary, api_base: str, **remote) -> LiteLLMEngine:
    settings = RemoteSettings(model="m", api_base=api_base, **remote)
    ENGINES.append(LiteLLMEngine(vocabulary, PromptTemplate(), DecodingSettings(max_codes=4), settings))
    return ENGINES[-1]


@pytest.fixture(autouse=True)
def close_after_each_test() -> Iterator[None]:
    yield
    close_engines()


def close_engines() -> None:
    while ENGINES:
        ENGINES.pop().close()
    for thread in threading.enumerate():
        if thread.name.startswith("medcode-remote"):
            thread.join()


def test_answers_are_parsed_and_checked(served, vocabulary: Vocabulary) -> None:
    stub, api_base = served
    stub.choice = {"text": " e119, I10, Z99.9"}
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
    stub.choice = {
        "text": "".join(tokens),
        "logprobs": {"tokens": tokens, "token_logprobs": [-0.1, -0.2, -0.3, -5.0, -0.4, -0.5]},
    }
    (prediction,) = make_engine(vocabulary, api_base).predict(["Diabetes."])
    assert [code.probability for code in prediction.codes] == pytest.approx([math.exp(-0.6), math.exp(-0.9)])


@pytest.mark.parametrize("protocol", ["completions", "chat"])
def test_a_proxy_never_sees_a_note(
    served, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    stub, api_base = served
    stub.choice = {"text": " I10"}
    monkeypatch.setenv("no_proxy", "elsewhere.example.com")
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        (prediction,) = make_engine(vocabulary, api_base, timeout_s=60, protocol=protocol).predict(["Hypertension."])
    assert [code.code for code in prediction.codes] == ["I10"]


@pytest.mark.parametrize("protocol", ["completions", "chat"])
def test_a_redirect_is_not_followed(served, vocabulary: Vocabulary, protocol: str) -> None:
    stub, api_base = served
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0)
        stub.status, stub.headers = 307, {"location": f"http://127.0.0.1:{elsewhere.getsockname()[1]}/v1"}
        with pytest.raises(MedcodeError):
            make_engine(vocabulary, api_base, timeout_s=60, protocol=protocol).predict(["Hypertension."])
        with pytest.raises(BlockingIOError):  # nobody called
            elsewhere.accept()


def test_a_code_that_was_cut_off_is_dropped(served, vocabulary: Vocabulary) -> None:
    stub, api_base = served
    stub.choice = {"text": " I10, E11", "finish_reason": "length"}
    (prediction,) = make_engine(vocabulary, api_base).predict(["Diabetes."])
    assert [code.code for code in prediction.codes] == ["I10"]
    assert prediction.dropped == 1


def test_failures_quote_nothing(served, vocabulary: Vocabulary, caplog: pytest.LogCaptureFixture, capfd) -> None:
    stub, api_base = served
    caplog.set_level(logging.DEBUG)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and nobody listens: connections are refused, and nobody else gets the port
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        for status, address in ((500, api_base), (400, api_base), (307, api_base), (200, nowhere)):
            stub.status = status
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


def test_several_notes_are_asked_for_at_a_time_and_come_in_order(served, vocabulary: Vocabulary) -> None:
    stub, api_base = served
    stub.choice = {"text": "echo"}
    stub.released.clear()
    notes = ["I10     ", "E11.9   ", "J18.9   ", "N17.9   ", "401.9   "]
    done: list[int] = []
    answers: list[list[Prediction]] = []
    engine = make_engine(vocabulary, api_base, concurrency=3)
    thread = threading.Thread(target=lambda: answers.append(engine.predict(notes, on_progress=done.append)))
    thread.start()
    wait_until(lambda: len(stub.requests) == 3)
    assert done == []
    stub.released.set()
    thread.join()
    assert [[code.code for code in prediction.codes] for prediction in answers[0]] == [[note.strip()] for note in notes]
    assert done == [1] * 5


def wait_until(condition) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_the_first_failure_gives_the_others_up(served, vocabulary: Vocabulary) -> None:
    stub, api_base = served
    stub.status, stub.once = 500, True
    engine = make_engine(vocabulary, api_base, concurrency=1, constraint="none")
    with pytest.raises(MedcodeError):
        engine.predict(["Hypertension."] * 50)
    stub.once = False
    stub.released.set()
    close_engines()
    assert len(stub.requests) <= 2  # the second was perhaps under way already


def test_a_note_that_ended_is_not_sent(served, vocabulary: Vocabulary) -> None:
    stub, api_base = served
    options = [NoteOptions(ended=lambda: True), NoteOptions()]
    ended, answered = make_engine(vocabulary, api_base).predict(["Gone.", "Hypertension."], options=options)
    assert (ended.outcome, ended.codes) == ("ended", ())
    assert answered.outcome == "complete"
    assert [sent["prompt"] for sent in stub.requests] == [PromptTemplate().render("Hypertension.")]


def test_a_note_has_its_own_limit_of_codes(served, vocabulary: Vocabulary) -> None:
    stub, api_base = served
    stub.choice = {"text": " I10, E11.9, J18.9, N17.9, E11, 401.9"}
    options = [NoteOptions(max_codes=2), NoteOptions(), NoteOptions(max_codes=1000)]
    predictions = make_engine(vocabulary, api_base).predict(["Hypertension."] * 3, options=options)
    assert [len(prediction.codes) for prediction in predictions] == [2, 4, 4]  # the bundle's limit is 4


LANGUAGE_FIELDS = {"grammar", "structured_outputs"}


def test_the_server_is_asked_once_what_it_takes(served, vocabulary: Vocabulary) -> None:
    stub, api_base = served
    language = CodeLanguage([code.text for code in vocabulary.codes])
    for owner, field, wanted in (
        ("llamacpp", "grammar", language.grammar(4)),
        ("vllm", "structured_outputs", {"regex": language.regex(4)}),
        ("library", None, None),
    ):
        stub.reset()
        stub.owner = owner
        engine = make_engine(vocabulary, api_base, concurrency=1)
        options = [NoteOptions(), NoteOptions(constrained=False)]
        engine.predict(["Hypertension."] * 2, options=options)
        engine.predict(["Hypertension."])
        assert stub.asked == 1
        held, free, again = stub.requests
        assert LANGUAGE_FIELDS & set(held) == LANGUAGE_FIELDS & set(again) == ({field} if field else set())
        assert not LANGUAGE_FIELDS & set(free)
        if field:
            assert held[field] == again[field] == wanted


def test_a_server_that_does_not_tell_is_asked_again(served, vocabulary: Vocabulary, caplog) -> None:
    stub, api_base = served
    engine = make_engine(vocabulary, api_base)
    stub.status = 404
    with pytest.raises(MedcodeError):
        engine.predict(["Zylophrastia."])
    assert "no list of models" in caplog.text
    assert "Zylophrastia" not in caplog.text
    stub.status, stub.owner = 200, "llamacpp"
    engine.predict(["Zylophrastia."])
    assert "grammar" in stub.requests[-1]


def test_a_constraint_can_be_set(served, vocabulary: Vocabulary) -> None:
    stub, api_base = served
    for constraint, fields in (("grammar", {"grammar"}), ("regex", {"structured_outputs"}), ("none", set())):
        make_engine(vocabulary, api_base, constraint=constraint).predict(["Hypertension."])
        assert LANGUAGE_FIELDS & set(stub.requests[-1]) == fields
    assert stub.asked == 0


def test_a_chat_is_one_message(served, vocabulary: Vocabulary) -> None:
    stub, api_base = served
    tokens = [(" I", -0.1), ("10", -0.2), (",", -1.0), (" E11.9", -0.4), ("<|im_end|>", -3.0)]
    stub.choice = {
        "text": "I10, E11.9",
        "logprobs": {"content": [{"token": t, "logprob": p, "bytes": None, "top_logprobs": []} for t, p in tokens]},
    }
    engine = make_engine(vocabulary, api_base, protocol="chat", constraint="regex")
    (prediction,) = engine.predict(["Hypertension."])
    assert [code.code for code in prediction.codes] == ["I10", "E11.9"]
    assert [code.probability for code in prediction.codes] == pytest.approx([math.exp(-0.3), math.exp(-0.4)])
    (sent,) = stub.requests
    assert sent["messages"] == [{"role": "user", "content": PromptTemplate().render("Hypertension.")}]
    assert sent["structured_outputs"]["regex"].startswith(" ?")


@pytest.mark.parametrize("protocol", ["completions", "chat"])
def test_a_reasoned_answer_is_asked_for_and_read(served, protocol: str, caplog) -> None:
    stub, api_base = served
    stub.owner = "vllm"
    line = code_line("icd10cm", "I10", 'Essential ("primary") hypertension')
    lines = Vocabulary([VocabularyCode("icd10cm", "I10", line, 'Essential ("primary") hypertension', 1)])
    prompt = PromptTemplate(
        instruction="<s>Reason.<u>{note}",
        answer_header="<a>",
        markup=True,
        answer="reasoned",
        messages=(("system", "Reason."), ("user", "{note}")),
    )
    stub.choice = {"text": f"<think>\n- pressure {{high}}\n</think>\n{line}"}
    for constraint in ("auto", "regex"):
        settings = RemoteSettings(model="m", api_base=api_base, protocol=protocol, constraint=constraint)
        ENGINES.append(LiteLLMEngine(lines, prompt, DecodingSettings(max_codes=1), settings))
        (found,) = ENGINES[-1].predict([" BP {note} 180/110. "])
        assert ([code.code for code in found.codes], found.reasoning) == (["I10"], "- pressure {high}")
        sent = stub.requests[-1]
        assert not LANGUAGE_FIELDS & set(sent)
        assert sent["skip_special_tokens"] is False
        if protocol == "chat":
            wanted = [("system", "Reason."), ("user", "BP {note} 180/110.")]
            assert sent["messages"] == [{"role": role, "content": content} for role, content in wanted]
        else:
            assert sent["prompt"] == "<s>Reason.<u>BP {note} 180/110.<a>"
    assert "remote.constraint regex is for lists of codes" in caplog.text


@pytest.mark.parametrize(
    "refusal",
    [
        "This model's maximum context length is 64 tokens. However, your request has 90 input tokens.",
        "The decoder prompt (length 90) is longer than the maximum model length of 64.",
    ],
)
def test_a_note_that_the_server_cannot_hold(served, vocabulary: Vocabulary, refusal: str) -> None:
    stub, api_base = served
    stub.status, stub.refusal = 400, refusal
    engine = make_engine(vocabulary, api_base, constraint="none")
    (prediction,) = engine.predict(["Hypertension."], options=[NoteOptions(long_notes="refuse")])
    assert (prediction.outcome, prediction.codes) == ("too_long", ())
    with pytest.raises(MedcodeError, match="longer context"):
        engine.predict(["Hypertension."])


@pytest.mark.parametrize("protocol", ["completions", "chat"])
def test_a_server_that_is_too_slow_is_told_from_others(vocabulary: Vocabulary, protocol: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        engine = make_engine(vocabulary, address, protocol=protocol, timeout_s=0.2, constraint="none")
        with pytest.raises(EngineTimeoutError, match="0.2 s"):
            engine.predict(["Hypertension."])
