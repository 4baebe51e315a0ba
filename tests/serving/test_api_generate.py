"""POST /generate, and what else meets a recipe that answers in words, before a real uvicorn and a tiny real model."""

import hashlib
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_serving.answers import MOST_TOKENS
from medcode_serving.api import create_app
from medcode_serving.api.keys import add_key
from medcode_serving.api.openai import before_stops
from medcode_serving.bundle import Bundle, DecodingSettings, publish, write_bundle
from medcode_serving.chat import chat_prompt
from medcode_serving.engines.protocol import NoteOptions, Prediction, WrittenAnswer
from medcode_serving.errors import MedcodeError, OptionError
from medcode_serving.loading import load_predictor
from medcode_serving.predictor import Predictor
from medcode_serving.safety import check_safety
from tests.serving.conftest import make_manifest
from tests.serving.test_api import MARKER, problem, settings_for, start
from tests.serving.test_api_resilience import Broken, Hanging, ask_until_begun, with_engine
from tests.serving.test_documents import HELLO

RECIPE = "medqa"
LIMIT = 24
"""Tokens of an answer of the tiny bundle."""
QUESTION = "I take warfarin. May I take ibuprofen for my knee?"
URGENT = "I have crushing chest pain that goes into my left arm. May I take ibuprofen with my warfarin?"


def make_words_bundle(root: Path, base_model: Path, adapter: Path, version: str = "w1") -> Bundle:
    """Write a bundle that answers in words: no codes, no linear model."""
    manifest = make_manifest(base_model, version).model_copy(
        update={
            "recipe": RECIPE,
            "prompt": chat_prompt(base_model, "Answer briefly.", "words"),
            "decoding": DecodingSettings(max_prompt_tokens=128, max_answer_tokens=LIMIT),
        }
    )
    root.mkdir(parents=True, exist_ok=True)
    texts = ("system", "code", "text", "description")
    schema = pa.schema([*((name, pa.string()) for name in texts), ("frequency", pa.int64())])
    pq.write_table(schema.empty_table(), root / "codes.parquet")
    return write_bundle(root, manifest, adapter=adapter, codes=root / "codes.parquet")


class Saying(Broken):
    """Answers with a chosen text, and keeps what it was asked."""

    name = "saying"

    def __init__(self, text: str = "", *, cut: bool = False) -> None:
        super().__init__()
        self.text, self.cut = text, cut
        self.options: list[NoteOptions] = []

    def predict(self, notes: Sequence[str], *, options=None, on_progress=None) -> list[Prediction]:
        self.options += options or []
        return [Prediction((), written=WrittenAnswer(self.text, 12, 0.62, self.cut))] * len(notes)


@pytest.fixture(scope="module")
def words_home(make_bundle, base_model, adapter, tmp_path_factory) -> Path:
    """A MEDCODE_HOME with a recipe that has codes and one that answers in words."""
    home = tmp_path_factory.mktemp("words-home")
    publish(make_bundle(home / "bundles"))
    publish(make_words_bundle(home / "bundles", base_model, adapter))
    return home


@pytest.fixture
def serve(words_home: Path) -> Iterator[Callable[..., httpx.Client]]:
    """Run an application over that home, with an engine in place of the model if one is given."""
    stops = []

    def run(engine: Broken | None = None, **flags) -> httpx.Client:
        flags = {"model.recipes": [RECIPE], "model.watch_s": 0} | flags
        load = load_predictor if engine is None else with_engine(engine)
        client, stop = start(create_app(settings_for(words_home, **flags), load=load))
        stops.append((client, stop))
        return client

    yield run
    for client, stop in stops:
        client.close()
        stop()


@pytest.fixture(scope="module")
def audit_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "audit.jsonl"


@pytest.fixture(scope="module")
def client(words_home: Path, audit_file: Path) -> Iterator[httpx.Client]:
    """Both recipes, the one with codes first, as it is by default."""
    flags = {"model.recipes": ["icd", RECIPE], "model.watch_s": 0, "logging.audit_file": str(audit_file)}
    client, stop = start(create_app(settings_for(words_home, **flags)))
    with client:
        yield client
    stop()


