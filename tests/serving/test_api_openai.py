import json
import math
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from medcode_serving.api import create_app
from medcode_serving.api.openai import unframed
from medcode_serving.api.openai_schemas import CompletionRequest
from medcode_serving.base_models import resolve_base_model
from medcode_serving.bundle import BaseModelRef, Decision, DecodingSettings, publish, write_bundle
from medcode_serving.chat import chat_prompt
from medcode_serving.codes.vocabulary import Vocabulary, VocabularyCode
from medcode_serving.engines.litellm import LiteLLMEngine
from medcode_serving.prompts import PromptTemplate
from medcode_serving.reasoned import SPECIAL_TOKENS, code_line
from medcode_serving.settings import RemoteSettings
from tests.serving.conftest import make_manifest
from tests.serving.test_api_batches import MARKER, Server, prior_home, settings_for  # noqa: F401 - a fixture
from tests.tiny import write_codes

# The frequency prior's answer to every note, of the tiny vocabulary: 10, 9, 8 and so on of 20 notes.
ANSWER = "E11, E11.9, E11.65, I10, J18.9, N17.9, 0DTJ4ZZ, 401.9"
IMAGE = {"type": MARKER}
USER = [{"role": "user", "content": "Type 2 diabetes."}]


@pytest.fixture(scope="module")
def server(prior_home: Path) -> Iterator[Server]:  # noqa: F811
    with Server(create_app(settings_for(prior_home))) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def api_base(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/v1"


def test_the_openai_client_chats_streams_and_lists(api_base: str, client: httpx.Client) -> None:
    import openai

    api = openai.OpenAI(base_url=api_base, api_key="none", max_retries=0)
    assert [model.id for model in api.models.list()] == ["icd"]
    assert api.models.retrieve("icd@v1").owned_by == "medcode"
    whole = api.chat.completions.create(
        model="icd", messages=[{"role": "system", "content": "Be brief."}, *USER], max_tokens=5, logprobs=True
    )
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (ANSWER, "stop")
    tokens = whole.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == ANSWER
    assert [tokens[0].logprob, tokens[1].logprob] == pytest.approx([math.log(10 / 20), 0])
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (3, 8)
    codes = client.post("/predict", json={"text": "Type 2 diabetes."}).json()["codes"]
    assert whole.model_extra["medcode"]["codes"] == codes
    stream = list(
        api.chat.completions.create(model="icd", messages=USER, stream=True, stream_options={"include_usage": True})
    )
    assert stream[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream[:-1]) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in stream[:-1]] == [None, None, "stop"]
    assert stream[-1].usage.total_tokens == 11
    plain = api.completions.create(model="icd@v1", prompt=["Type 2 diabetes."], stream=True)
    assert "".join(chunk.choices[0].text for chunk in plain) == f" {ANSWER}"
    with pytest.raises(openai.NotFoundError) as caught:
        api.chat.completions.create(model=MARKER, messages=USER)
    assert caught.value.code == "model_not_found"
    assert MARKER not in str(caught.value)


