"""The application factory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import anyio.to_thread
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from medcode_serving.api import (
    admin,
    batches,
    browsers,
    codes,
    generate,
    health,
    metrics,
    model,
    openai,
    page,
    predictions,
)
from medcode_serving.api.audit import AuditLog
from medcode_serving.api.body_limit import BodyLimit
from medcode_serving.api.keys import KeyGate, KeyRing
from medcode_serving.api.metrics import Metrics
from medcode_serving.api.problems import describe_problems, install_handlers, problem_responses
from medcode_serving.api.rate_limits import RateLimits
from medcode_serving.api.request_log import RequestLog
from medcode_serving.api.service import Service
from medcode_serving.loading import load_predictor
from medcode_serving.note_queue import NoteQueue
from medcode_serving.safety import load_rules
from medcode_serving.served_models import Loader, ServedModels
from medcode_serving.settings import InferenceSettings

DESCRIPTION = """
Clinical text in, medical codes out; some recipes answer questions in words. **Not for clinical use**: codes must be
checked by a professional coder, answers by a clinician.

Errors are problem documents (RFC 9457) with a request id; none repeats the note.
"""


NO_TELEMETRY = TelemetryConfig(tracing=False, metrics=False, logs=False, operation_spans=False, auto_configure=False)
"""FastAPI would record exceptions, paths and queries as soon as anything in the process sets up OpenTelemetry."""

OPEN_PATHS = ("/health", "/ui", "/docs", "/redoc", "/openapi.json")
"""What needs no key: probes, the page, and the description of the API."""


def create_app(settings: InferenceSettings, load: Loader = load_predictor) -> FastAPI:
    """Return the application; it loads its bundles when it starts.

    Without a usable bundle it starts all the same: /health tells the reason, predictions answer 503, and a bundle that
    is published later is loaded then.

    Raises:
        MedcodeError: the keys, the rate limit, the audit file or the safety rules of the settings are not usable.
    """
    meters = Metrics()
    keys = KeyRing.load(settings.api.keys_file)
    rate_limits = RateLimits(settings.api.rate_limit)
    audit = AuditLog(settings.logging.audit_file)
    if settings.writing.safety_rules is not None:
        load_rules(settings.writing.safety_rules)  # kept; the shipped ones are read when the first question needs them

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        queue = NoteQueue(
            max_notes=settings.queue.max_notes,
            batch_size=settings.generation.batch_size,
            gather_ms=settings.queue.gather_ms,
            on_change=meters.queue_changed,
            on_batch=meters.batch_done,
        )
        models = ServedModels(settings, queue, load=load, on_attempt=meters.load_attempted)
        gpu_available = await anyio.to_thread.run_sync(_gpu_available)
        app.state.service = Service(
            settings,
            models,
            queue,
            metrics=meters,
            keys=keys,
            rate_limits=rate_limits,
            audit=audit,
            gpu_available=gpu_available,
        )
        await models.load_all()
        if any(model.predictor and model.predictor.answers == "words" for model in models.by_recipe.values()):
            await anyio.to_thread.run_sync(load_rules, settings.writing.safety_rules)
        watching = asyncio.create_task(models.watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await anyio.to_thread.run_sync(queue.close)
            audit.close()

    app = FastAPI(
        title="medcode",
        version=version("medcode"),
        summary="Clinical text in, medical codes out. Not for clinical use.",
        description=DESCRIPTION,
        lifespan=lifespan,
        responses=problem_responses(500),
        telemetry=NO_TELEMETRY,
    )
    install_handlers(app)
    # What is added last is outermost: a request comes in from below.
    app.add_middleware(BodyLimit, max_bytes=settings.api.max_body_bytes, streamed_paths=["/predict/batch"])
    app.add_middleware(KeyGate, open_paths=OPEN_PATHS)
    browsers.refuse_strangers(app, settings.api)
    app.add_middleware(RequestLog, metrics=meters)
    browsers.install(app, settings.api)
    for router in (health, model, predictions, generate, batches, codes, openai, admin, metrics):
        app.include_router(router.router)
    if settings.api.ui:
        app.include_router(page.router)
    describe_problems(app)
    return app


def _gpu_available() -> bool:
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()