def ask(client: httpx.Client, question: str = QUESTION, **options) -> dict:
    response = client.post("/generate", json={"question": question, **options})
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    return response.json()


class Plain(Saying):
    """Knows no length penalty."""

    def predict(self, notes: Sequence[str], *, options=None, on_progress=None) -> list[Prediction]:
        if any(option.writing.length_penalty for option in options or []):
            raise OptionError("no length penalty here; ask for max_sentences")
        return super().predict(notes, options=options)


def test_what_the_engine_cannot_do_is_a_problem_of_the_request(serve) -> None:
    client = serve(Plain("Rest."))
    refused = client.post("/generate", json={"question": MARKER, "length_penalty": 0.5})
    assert "no length penalty" in problem(refused, 422, "unsupported_option")["detail"]
    assert ask(client, MARKER)["response"] == "Rest."


def test_a_question_gets_an_answer_and_a_safety_report(client: httpx.Client) -> None:
    answer = ask(client)
    assert 0 < answer["tokens"] <= LIMIT
    assert answer["model"]["recipe"] == RECIPE and answer["model"]["version"] == "w1"
    assert answer["engine"] == "transformers"
    assert 0 < answer["confidence"] <= 1
    assert answer["inference_time_ms"] > 0
    assert (answer["truncated"], answer["temperature"], answer["seed"]) == (False, 0, None)
    assert "not for clinical use" in answer["disclaimer"].lower()
    report = check_safety(answer["response"], question=QUESTION).model_dump(mode="json")
    assert answer["safety_report"] == report
    assert "interaction" in {warning["kind"] for warning in report["warnings"]}
    for warning in report["warnings"]:
        for span in warning["spans"]:
            text = QUESTION if span["where"] == "question" else answer["response"]
            assert text[span["start"] : span["end"]] == span["text"]
    again = ask(client, recipe=RECIPE)
    assert again["response"] == answer["response"]


def test_an_emergency_stands_first_and_changes_nothing_in_the_answer(client: httpx.Client) -> None:
    answer = ask(client, URGENT)
    report = answer["safety_report"]
    assert report["risk_level"] == "emergency"
    assert report["warnings"][0]["kind"] == "emergency"
    assert any(span["where"] == "question" for span in report["warnings"][0]["spans"])
    unchecked = ask(client, URGENT, use_safety=False)
    assert unchecked["safety_report"] is None
    assert unchecked["response"] == answer["response"]


def test_options_reach_the_model(client: httpx.Client) -> None:
    assert ask(client, max_length=3)["tokens"] <= 3
    assert ask(client, max_length=MOST_TOKENS)["tokens"] <= LIMIT
    drawn = ask(client, temperature=1.5)
    assert drawn["temperature"] == 1.5 and drawn["seed"] is not None
    same = ask(client, temperature=1.5, seed=drawn["seed"])
    assert (same["response"], same["confidence"]) == (drawn["response"], pytest.approx(drawn["confidence"], rel=1e-3))
    assert len({ask(client, temperature=1.5, seed=seed)["response"] for seed in range(4)}) > 1
    assert ask(client, length_penalty=5)["tokens"] < ask(client, length_penalty=-5)["tokens"] == LIMIT


def test_a_long_question_is_cut_or_refused(client: httpx.Client) -> None:
    long = "It began on Monday. " * 200
    assert ask(client, long)["truncated"] is True
    refused = client.post("/generate", json={"question": long, "long_questions": "refuse"})
    problem(refused, 422, "too_long")
    problem(client.post("/generate", json={"question": MARKER * 2000}), 413, "question_too_big")


