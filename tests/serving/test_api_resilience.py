"""The application when things go wrong: engines that break or hang, clients that leave, bad bundles, many requests."""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from medcode_serving.api import create_app
from medcode_serving.api.keys import add_key
from medcode_serving.bundle import Decision, publish, write_bundle
from medcode_serving.calibration import Calibration
from medcode_serving.engines.protocol import Prediction
from medcode_serving.linear.files import save_model
from medcode_serving.loading import load_predictor
from medcode_serving.predictor import Predictor
from tests.serving.conftest import NOTES, make_manifest
from tests.serving.test_api import MARKER, problem, settings_for, start
from tests.serving.test_linear_engine import made_model
from tests.serving.test_served_models import corrupt
from tests.tiny import write_codes

WARM_UP = 1
LINEAR = Decision(threshold=0.1, calibration=Calibration(method="isotonic", told=(0.0, 1.0), right=(0.0, 0.5)))


class Broken:
    """Fails on every note but the first, which is asked for when it is loaded."""

    name = "broken"

    def __init__(self) -> None:
        self.asked = 0

    def predict(self, notes: Sequence[str], *, options=None, on_progress=None) -> list[Prediction]:
        self.asked += 1
        if self.asked > WARM_UP:
            raise RuntimeError(f"cannot read {notes[0]}")
        return [Prediction(())] * len(notes)

    def close(self) -> None:
        pass


class Hanging(Broken):
    """Works on a note until it is told that nobody waits for it any more."""

    name = "hanging"

    def __init__(self) -> None:
        super().__init__()
        self.working = threading.Event()
        self.given_up = threading.Event()
        self.release = threading.Event()

    def predict(self, notes: Sequence[str], *, options=None, on_progress=None) -> list[Prediction]:
        self.asked += 1
        if self.asked > WARM_UP:
            self.working.set()
            while not self.release.is_set():
                if all(option.ended() for option in options):
                    self.given_up.set()
                    return [Prediction((), outcome="ended")] * len(notes)
                time.sleep(0.002)
        return [Prediction(())] * len(notes)


def ask_until_begun(ask: Callable[[], httpx.Response], engine: Hanging) -> list[httpx.Response]:
    """Ask until the engine began with one: on a busy machine a short time may be over before, and a note leaves."""
    answers = [ask()]
    while not engine.working.is_set():
        answers.append(ask())
    return answers


def with_engine(engine: Broken) -> Callable[..., Predictor]:
    """Load as always, and put another engine in."""

    def load(settings, recipe, version, shared_bases) -> Predictor:
        predictor = load_predictor(settings, recipe, version, shared_bases)
        predictor.engine = engine
        return predictor

    return load


@pytest.fixture(scope="module")
def home_with_linear(base_model, adapter, vocabulary, tmp_path_factory) -> Path:
    """A bundle that has a linear model."""
    home = tmp_path_factory.mktemp("linear-home")
    save_model(made_model(), home / "linear", {"training_notes": 100})
    manifest = make_manifest(base_model).model_copy(update={"baselines": {"linear": LINEAR}})
    codes = write_codes(home / "codes.parquet", vocabulary)
    publish(write_bundle(home / "bundles", manifest, adapter=adapter, codes=codes, linear=home / "linear"))
    return home


def test_an_engine_that_breaks_is_told_and_notes_reach_no_log(home: Path, caplog, capfd) -> None:
    caplog.set_level(logging.DEBUG)
    client, stop = start(create_app(settings_for(home), with_engine(Broken())))
    with client:
        body = problem(client.post(f"/predict?q={MARKER}", json={"text": MARKER}), 503, "engine")
        client.get(f"/{MARKER}")
        assert client.get("/health/live").status_code == 204
    stop()
    server_side = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    logged = "\n".join(logging.Formatter().format(record) for record in server_side)
    assert body["request_id"] in logged
    assert "RuntimeError" in logged
    assert "POST /predict 503" in logged
    assert MARKER not in logged
    assert MARKER not in "".join(capfd.readouterr())


