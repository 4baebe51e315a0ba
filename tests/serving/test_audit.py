import hashlib
import json
import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import Request

from medcode_serving.api import create_app
from medcode_serving.api.audit import AuditLog
from medcode_serving.api.keys import add_key
from medcode_serving.errors import MedcodeError
from tests.serving.test_api import settings_for, start
from tests.serving.test_api_keys import ANSWER, MARKER, bearer, running, small_app


def request() -> Request:
    state = {"request_id": "r1", "api_key": SimpleNamespace(name="coder")}
    return Request({"type": "http", "state": state, "route": SimpleNamespace(path="/predict")})


def test_a_line_a_prediction_without_the_note(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with running(small_app(audit_file=path)) as client:
        response = client.post("/notes/ward-7", json={"text": MARKER})
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        first = path.read_text()
        path.rename(tmp_path / "audit.jsonl.1")  # as logrotate does
        client.post("/notes/ward-7", json={"text": "fever"})
    (line,) = map(json.loads, first.splitlines())
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "request_id": response.headers["x-request-id"],
        "note_id": "n1",
        "key": "anonymous",
        "route": "/notes/{place}",
        "note_sha256": hashlib.sha256(MARKER.encode()).hexdigest(),
        "characters": len(MARKER),
        "outcome": "answered",
        "recipe": "icd",
        "version": "v1",
        "engine": "linear",
        "fallback": "timeout",
        "codes": ["icd10cm:E11.9"],
        "processing_time_ms": 41.7,
    }
    assert len(path.read_text().splitlines()) == 1
    assert MARKER not in first


def test_lines_of_many_threads_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: audit.prediction(request(), "\ud800" * n, None, outcome="timeout"), range(200)))
    audit.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(line["characters"] for line in lines) == list(range(200))
    assert {line["outcome"] for line in lines} == {"timeout"}


def test_what_cannot_be_opened_is_refused_and_a_full_disk_stops_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd
) -> None:
    for path in (tmp_path, tmp_path / "missing" / "audit.jsonl"):
        with pytest.raises(MedcodeError, match=r"logging\.audit_file"):
            AuditLog(path)
    AuditLog(None).prediction(request(), "fever", ANSWER)
    full = AuditLog(Path("/dev/full"))
    with caplog.at_level(logging.ERROR):
        full.prediction(request(), MARKER, ANSWER)
    full.close()
    assert "the audit log cannot be written: No space left on device" in caplog.text
    assert "E11.9" not in caplog.text + "".join(capfd.readouterr())


def test_who_changed_the_model_is_told_and_a_body_is_optional(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {"api.keys_file": tmp_path / "keys.yaml", "logging.audit_file": tmp_path / "audit.jsonl"}
    headers = bearer(add_key(files["api.keys_file"], "oncall", ["admin"]))
    client, stop = start(create_app(settings_for(home, **{name: str(path) for name, path in files.items()})))
    wanted: list[tuple[str, dict | None]] = [
        ("reload", None),
        ("reload", {"recipe": MARKER}),
        ("rollback", None),
        ("rollback", {"version": MARKER}),
        ("rollback", {"version": "v1"}),
    ]
    with client, caplog.at_level(logging.INFO, logger="medcode_serving.api"):
        client.headers = headers
        answers = [client.post(f"/admin/{action}", json=body) for action, body in wanted]
        stop()  # the log line of a request is written behind its answer
    assert [answer.status_code for answer in answers] == [200, 404, 404, 404, 200]
    lines = [json.loads(line) for line in files["logging.audit_file"].read_text().splitlines()]
    assert [(line["action"], line["recipe"], line["version"], line["outcome"]) for line in lines] == [
        ("reload", "icd", "v1", "unchanged"),
        ("reload", None, None, "unknown_recipe"),
        ("rollback", "icd", None, "unknown_version"),
        ("rollback", "icd", None, "unknown_version"),
        ("rollback", "icd", "v1", "loaded"),
    ]
    assert {line["key"] for line in lines} == {"oncall"}
    assert [line["request_id"] for line in lines] == [answer.headers["x-request-id"] for answer in answers]
    assert "key=oncall rollback of recipe icd to v1: loaded" in caplog.text
    assert "key=oncall POST /admin/rollback 200" in caplog.text
    assert MARKER not in str(lines) + caplog.text
