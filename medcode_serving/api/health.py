"""Routes for whoever watches the service: Kubernetes, a load balancer, a person. None needs a key."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from medcode_serving.api.problems import ProblemError, problem_responses
from medcode_serving.api.service import Service, current_service
from medcode_serving.served_models import ReloadAttempt, ServedModel

router = APIRouter(prefix="/health", tags=["health"])

STUCK_TIMEOUTS = 10
"""A batch that runs for so many times the deadline of a request will not come back."""


class LastReload(BaseModel):
    """How the last attempt to load a bundle went."""

    at: datetime
    version: str | None = Field(description="The bundle that was to be loaded.")
    outcome: Literal["loaded", "unchanged", "failed"]
    reason: str | None = Field(default=None, description="Why it failed; the bundle before goes on serving.")

    @classmethod
    def of(cls, attempt: ReloadAttempt, service: Service) -> "LastReload":
        """Say what was attempted, without the server's paths."""
        reason = None if attempt.reason is None else service.without_home(attempt.reason)
        return cls(at=attempt.at, version=attempt.version, outcome=attempt.outcome, reason=reason)


class ModelHealth(BaseModel):
    """What answers for one recipe."""

    version: str | None = Field(description="The bundle that answers; null if none is loaded.")
    answers: Literal["codes", "words"] | None = Field(
        description="What it answers: `codes` to a note, or `words` to a question; null if none is loaded."
    )
    pinned: bool = Field(description="Rolled back by hand: LATEST is not followed.")
    last_reload: LastReload | None


class Health(BaseModel):
    """Whether the service can predict."""

    status: Literal["ok", "degraded", "no_model"] = Field(
        description="degraded: it predicts, but a recipe has no model, or a newer bundle could not be loaded."
    )
    model_loaded: bool
    gpu_available: bool
    reason: str | None = Field(default=None, description="What is wrong, if anything is.")
    models: dict[str, ModelHealth] = Field(description="By recipe.")


@router.get("")
async def health(service: Annotated[Service, Depends(current_service)]) -> Health:
    """Tell whether models are loaded; answers 200 either way."""
    models = service.models.by_recipe.values()
    loaded = [model for model in models if model.version is not None]
    reason = next((service.without_home(found) for model in models if (found := _reason(model))), None)
    return Health(
        status="no_model" if not loaded else "degraded" if reason else "ok",
        model_loaded=bool(loaded),
        gpu_available=service.gpu_available,
        reason=reason,
        models={
            model.recipe: ModelHealth(
                version=model.version,
                answers=None if model.predictor is None else model.predictor.answers,
                pinned=model.pinned,
                last_reload=None if model.last_attempt is None else LastReload.of(model.last_attempt, service),
            )
            for model in models
        },
    )


def _reason(model: ServedModel) -> str | None:
    if model.last_attempt is not None and model.last_attempt.outcome == "failed":
        return model.last_attempt.reason
    return None if model.version else f"recipe {model.recipe!r} has no model yet"


@router.get("/live", status_code=204, response_class=Response, responses=problem_responses(503))
async def live(service: Annotated[Service, Depends(current_service)]) -> None:
    """Answer 204 while the process can work; 503 says that only a restart helps."""
    if not service.queue.alive or service.queue.busy_s > STUCK_TIMEOUTS * service.settings.api.timeout_s:
        raise ProblemError(503, "stuck", "the thread that predicts has ended or hangs; restart the service")


@router.get("/ready", status_code=204, response_class=Response, responses=problem_responses(503))
async def ready(service: Annotated[Service, Depends(current_service)]) -> None:
    """Answer 204 if every recipe has a model and the queue has room."""
    await live(service)
    for recipe in service.models.by_recipe:
        service.predictor(recipe)
    if service.queue.full:
        raise ProblemError(503, "queue_full", "too many notes are waiting; try again later", retry_after=1)


@router.get("/startup", status_code=204, response_class=Response, responses=problem_responses(503))
async def startup(service: Annotated[Service, Depends(current_service)]) -> None:
    """Answer 204 once every recipe's model has answered a real note: none is loaded before it did."""
    for recipe in service.models.by_recipe:
        service.predictor(recipe)
