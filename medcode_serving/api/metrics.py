"""Counts and times for Prometheus. Labels take few values, and none that a client makes up."""

from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from medcode_serving.answers import PredictionResponse, WrittenResponse
from medcode_serving.api.keys import require
from medcode_serving.api.problems import problem_responses

if TYPE_CHECKING:
    from medcode_serving.served_models import ServedModel

router = APIRouter(tags=["operation"])

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one application, in a registry of its own, so that two in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = self._counter("requests", "Requests answered.", "method", "route", "status")
        self.request_seconds = self._times("request_seconds", "From a request's arrival to its answer's end.", "route")
        self.rejected = self._counter(
            "rejected",
            "Turned away: queue_full, timeout, rate_limited, unauthorized, forbidden, unknown_host, foreign_page, "
            "disconnected.",
            "reason",
        )
        self.queue_notes = self._gauge("queue_notes", "Notes that wait.")
        self.running_notes = self._gauge("running_notes", "Notes that are being predicted.")
        self.batch_notes = Histogram(
            "medcode_batch_notes", "Notes of a batch.", registry=self.registry, buckets=(1, 2, 4, 8, 16, 32, 64)
        )
        self.batch_seconds = self._times("batch_seconds", "Time of a batch.")
        self.predictions = self._counter("predictions", "Notes and questions answered.", "recipe", "engine")
        self.note_seconds = self._times("note_seconds", "From a note's arrival in the queue to its answer.", "engine")
        self.codes = self._counter("codes", "Codes answered.", "recipe")
        self.truncated = self._counter("truncated", "Notes of which parts were not read.", "recipe")
        self.dropped_fragments = self._counter(
            "dropped_fragments", "Pieces of a model's text that were no codes.", "recipe"
        )
        self.written_tokens = self._counter("written_tokens", "Tokens of answers in words.", "recipe")
        self.cut = self._counter("cut", "Answers in words that were broken off at their limit.", "recipe")
        self.safety_reports = self._counter("safety_reports", "Checked answers in words.", "recipe", "risk_level")
        self.fallbacks = self._counter("fallbacks", "Notes that another engine answered: timeout, failed.", "reason")
        self.pdf = self._counter("pdf", "PDFs: text, or the kind of what was wrong with them.", "outcome")
        self.reloads = self._counter(
            "reloads", "Attempts to load a bundle: loaded, unchanged, failed.", "recipe", "outcome"
        )
        self.model_loaded = self._gauge(
            "model_loaded", "1 for the bundle that answers.", "recipe", "version", "base_model"
        )

    def queue_changed(self, waiting: int, running: int) -> None:
        """Take the notes that wait and those that are being answered; from any thread."""
        self.queue_notes.set(waiting)
        self.running_notes.set(running)

    def batch_done(self, notes: int, seconds: float) -> None:
        """Count one batch; from any thread."""
        self.batch_notes.observe(notes)
        self.batch_seconds.observe(seconds)

    def answered(self, response: PredictionResponse) -> None:
        """Count one answer."""
        recipe = response.model.recipe
        self.predictions.labels(recipe, response.engine).inc()
        self.note_seconds.labels(response.engine).observe(response.processing_time_ms / 1000)
        self.codes.labels(recipe).inc(len(response.codes))
        self.truncated.labels(recipe).inc(response.truncated)
        self.dropped_fragments.labels(recipe).inc(response.dropped)
        if response.fallback is not None:
            self.fallbacks.labels(response.fallback.reason).inc()

    def written(self, response: WrittenResponse) -> None:
        """Count one answer in words."""
        recipe = response.model.recipe
        self.predictions.labels(recipe, response.engine).inc()
        self.note_seconds.labels(response.engine).observe(response.inference_time_ms / 1000)
        self.truncated.labels(recipe).inc(response.truncated)
        self.written_tokens.labels(recipe).inc(response.tokens)
        self.cut.labels(recipe).inc(response.cut)
        if response.safety_report is not None:
            self.safety_reports.labels(recipe, response.safety_report.risk_level).inc()

    def load_attempted(self, model: "ServedModel") -> None:
        """Count an attempt to load a bundle, and let `model_loaded` name the one that answers, and no older one."""
        if model.last_attempt is not None:
            self.reloads.labels(model.recipe, model.last_attempt.outcome).inc()
        self.model_loaded.remove_by_labels({"recipe": model.recipe})
        if model.predictor is not None:
            identity = model.predictor.identity
            self.model_loaded.labels(identity.recipe, identity.version, identity.base_model).set(1)

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"medcode_{name}", description, labels, registry=self.registry)

    def _gauge(self, name: str, description: str, *labels: str) -> Gauge:
        return Gauge(f"medcode_{name}", description, labels, registry=self.registry)

    def _times(self, name: str, description: str, *labels: str) -> Histogram:
        return Histogram(f"medcode_{name}", description, labels, registry=self.registry, buckets=_SECONDS)


@router.get(
    "/metrics",
    dependencies=[Depends(require("metrics"))],
    response_class=Response,
    responses=problem_responses(401, 403) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Return counts and times in the text format of Prometheus, or as OpenMetrics if asked so; no notes, no codes."""
    try:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
    except TypeError:  # a version that is no number
        encode, content_type = choose_encoder("")
    # A Content-Type in `headers` replaces `media_type`, to which Starlette would add a second charset.
    return Response(encode(request.app.state.service.metrics.registry), headers={"Content-Type": content_type})
