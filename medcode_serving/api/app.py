"""The application factory."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version

import anyio
import anyio.to_thread
from fastapi import FastAPI

from medcode_serving.api import model, predictions
from medcode_serving.api.body_limit import BodyLimit
from medcode_serving.api.problems import describe_problems, install_handlers, problem_responses
from medcode_serving.api.request_log import RequestLog
from medcode_serving.api.service import Service
from medcode_serving.errors import MedcodeError
from medcode_serving.predictor import Predictor, load_predictor
from medcode_serving.settings import InferenceSettings

logger = logging.getLogger(__name__)


def create_app(
    settings: InferenceSettings, predictor_factory: Callable[[InferenceSettings], Predictor] = load_predictor
) -> FastAPI:
    """Return the application; it loads its bundle when it starts.

    Without a usable bundle it starts all the same: /health tells the reason and predictions answer 503.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = await anyio.to_thread.run_sync(_start, settings, predictor_factory)
        yield

    app = FastAPI(
        title="medcode",
        version=version("medcode"),
        summary="Clinical text in, medical codes out. Not for clinical use.",
        lifespan=lifespan,
        responses=problem_responses(500),
    )
    install_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=settings.api.max_body_bytes)
    app.add_middleware(RequestLog)  # added last is outermost
    app.include_router(model.router)
    app.include_router(predictions.router)
    describe_problems(app)
    return app


def _start(settings: InferenceSettings, predictor_factory: Callable[[InferenceSettings], Predictor]) -> Service:
    import torch

    predictor, reason = None, None
    try:
        predictor = predictor_factory(settings)
    except MedcodeError as error:
        reason = str(error)
        logger.warning("no model: %s", reason)
    else:
        manifest = predictor.bundle.manifest
        logger.info("serving %s %s with engine %s", manifest.recipe, manifest.version, predictor.engine.name)
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    return Service(settings, predictor, reason, gpu, anyio.CapacityLimiter(1))