def test_the_settings_stand_where_a_request_leaves_it_open(serve) -> None:
    flags = {"max_tokens": 7, "temperature": 0.5, "length_penalty": 0.25, "max_sentences": 2, "use_safety": False}
    engine = Saying("Rest.")
    client = serve(engine, **{f"writing.{name}": value for name, value in flags.items()})
    engine.options.clear()
    assert ask(client)["safety_report"] is None
    given = {"temperature": 0, "length_penalty": 0, "max_sentences": 1, "max_length": 9, "use_safety": True}
    assert ask(client, **given)["safety_report"]["risk_level"]
    assert ask(client, temperature=1, seed=5, max_length=3)["seed"] == 5
    written = [option.writing for option in engine.options]
    left, own, seeded = written
    assert (left.max_tokens, left.temperature, left.length_penalty, left.max_sentences) == (7, 0.5, 0.25, 2)
    assert left.seed is not None
    assert (own.max_tokens, own.temperature, own.seed, own.length_penalty, own.max_sentences) == (7, 0, None, 0, 1)
    assert (seeded.max_tokens, seeded.temperature, seeded.seed) == (3, 1, 5)


def test_a_pharmacist_s_own_rules_are_used(serve, words_home: Path, tmp_path: Path) -> None:
    rule = {"id": "blue_nails", "severity": "emergency", "when": [["blue_nails"]], "message": "Call.", "source": "us"}
    own = {"terms": {"blue_nails": ["my nails are blue"]}, "rules": [rule]}
    (tmp_path / "emergencies.yaml").write_text(json.dumps(own))
    client = serve(Saying("Rest."), **{"writing.safety_rules": str(tmp_path)})
    report = ask(client, "My nails are blue.")["safety_report"]
    assert [(warning["rule"], warning["message"]) for warning in report["warnings"]] == [("blue_nails", "Call.")]
    assert report["rules"] != check_safety("Rest.").rules
    with pytest.raises(MedcodeError, match="safety rules"):
        create_app(settings_for(words_home, **{"writing.safety_rules": str(tmp_path / "nowhere")}))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"question": " \n"}, "empty"),
        ({"question": f"\ud800{MARKER}"}, "not_unicode"),
        ({}, "invalid_request"),
        ({"question": 1}, "invalid_request"),
        ({"question": MARKER, "temperature": 2.1}, "invalid_request"),
        ({"question": MARKER, "temperature": -0.1}, "invalid_request"),
        ({"question": MARKER, "temperature": MARKER}, "invalid_request"),
        ({"question": MARKER, "max_length": 0}, "invalid_request"),
        ({"question": MARKER, "seed": -1}, "invalid_request"),
        ({"question": MARKER, "max_sentences": 0}, "invalid_request"),
        ({"question": MARKER, MARKER: 1}, "invalid_request"),
        ({"question": MARKER, "top_k": 1}, "invalid_request"),
        ({"question": MARKER, "use_safety": "no"}, "invalid_request"),
        ({"question": MARKER, "use_safety": 0}, "invalid_request"),
        ([MARKER], "invalid_request"),
    ],
)
def test_wrong_requests_are_told_without_the_question(client: httpx.Client, body, kind: str) -> None:
    headers = {"content-type": "application/json"}
    problem(client.post("/generate", content=json.dumps(body), headers=headers), 422, kind)


def test_other_bodies(client: httpx.Client) -> None:
    problem(client.post("/generate", content=MARKER, headers={"content-type": "text/plain"}), 415, "media_type")
    wrong = client.post("/generate", content=f'{{"{MARKER}', headers={"content-type": "application/json"})
    problem(wrong, 422, "invalid_json")
    problem(client.post("/generate", json={"question": MARKER, "recipe": MARKER}), 404, "unknown_recipe")


def test_each_route_refuses_the_other_kind_of_recipe(client: httpx.Client) -> None:
    refused = problem(client.post("/generate", json={"question": MARKER, "recipe": "icd"}), 422, "answers_with_codes")
    assert refused["detail"].endswith("ask POST /predict")
    note = {"text": MARKER, "recipe": RECIPE}
    refused = problem(client.post("/predict", json=note), 422, "answers_in_words")
    assert refused["detail"].endswith("ask POST /generate")
    pdf = client.post("/predict/pdf", files={"file": ("note.pdf", HELLO)}, data={"recipe": RECIPE})
    problem(pdf, 422, "answers_in_words")
    batch = {"recipe": RECIPE, "notes": [{"text": MARKER}]}
    problem(client.post("/predict/batch", json=batch), 422, "answers_in_words")
    lines = {"content": json.dumps({"text": MARKER}) + "\n", "headers": {"content-type": "application/x-ndjson"}}
    problem(client.post(f"/predict/batch?recipe={RECIPE}", **lines), 422, "answers_in_words")
    problem(client.get("/codes", params={"q": "diab", "recipe": RECIPE}), 422, "answers_in_words")
    problem(client.get(f"/codes/icd10cm/E11.9?recipe={RECIPE}"), 422, "answers_in_words")
    assert client.post("/predict", json={"text": "Type 2 diabetes."}).json()["model"]["recipe"] == "icd"


