import time
from datetime import UTC, datetime
from types import SimpleNamespace

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from medcode_serving.answers import ModelIdentity
from medcode_serving.api.metrics import Metrics
from medcode_serving.served_models import ReloadAttempt, ServedModel, _Lease
from tests.serving.test_api_keys import MARKER, running, small_app


def scrape(client: httpx.Client) -> dict[tuple, float]:
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def test_requests_are_counted_by_pattern_and_answers_by_recipe() -> None:
    with running(small_app()) as client:
        client.post("/notes/ward-7", json={"text": MARKER})
        client.post("/notes/ward-8", json={"text": MARKER, MARKER: 1})
        client.get(f"/{MARKER}")
        client.request("PROPFIND", "/busy")
        client.get("/broken")
        found = scrape(client)
        text = client.get("/metrics").text
        assert client.get("/metrics").headers["content-type"].count("charset") == 1
        asked = {"accept": "application/openmetrics-text; version=1.0.0"}
        assert client.get("/metrics", headers=asked).text.endswith("# EOF\n")

    def requests(method: str, route: str, status: str) -> float:
        return found["medcode_requests_total", ("method", method), ("route", route), ("status", status)]

    assert requests("POST", "/notes/{place}", "200") == requests("POST", "/notes/{place}", "422") == 1
    assert requests("GET", "(unknown)", "404") == 1
    assert requests("(other)", "/busy", "405") == 1
    assert requests("GET", "/broken", "500") == 1
    assert found["medcode_request_seconds_count", ("route", "/notes/{place}")] == 2
    assert found["medcode_predictions_total", ("engine", "linear"), ("recipe", "icd")] == 1
    assert found["medcode_note_seconds_sum", ("engine", "linear")] == pytest.approx(0.0417)
    assert found["medcode_dropped_fragments_total", ("recipe", "icd")] == 2
    assert found["medcode_codes_total", ("recipe", "icd")] == 1
    assert found["medcode_truncated_total", ("recipe", "icd")] == 1
    assert found["medcode_fallbacks_total", ("reason", "timeout")] == 1
    assert found[("process_resident_memory_bytes",)] > 0
    assert MARKER.lower() not in text.lower() and "ward" not in text


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=abc", "text/plain;version=1..0"])
def test_a_version_that_is_none_gets_plain_text(accept: str) -> None:
    with running(small_app()) as client:
        answer = client.get("/metrics", headers={"accept": accept})
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/plain")


def test_a_client_that_leaves_is_counted() -> None:
    app = small_app()
    registry = app.state.service.metrics.registry
    with running(app) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.get("/slow", timeout=0.2)
        for _ in range(3000):
            if registry.get_sample_value("medcode_rejected_total", {"reason": "disconnected"}):
                break
            time.sleep(0.02)
    assert registry.get_sample_value("medcode_rejected_total", {"reason": "disconnected"}) == 1
    gone = {"method": "GET", "route": "/slow", "status": "499"}
    assert registry.get_sample_value("medcode_requests_total", gone) == 1


def test_queue_batches_and_models() -> None:
    metrics, other = Metrics(), Metrics()
    value = metrics.registry.get_sample_value
    metrics.queue_changed(3, 2)
    metrics.batch_done(2, 0.5)
    metrics.batch_done(40, 1.5)
    assert (value("medcode_queue_notes"), value("medcode_running_notes")) == (3, 2)
    assert [value("medcode_batch_notes_bucket", {"le": le}) for le in ("1.0", "2.0", "32.0", "64.0")] == [0, 1, 1, 2]
    assert value("medcode_batch_seconds_sum") == 2
    assert other.registry.get_sample_value("medcode_batch_seconds_sum") == 0

    model = ServedModel("icd")
    for version, outcome in (("v1", "loaded"), ("v2", "loaded"), ("v2", "failed")):
        identity = ModelIdentity(recipe="icd", version=version, base_model="embedded")
        model.lease = _Lease(SimpleNamespace(identity=identity))  # type: ignore[arg-type]
        model.last_attempt = ReloadAttempt(datetime.now(UTC), version, outcome)  # type: ignore[arg-type]
        metrics.load_attempted(model)
    served = [sample.labels for family in metrics.model_loaded.collect() for sample in family.samples]
    assert served == [{"recipe": "icd", "version": "v2", "base_model": "embedded"}]
    assert value("medcode_reloads_total", {"recipe": "icd", "outcome": "loaded"}) == 2