def test_the_linear_model_answers_for_an_engine_that_breaks_and_says_so(home_with_linear: Path) -> None:
    # The settings' threshold is the served engine's; the linear model has one of its own, and a calibration.
    settings = settings_for(home_with_linear, **{"generation.threshold": 0.9})
    client, stop = start(create_app(settings, with_engine(Broken())))
    with client:
        answer = client.post("/predict", json={"text": "He was febrile.", "evidence": "occlusion"})
        problem(answer, 422, "no_occlusion")  # the engine put in is no language model
        answer = client.post("/predict", json={"text": "He was febrile.", "evidence": "lexical"}).json()
        assert answer["fallback"] == {"engine": "broken", "reason": "failed"}
        assert (answer["engine"], answer["threshold"]) == ("linear", 0.1)
        assert [code["code"] for code in answer["codes"]] == ["R50.9"]
        assert answer["codes"][0]["probability"] == pytest.approx(answer["codes"][0]["confidence"] / 2)
        assert [span["text"] for span in answer["codes"][0]["evidence"]] == ["He was febrile."]
        assert 'medcode_fallbacks_total{reason="failed"} 1.0' in client.get("/metrics").text
    stop()


def test_a_deadline_stops_the_engine_and_the_fallback_answers(home_with_linear: Path, home: Path) -> None:
    engine = Hanging()
    client, stop = start(create_app(settings_for(home_with_linear, **{"api.timeout_s": 0.2}), with_engine(engine)))
    with client:
        for answer in ask_until_begun(lambda: client.post("/predict", json={"text": "He was febrile."}), engine):
            assert answer.json()["fallback"] == {"engine": "hanging", "reason": "timeout"}
        assert engine.given_up.wait(60)
    stop()
    engine = Hanging()
    client, stop = start(create_app(settings_for(home, **{"api.timeout_s": 0.2}), with_engine(engine)))
    with client:
        problem(client.post("/predict", json={"text": MARKER}), 504, "timeout")
    stop()


def test_a_client_that_leaves_frees_the_model(home: Path) -> None:
    engine = Hanging()
    client, stop = start(create_app(settings_for(home), with_engine(engine)))
    body = json.dumps({"text": MARKER}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        assert engine.working.wait(60)
    assert engine.given_up.wait(60)
    with client:
        while 'rejected_total{reason="disconnected"} 1.0' not in client.get("/metrics").text:
            time.sleep(0.01)
    stop()


def test_a_full_queue_answers_at_once_and_says_when_to_come_back(home: Path) -> None:
    engine = Hanging()
    client, stop = start(create_app(settings_for(home, **{"queue.max_notes": 2}), with_engine(engine)))
    with client, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.post, "/predict", json={"text": f"note {number}"}) for number in range(2)]
        while client.get("/health/ready").status_code == 204:
            time.sleep(0.01)
        response = client.post("/predict", json={"text": "one more"})
        problem(response, 503, "queue_full")
        assert int(response.headers["retry-after"]) >= 1
        engine.release.set()
        assert [one.result().status_code for one in waiting] == [200, 200]
        assert client.get("/health/ready").status_code == 204
    stop()


def test_shutdown_finishes_what_runs(home: Path) -> None:
    engine = Hanging()
    client, stop = start(create_app(settings_for(home), with_engine(engine)))
    with client, ThreadPoolExecutor(2) as pool:
        running = pool.submit(client.post, "/predict", json={"text": "note"})
        assert engine.working.wait(60)
        stopping = pool.submit(stop)
        engine.release.set()
        assert running.result().status_code == 200
        stopping.result()


