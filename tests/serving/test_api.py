import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from medcode_serving.api import create_app
from medcode_serving.loading import load_predictor
from medcode_serving.settings import InferenceSettings, load_inference_settings
from tests.serving.conftest import NOTES
from tests.serving.test_documents import HELLO, make_pdf

MARKER = "Zylophrastia-4711"
"""Stands in notes; must come out nowhere."""


def start(app) -> tuple[httpx.Client, "object"]:
    """Run an application under a real uvicorn."""
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.02)

    def stop() -> None:
        server.should_exit = True
        thread.join()
        listener.close()

    return httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60), stop


def settings_for(home: Path, **flags) -> InferenceSettings:
    return load_inference_settings(
        None,
        **{"model.home": str(home), "device": "cpu", "api.max_body_bytes": 100_000, "documents.timeout_s": 60} | flags,
    )


@pytest.fixture(scope="module")
def settings(home: Path) -> InferenceSettings:
    return settings_for(home, **{"documents.max_bytes": 50_000})


@pytest.fixture(scope="module")
def client(settings: InferenceSettings) -> Iterator[httpx.Client]:
    client, stop = start(create_app(settings))
    with client:
        yield client
    stop()


def problem(response: httpx.Response, status: int, kind: str) -> dict:
    """Check the form of a problem document and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["type"] == f"urn:medcode:problem:{kind}"
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["title"] and body["detail"] and body["instance"].endswith(body["request_id"])
    assert MARKER not in response.text
    return body


def test_health_and_model(client: httpx.Client, home: Path) -> None:
    health = client.get("/health").json()
    assert health["status"] == "ok"
    assert health["model_loaded"] is True
    assert isinstance(health["gpu_available"], bool)
    assert health["models"]["icd"]["version"] == "v1"
    assert health["models"]["icd"]["last_reload"]["outcome"] == "loaded"
    assert [client.get(f"/health/{probe}").status_code for probe in ("live", "ready", "startup")] == [204] * 3
    card = client.get("/model").json()
    assert (card["recipe"], card["version"], card["data_version"]) == ("icd", "v1", "tiny")
    assert card["split_hash"] == "1" * 64
    assert card["metrics"][0]["name"] == "micro_f1"
    assert (card["recipes"], card["engine"], card["fallback"], card["calibration"]) == (
        ["icd"],
        "transformers",
        None,
        "none",
    )
    assert problem(client.get(f"/model?recipe={MARKER}"), 404, "unknown_recipe")["detail"].endswith("there are icd")


def test_the_api_answers_what_the_predictor_answers(client: httpx.Client, settings: InferenceSettings) -> None:
    direct = load_predictor(settings).predict(NOTES[0]).model_dump(mode="json")
    response = client.post("/predict", json={"text": NOTES[0]})
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    answer = response.json()
    assert answer["processing_time_ms"] > 0
    for one in (direct, answer):
        del one["processing_time_ms"]
    assert answer == direct
    assert answer["codes"]
    assert answer["model"] == {"recipe": "icd", "version": "v1", "base_model": direct["model"]["base_model"]}


def test_threshold_and_top_k(client: httpx.Client) -> None:
    every = client.post("/predict", json={"text": NOTES[3], "threshold": 0}).json()["codes"]
    values = [code["probability"] for code in every]
    assert values == sorted(values, reverse=True)
    assert client.post("/predict", json={"text": NOTES[3], "threshold": 1}).json()["codes"] == []
    assert client.post("/predict", json={"text": NOTES[3], "top_k": 1}).json()["codes"] == every[:1]


def test_pdf(client: httpx.Client) -> None:
    text = client.post("/predict", json={"text": "Type 2 diabetes", "top_k": 2}).json()
    response = client.post("/predict/pdf", files={"file": ("note.pdf", HELLO)}, data={"top_k": "2"})
    assert response.status_code == 200
    answer = response.json()
    assert answer["codes"] == text["codes"]
    assert (answer["pages"], answer["text"]) == (1, None)
    assert response.headers["cache-control"] == "no-store"


def test_evidence_counts_in_the_submitted_text(client: httpx.Client) -> None:
    note = "  \U0001f600 Seen for cough.\nLong-standing hypertension. No diabetes."
    options = {"threshold": 0, "evidence": "lexical"}
    answer = client.post("/predict", json={"text": note, **options}).json()
    assert answer["evidence_method"] == "lexical"
    found = {code["code"]: code["evidence"] for code in answer["codes"]}
    for spans in found.values():
        for span in spans:
            assert note[span["start"] : span["end"]] == span["text"]
            assert span["page"] is None
    forms = {"include_text": "true"} | {name: str(value) for name, value in options.items()}
    answer = client.post("/predict/pdf", files={"file": ("note.pdf", HELLO)}, data=forms).json()
    assert answer["text"] == "Type 2 diabetes"
    assert {span["page"] for code in answer["codes"] for span in code["evidence"]} <= {1}
    dear = client.post("/predict", json={"text": NOTES[1], "threshold": 0, "evidence": "occlusion"}).json()
    assert dear["evidence_method"] == "occlusion"
    assert all(isinstance(code["evidence"], list) for code in dear["codes"])


def test_options_of_the_model(client: httpx.Client) -> None:
    def ask(text: str, **options) -> dict:
        return client.post("/predict", json={"text": text, "threshold": 0} | options).json()

    assert len(ask(NOTES[0], max_codes=1)["codes"]) == 1
    free = ask(NOTES[0], constrained=False)
    assert free["constrained"] is False
    assert free["dropped"] >= 0
    long = "Fever and cough. " * 200
    assert (ask(long)["truncated"], ask(long)["windows"]) == (True, 1)
    windows = ask(long, long_notes="windows")
    assert windows["truncated"] is False
    assert windows["windows"] > 1
    problem(client.post("/predict", json={"text": long, "long_notes": "refuse"}), 422, "too_long")


def test_documents_that_give_no_text(client: httpx.Client) -> None:
    def send(data: bytes) -> httpx.Response:
        return client.post("/predict/pdf", files={"file": (f"{MARKER}.pdf", data)})

    problem(send(MARKER.encode()), 415, "not_a_pdf")
    problem(send(make_pdf(b"")), 422, "no_text")
    problem(send(HELLO[:200]), 422, "malformed")
    problem(send(HELLO + bytes(60_000)), 413, "too_big")
    problem(
        client.post("/predict/pdf", files={"file": ("x.pdf", HELLO)}, data={"top_k": MARKER}), 422, "invalid_request"
    )
    problem(client.post("/predict/pdf", files={"text": MARKER}), 422, "invalid_request")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "invalid_request"),
        (b"[]", "invalid_request"),
        (b'"' + MARKER.encode() + b'"', "invalid_request"),
        (b'{"text": "' + MARKER.encode(), "invalid_json"),
        (b"[" * 20_000, "invalid_json"),
        (b"9" * 5000, "invalid_json"),
        (b'{"text": "\xff' + MARKER.encode() + b'"}', "invalid_json"),
        (json.dumps({"text": [MARKER]}).encode(), "invalid_request"),
        (json.dumps({"txt": MARKER}).encode(), "invalid_request"),
        (json.dumps({"text": "fever", MARKER: 1}).encode(), "invalid_request"),
        (json.dumps({"text": MARKER, "threshold": MARKER}).encode(), "invalid_request"),
        (json.dumps({"text": MARKER, "threshold": 2}).encode(), "invalid_request"),
        (json.dumps({"text": MARKER, "threshold": float("nan")}).encode(), "invalid_request"),
        (json.dumps({"text": MARKER, "top_k": 0}).encode(), "invalid_request"),
        (b'{"text": " \\n\\t "}', "empty"),
        (b'{"text": ""}', "empty"),
        (b'{"text": "\\ud800 ' + MARKER.encode() + b'"}', "not_unicode"),
        (b'{"text": "", "top_k": 0}', "invalid_request"),
    ],
)
def test_bad_requests_are_explained_and_not_quoted(client: httpx.Client, body: bytes, kind: str) -> None:
    response = client.post("/predict", content=body, headers={"content-type": "application/json"})
    errors = problem(response, 422, kind).get("errors", [])
    assert errors or kind == "invalid_json"
    assert all(set(error) == {"loc", "msg", "type"} for error in errors)


def test_other_errors_are_problems_too(client: httpx.Client) -> None:
    problem(client.get(f"/{MARKER}"), 404, "http_404")
    problem(client.get(f"/predict?text={MARKER}"), 405, "http_405")
    too_long = problem(client.post("/predict", json={"text": MARKER * 10_000}), 413, "http_413")
    assert too_long["detail"].endswith("bytes (api.max_body_bytes)")
    chunks = (f'"{MARKER}",'.encode() * 1000 for _ in range(20))  # a body that does not tell its length
    problem(client.post("/predict", content=chunks), 413, "http_413")


def test_a_request_id_is_kept_if_it_is_one(client: httpx.Client) -> None:
    assert client.get("/health", headers={"x-request-id": "abcd-1234-efgh"}).headers["x-request-id"] == "abcd-1234-efgh"
    assert client.get("/health", headers={"x-request-id": "a b\tc" * 9}).headers["x-request-id"] != "a b\tc" * 9


def test_the_description_has_examples_and_problems(client: httpx.Client) -> None:
    spec = client.get("/openapi.json").json()
    responses = spec["paths"]["/predict"]["post"]["responses"]
    assert set(responses) == {"200", "401", "403", "404", "413", "415", "422", "429", "500", "503", "504"}
    assert list(responses["422"]["content"]) == ["application/problem+json"]
    assert {"Problem", "InvalidField"} <= set(spec["components"]["schemas"])
    assert spec["components"]["schemas"]["PredictionRequest"]["examples"]


def test_without_a_bundle_it_starts_and_says_why(tmp_path: Path) -> None:
    client, stop = start(create_app(settings_for(tmp_path)))
    with client:
        health = client.get("/health").json()
        assert health["model_loaded"] is False
        assert "no bundle of recipe 'icd' is published" in health["reason"]
        assert "medcode run" in problem(client.post("/predict", json={"text": "fever"}), 503, "no_model")["detail"]
        problem(client.get("/model"), 503, "no_model")
        problem(client.post("/predict/pdf", files={"file": ("x.pdf", HELLO)}), 503, "no_model")
    stop()


def test_notes_reach_no_log_when_all_is_well(
    settings: InferenceSettings, caplog: pytest.LogCaptureFixture, capfd
) -> None:
    caplog.set_level(logging.DEBUG)
    client, stop = start(create_app(settings))
    with client:
        client.post("/predict", json={"text": f"{MARKER} and diabetes"})
        pdf = make_pdf(f"BT /F 9 Tf ({MARKER}) Tj ET".encode())
        client.post("/predict/pdf", files={"file": (f"{MARKER}.pdf", pdf)})
    stop()  # the log line of a request is written behind its answer
    server_side = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    logged = "\n".join(logging.Formatter().format(record) for record in server_side)
    assert "POST /predict 200" in logged
    assert "POST /predict/pdf 200" in logged
    assert MARKER not in logged
    assert MARKER not in "".join(capfd.readouterr())


def test_a_body_of_unknown_fields_is_one_error_that_names_the_known_ones(client: httpx.Client) -> None:
    unknown = {f"{MARKER}{place}": "1" for place in range(900)}
    form = client.post("/predict/pdf", data=unknown, files={"file": ("x.pdf", HELLO)})
    for response in (client.post("/predict", json={"text": "fever"} | unknown), form):
        answer = problem(response, 422, "invalid_request")
        assert len(answer["errors"]) == 1
        assert answer["detail"].startswith("unknown field; allowed are: recipe, threshold, top_k,")
    assert problem(client.post("/predict", json=unknown), 422, "invalid_request")["detail"].endswith(", evidence, text")


def test_no_more_errors_are_told_than_anyone_reads(client: httpx.Client) -> None:
    answer = problem(client.post("/admin/reload", json=dict.fromkeys(map(str, range(1000)))), 422, "invalid_request")
    assert len(answer["errors"]) == 20
    assert answer["detail"].endswith("; 980 more errors")


def test_bodies_of_another_media_type_are_refused_with_the_right_one(client: httpx.Client) -> None:
    for form in ({"data": {"text": MARKER}}, {"content": MARKER}, {"files": {"text": MARKER}}):
        assert "send application/json" in problem(client.post("/predict", **form), 415, "media_type")["detail"]
    for wrong in ({"data": {"text": MARKER}}, {"json": {"text": MARKER}}, {"content": HELLO}):
        assert "field `file`" in problem(client.post("/predict/pdf", **wrong), 415, "media_type")["detail"]
    headers = {"content-type": 'Application/FHIR+json; charset="utf-8"'}
    assert client.post("/predict", content=b'{"text": "fever"}', headers=headers).status_code == 200