def test_what_is_served_is_told(client: httpx.Client) -> None:
    models = client.get("/health").json()["models"]
    assert {name: model["answers"] for name, model in models.items()} == {"icd": "codes", RECIPE: "words"}
    assert [client.get(f"/health/{probe}").status_code for probe in ("live", "ready", "startup")] == [204] * 3
    card = client.get(f"/model?recipe={RECIPE}").json()
    assert (card["answers"], card["vocabulary"], card["fallback"], card["version"]) == ("words", 0, None, "w1")
    assert client.get("/model").json()["answers"] == "codes"


def test_without_a_recipe_in_words_there_is_no_answer(serve, make_bundle, base_model, adapter, tmp_path: Path) -> None:
    codes_only = serve(**{"model.recipes": ["icd"]})
    refused = problem(codes_only.post("/generate", json={"question": MARKER}), 404, "no_words")
    assert refused["detail"].endswith("there are icd")
    later = serve(**{"model.recipes": ["icd", RECIPE], "model.home": str(tmp_path)})
    waiting = later.post("/generate", json={"question": MARKER})
    assert "$MEDCODE_HOME" in problem(waiting, 503, "no_model")["detail"]
    assert waiting.headers["retry-after"] == "10"
    assert later.get("/health").json()["models"][RECIPE]["answers"] is None
    publish(make_words_bundle(tmp_path / "bundles", base_model, adapter))
    assert later.post("/admin/reload", json={"recipe": RECIPE}).status_code == 200
    assert ask(later)["model"]["recipe"] == RECIPE  # though icd has no model yet


def test_engines_that_fail_or_are_late_end_in_problems(serve) -> None:
    broken = serve(Broken())
    problem(broken.post("/generate", json={"question": MARKER}), 503, "engine")
    engine = Hanging()
    late = serve(engine, **{"api.timeout_s": 0.2})
    answers = ask_until_begun(lambda: late.post("/generate", json={"question": MARKER}), engine)
    for answer in answers:
        problem(answer, 504, "timeout")
    assert engine.given_up.wait(60)
    assert f'medcode_rejected_total{{reason="timeout"}} {len(answers)}.0' in late.get("/metrics").text


