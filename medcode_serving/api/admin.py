"""Routes for whoever runs the service: /admin/reload, /admin/rollback, /admin/versions. They need the scope `admin`."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from medcode_serving.api.health import LastReload
from medcode_serving.api.keys import require
from medcode_serving.api.problems import ProblemError, problem_responses
from medcode_serving.api.service import Service, current_service
from medcode_serving.bundle import bundle_versions
from medcode_serving.errors import MedcodeError
from medcode_serving.served_models import ReloadAttempt

router = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(require("admin"))])

Recipe = Annotated[str | None, Field(max_length=100, description="The first one served if not given.")]


class ReloadRequest(BaseModel):
    """Which recipe."""

    model_config = ConfigDict(extra="forbid")

    recipe: Recipe = None


class RollbackRequest(ReloadRequest):
    """Which bundle to go back to."""

    version: str | None = Field(
        default=None, max_length=200, description="A bundle's version; the one that served before if not given."
    )


class Reloaded(BaseModel):
    """What serves now, and how it went."""

    recipe: str
    serving: str | None = Field(description="Version of the bundle that answers from now on.")
    pinned: bool
    reload: LastReload


class Versions(BaseModel):
    """The bundles of a recipe."""

    recipe: str
    serving: str | None
    versions: list[str] = Field(description="The newest last; some may have been held back by a gate.")


@router.post("/reload", responses=problem_responses(401, 403, 404, 422, 502))
async def reload(
    body: Annotated[ReloadRequest, Body(default_factory=ReloadRequest)],
    request: Request,
    service: Annotated[Service, Depends(current_service)],
) -> Reloaded:
    """Load the bundle that LATEST names, and follow LATEST again after a rollback.

    A bundle that cannot be loaded is a problem with status 502; the one before goes on serving.
    """
    return await _change(request, service, "reload", body.recipe, service.models.reload)


@router.post("/rollback", responses=problem_responses(401, 403, 404, 422, 502))
async def roll_back(
    body: Annotated[RollbackRequest, Body(default_factory=RollbackRequest)],
    request: Request,
    service: Annotated[Service, Depends(current_service)],
) -> Reloaded:
    """Load an earlier bundle and stay with it until the next reload; LATEST is left as it is."""

    async def go_back(recipe: str) -> ReloadAttempt:
        try:
            return await service.models.roll_back(recipe, body.version)
        except MedcodeError as error:
            raise ProblemError(404, "unknown_version", str(error)) from None

    return await _change(request, service, "rollback", body.recipe, go_back)


@router.get("/versions", responses=problem_responses(401, 403, 404, 422))
async def versions(
    service: Annotated[Service, Depends(current_service)], recipe: Annotated[str | None, Query(max_length=100)] = None
) -> Versions:
    """List the bundles that a rollback can go back to."""
    recipe = service.recipe(recipe)
    return Versions(
        recipe=recipe,
        serving=service.models.by_recipe[recipe].version,
        versions=bundle_versions(service.settings.home / "bundles", recipe),
    )


async def _change(
    request: Request,
    service: Service,
    action: Literal["reload", "rollback"],
    named: str | None,
    load: Callable[[str], Awaitable[ReloadAttempt]],
) -> Reloaded:
    """Load a bundle of the recipe that a request named; audit and log tell who wanted it and how it went."""
    recipe: str | None = None
    version: str | None = None
    outcome = "failed"
    try:
        recipe = service.recipe(named)
        attempt = await load(recipe)
        version, outcome = attempt.version, attempt.outcome
    except ProblemError as problem:
        outcome = problem.kind
        raise
    finally:
        service.audit.admin(request, action, recipe, version, outcome)
    if attempt.outcome == "failed":
        raise ProblemError(502, "bad_bundle", attempt.reason or "the bundle cannot be loaded")
    model = service.models.by_recipe[recipe]
    return Reloaded(recipe=recipe, serving=model.version, pinned=model.pinned, reload=LastReload.of(attempt, service))