def test_requests_survive_reloads_and_a_bad_bundle(make_bundle, tmp_path: Path) -> None:
    publish(make_bundle(tmp_path / "bundles", "v1"))
    client, stop = start(create_app(settings_for(tmp_path, **{"model.watch_s": 0.05})))
    seen: tuple[list[tuple[int, str]], ...] = ([], [])
    done = threading.Event()

    def ask(mine: list[tuple[int, str]]) -> None:
        while not done.is_set():
            response = client.post("/predict", json={"text": NOTES[1]})
            mine.append((response.status_code, response.json()["model"]["version"]))

    def two_more_each() -> None:  # the first may have been under way already
        wanted = [len(mine) + 2 for mine in seen]
        while any(len(mine) < least for mine, least in zip(seen, wanted, strict=True)):
            assert not any(asker.done() for asker in askers)
            time.sleep(0.01)

    def serving() -> dict:
        return client.get("/health").json()["models"]["icd"]

    with client, ThreadPoolExecutor(2) as pool, ExitStack() as pool_ends:
        pool_ends.callback(done.set)
        askers = [pool.submit(ask, mine) for mine in seen]
        publish(make_bundle(tmp_path / "bundles", "v2"))
        while serving()["version"] != "v2":
            time.sleep(0.02)
        two_more_each()
        publish(corrupt(make_bundle(tmp_path / "bundles", "v3")))
        while serving()["last_reload"]["outcome"] != "failed":
            time.sleep(0.02)
        assert client.get("/health").json()["status"] == "degraded"
        body = problem(client.post("/admin/reload", json={}), 502, "bad_bundle")
        assert "adapter_model.safetensors: changed since it was published" in body["detail"]
        back = client.post("/admin/rollback", json={}).json()
        assert (back["serving"], back["pinned"], back["reload"]["outcome"]) == ("v1", True, "loaded")
        assert client.get("/admin/versions").json()["versions"] == ["v1", "v2", "v3"]
        problem(client.post("/admin/rollback", json={"version": MARKER}), 404, "unknown_version")
        two_more_each()
        done.set()
        for asker in askers:
            asker.result()
    stop()
    for mine in seen:
        assert {status for status, _ in mine} == {200}
        assert {"v2"} <= {version for _, version in mine} <= {"v1", "v2"}
        assert mine[-1][1] == "v1"


def test_keys_open_what_they_name_and_audit_tells_who_asked(home: Path, tmp_path: Path) -> None:
    coder = {"x-api-key": add_key(tmp_path / "keys.yaml", "coder", ["predict"], rate_limit="3/minute")}
    admin = {"authorization": f"Bearer {add_key(tmp_path / 'keys.yaml', 'admin', ['admin'])}"}
    settings = settings_for(
        home, **{"api.keys_file": str(tmp_path / "keys.yaml"), "logging.audit_file": str(tmp_path / "audit.jsonl")}
    )
    client, stop = start(create_app(settings))
    with client:
        problem(client.post("/predict", json={"text": MARKER}), 401, "unauthorized")
        problem(client.post("/predict", json={"text": MARKER}, headers={"x-api-key": MARKER}), 401, "unauthorized")
        for route in ("/model", "/metrics", "/codes/icd10cm/I10", "/v1/models", "/admin/versions"):
            assert client.get(route).status_code == 401, route
        assert client.get("/health").status_code == 200
        problem(client.post("/admin/reload", json={}, headers=coder), 403, "forbidden")
        problem(client.get("/metrics", headers=coder), 403, "forbidden")
        answer = client.post("/predict", json={"text": f"{MARKER} diabetes"}, headers=coder)
        assert answer.status_code == 200
        while (limited := client.post("/predict", json={"text": "fever"}, headers=coder)).status_code == 200:
            pass
        problem(limited, 429, "rate_limited")
        assert int(limited.headers["retry-after"]) >= 1
        assert client.post("/admin/reload", json={}, headers=admin).json()["reload"]["outcome"] == "unchanged"
        assert client.post("/predict", json={"text": "fever"}, headers=admin).status_code == 200
    stop()
    written = (tmp_path / "audit.jsonl").read_text()
    line = json.loads(written.splitlines()[0])
    assert (line["key"], line["request_id"]) == ("coder", answer.headers["x-request-id"])
    assert line["codes"] == [f"{code['system']}:{code['code']}" for code in answer.json()["codes"]]
    assert MARKER not in written