def test_the_model_stops_when_the_client_leaves(serve) -> None:
    engine = Hanging()
    client = serve(engine)
    body = json.dumps({"question": MARKER}).encode()
    head = (
        f"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        assert engine.working.wait(60)
    assert engine.given_up.wait(60)


def test_keys_need_the_scope(serve, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    reader, asker = (add_key(keys, scope, [scope]) for scope in ("metrics", "predict"))
    client = serve(Saying("Rest."), **{"api.keys_file": str(keys), "api.rate_limit": "1/day"})

    def status(secret: str) -> tuple[int, str]:
        headers = {"authorization": f"Bearer {secret}"}
        response = client.post("/generate", json={"question": MARKER}, headers=headers)
        return response.status_code, response.json().get("type", "").rpartition(":")[2]

    assert status("wrong") == (401, "unauthorized")
    assert status(reader) == (403, "forbidden")
    assert status(asker) == (200, "")
    assert status(asker) == (429, "rate_limited")


def test_audit_and_metrics_know_the_answer_but_no_text(client: httpx.Client, audit_file: Path) -> None:
    answer = ask(client, f"{URGENT} {MARKER}")
    client.post("/generate", json={"question": MARKER, "recipe": "icd"})
    done, refused = (json.loads(line) for line in audit_file.read_text().splitlines()[-2:])
    sha256 = hashlib.sha256(f"{URGENT} {MARKER}".encode()).hexdigest()
    assert (done["route"], done["outcome"], done["note_sha256"]) == ("/generate", "answered", sha256)
    assert done["response_sha256"] == hashlib.sha256(answer["response"].encode()).hexdigest()
    assert (done["recipe"], done["version"], done["tokens"], done["cut"]) == (
        RECIPE,
        "w1",
        answer["tokens"],
        answer["cut"],
    )
    assert (done["risk_level"], done["safety_rules"]) == ("emergency", answer["safety_report"]["rules"])
    assert refused["outcome"] == "answers_with_codes"
    metrics = client.get("/metrics").text
    assert f'medcode_predictions_total{{engine="transformers",recipe="{RECIPE}"}}' in metrics
    assert f'medcode_safety_reports_total{{recipe="{RECIPE}",risk_level="emergency"}}' in metrics
    assert f'medcode_written_tokens_total{{recipe="{RECIPE}"}}' in metrics
    assert MARKER not in audit_file.read_text() + metrics
    assert "chest" not in audit_file.read_text() + metrics


def test_openai_clients_get_the_words(client: httpx.Client) -> None:
    import openai

    api = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in api.models.list()] == ["icd", RECIPE]
    messages = [{"role": "user", "content": QUESTION}]
    said = ask(client)
    whole = api.chat.completions.create(model=f"{RECIPE}@w1", messages=messages, logprobs=True)
    assert whole.choices[0].message.content == said["response"]
    assert whole.choices[0].logprobs is None
    assert whole.choices[0].finish_reason == ("length" if said["cut"] else "stop")
    assert whole.usage.completion_tokens == said["tokens"]
    assert whole.model_extra["medcode"]["safety_report"] == said["safety_report"]
    stream = list(api.chat.completions.create(model=RECIPE, messages=messages, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == said["response"]
    plain = api.completions.create(model=RECIPE, prompt=QUESTION, max_tokens=2, temperature=0)
    short = ask(client, max_length=2)
    assert (plain.choices[0].text, plain.choices[0].finish_reason) == (short["response"], "length")
    drawn = api.chat.completions.create(
        model=RECIPE, messages=messages, temperature=1.5, seed=3, max_completion_tokens=5
    )
    assert drawn.choices[0].message.content == ask(client, temperature=1.5, seed=3, max_length=5)["response"]
    with pytest.raises(openai.BadRequestError):
        api.chat.completions.create(model=RECIPE, messages=messages, temperature=3)


def test_openai_s_stops_and_limits(serve) -> None:
    client = serve(Saying("Rest. Then walk.\n\nDrink water.", cut=True))

    def complete(**body) -> dict:
        answer = client.post("/v1/completions", json={"model": RECIPE, "prompt": QUESTION, **body}).json()
        return {name: answer["choices"][0][name] for name in ("text", "finish_reason")}

    assert complete() == {"text": "Rest. Then walk.\n\nDrink water.", "finish_reason": "length"}
    assert complete(max_tokens=-1, stop=None) == complete()
    assert complete(stop="\n\n") == {"text": "Rest. Then walk.", "finish_reason": "stop"}
    assert complete(stop=["water", "", "Then"]) == {"text": "Rest. ", "finish_reason": "stop"}


@given(st.text(alphabet="ab", max_size=12), st.lists(st.text(alphabet="ab", min_size=1, max_size=3), max_size=3))
def test_nothing_behind_a_stop_is_said(text: str, stops: list[str]) -> None:
    kept = before_stops(text, stops)
    assert text.startswith(kept)
    assert not any(stop in kept for stop in stops)
    assert kept == text or any(text[len(kept) :].startswith(stop) for stop in stops)


def test_a_predictor_of_words_has_no_codes(words_home: Path) -> None:
    predictor: Predictor = load_predictor(settings_for(words_home), RECIPE)
    assert predictor.fallback is None
    with pytest.raises(MedcodeError, match="POST /generate"):
        predictor.predict("Type 2 diabetes.")
    predictor.close()