def test_litellm_and_our_own_engine_take_it_for_a_model_server(api_base: str, vocabulary) -> None:
    remote = RemoteSettings(model="icd", api_base=api_base, constraint="none")
    engine = LiteLLMEngine(vocabulary, PromptTemplate(), DecodingSettings(max_codes=4), remote)
    (prediction,) = engine.predict(["Type 2 diabetes."])
    engine.close()
    assert [code.code for code in prediction.codes] == ["E11", "E11.9", "E11.65", "I10"]
    assert [code.probability for code in prediction.codes] == pytest.approx([0.5, 0.45, 0.4, 0.35])
    import litellm

    answer = litellm.completion(model="hosted_vllm/icd", api_base=api_base, messages=USER, temperature=0)
    assert answer.choices[0].message.content == ANSWER
    chunks = litellm.completion(model="hosted_vllm/icd", api_base=api_base, messages=USER, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER


def test_the_last_user_message_is_the_note(client: httpx.Client) -> None:
    def words(messages) -> int:
        answer = client.post("/v1/chat/completions", json={"model": "icd", "messages": messages})
        return answer.json()["usage"]["prompt_tokens"]

    parts = [{"type": "text", "text": "one two"}, {"type": "text", "text": "three"}]
    assert words([*USER, {"role": "assistant", "content": None}, {"role": "user", "content": parts}]) == 3
    assert words([*USER, {"role": "assistant", "content": "one"}]) == 3
    assert words([{"role": "user", "content": PromptTemplate().render("one two")}]) == 2


def test_a_reasoned_answer_is_said_as_the_model_writes_it(base_model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "base_models"
    base = resolve_base_model(str(base_model), cache, added_tokens=SPECIAL_TOKENS)
    lines = [("E11.9", "Type 2 diabetes"), ("I10", "Hypertension")]
    rows = [VocabularyCode("icd10cm", code, code_line("icd10cm", code, text), text, 1) for code, text in lines]
    manifest = make_manifest(base_model).model_copy(
        update={
            "recipe": "reasoning",
            "base_model": BaseModelRef(id=base.id, revision=base.revision, added_tokens=base.added_tokens),
            "prompt": chat_prompt(base.path, "Reason.", "reasoned"),
            "decoding": DecodingSettings(max_prompt_tokens=128, max_codes=1, max_reasoning_tokens=12),
            "baselines": {"untuned_base": Decision(threshold=0.0)},
        }
    )
    (tmp_path / "adapter").mkdir()
    codes = write_codes(tmp_path / "codes.parquet", Vocabulary(rows))
    publish(write_bundle(tmp_path / "bundles", manifest, adapter=tmp_path / "adapter", codes=codes))
    chosen = {"model.recipes": ["reasoning"], "model.engine": "untuned_base"}
    with Server(create_app(settings_for(tmp_path, **chosen))) as server, server.client() as client:
        body = {"model": "reasoning", "messages": USER, "logprobs": True}
        chat = client.post("/v1/chat/completions", json=body).json()
        whole = client.post("/v1/completions", json={"model": "reasoning", "prompt": USER[0]["content"]}).json()
    content, said = chat["choices"][0]["message"]["content"], chat["medcode"]
    (code,) = said["codes"]
    assert said["reasoning"]  # a random model's, but there
    assert (
        content
        == f"<think>\n{said['reasoning']}\n</think>\n{code_line('icd10cm', code['code'], dict(lines)[code['code']])}"
    )
    assert "".join(token["token"] for token in chat["choices"][0]["logprobs"]["content"]) == content
    assert whole["choices"][0]["text"] == content


@pytest.mark.parametrize("note", ["", "fever", "Codes: {note}", "Predict the medical codes for the following text: x"])
def test_exactly_the_frame_is_taken_off(note: str) -> None:
    template = PromptTemplate()
    assert unframed(template.render(note), template) == note
    assert unframed(note, template) == note
    assert unframed(f" {template.render(note)}", template) == f" {template.render(note)}"
    bare = PromptTemplate(instruction="{note}", answer_header="")
    assert unframed(note, bare) == note
    assert unframed("ab", PromptTemplate(instruction="ab{note}", answer_header="b")) == "ab"


@pytest.mark.parametrize(
    ("path", "wrong", "status", "code"),
    [
        ("chat/completions", {"messages": MARKER}, 400, "invalid_request"),
        ("chat/completions", {"messages": []}, 400, "invalid_request"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": [IMAGE]}]},
            400,
            "unsupported_content",
        ),
        ("chat/completions", {"messages": [{"role": "system", "content": MARKER}]}, 400, "no_user_message"),
        ("chat/completions", {"messages": [{"role": "user", "content": " "}]}, 400, "empty"),
        ("chat/completions", {"n": 2}, 400, "unsupported_parameter"),
        ("chat/completions", {"tools": [{"type": "function"}]}, 400, "unsupported_parameter"),
        ("chat/completions", {"model": "icd@v2"}, 404, "model_not_found"),
        ("chat/completions", {"stream": MARKER}, 400, "invalid_request"),
        ("completions", {"prompt": [MARKER, MARKER]}, 400, "invalid_request"),
        ("completions", {"prompt": {MARKER: 1}}, 400, "invalid_request"),
        ("completions", {"echo": True, MARKER: MARKER}, 400, "unsupported_parameter"),
    ],
)
def test_errors_have_openai_s_form_and_quote_nothing(client, path: str, wrong: dict, status: int, code: str) -> None:
    right = {"model": "icd", "messages": USER} if path.startswith("chat") else {"model": "icd", "prompt": "fever"}
    response = client.post(f"/v1/{path}", json=right | wrong)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert MARKER not in response.text


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("chat/completions", {"messages": [1] * 300_000}),
        ("chat/completions", {"messages": [{"role": "user", "content": [1] * 300_000}]}),
        ("completions", {"prompt": [1] * 300_000}),
        ("completions", {"prompt": 1, **dict.fromkeys(map(str, range(100_000)), MARKER)}),
    ],
)
def test_a_megabyte_of_errors_is_answered_shortly(client: httpx.Client, path: str, wrong: dict) -> None:
    response = client.post(f"/v1/{path}", json={"model": "icd"} | wrong)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")
    assert response.json()["error"]["message"].count(";") < 20
    assert len(response.content) < 10_000


def test_what_is_not_read_is_not_kept() -> None:
    request = CompletionRequest.model_validate({"model": "icd", "prompt": "fever", "n": 1, MARKER: MARKER})
    assert MARKER not in repr(request)


def test_other_broken_requests(client: httpx.Client) -> None:
    for content in (b"{", json.dumps({"model": "icd", "prompt": f"\ud800{MARKER}"}).encode(), b'"\xff"'):
        response = client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
        assert response.status_code == 400
        assert response.json()["error"]["message"]
        assert MARKER not in response.text
    assert client.get(f"/v1/models/{MARKER}").json()["error"]["code"] == "model_not_found"


def test_parameters_without_meaning_here_change_nothing(client: httpx.Client) -> None:
    extra = {"temperature": 1.5, "seed": 4, "stop": ["\n"], "n": 1, "tools": [], "repeat_penalty": 1, "user": "u"}
    answer = client.post("/v1/completions", json={"model": "icd", "prompt": "fever", "logprobs": 1} | extra).json()
    (choice,) = answer["choices"]
    assert choice["text"] == "".join(choice["logprobs"]["tokens"]) == f" {ANSWER}"
    assert choice["logprobs"]["text_offset"][:4] == [0, 1, 4, 6]
