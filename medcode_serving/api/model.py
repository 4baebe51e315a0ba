"""Routes that tell what is served: /health and /model."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from medcode_serving.api.problems import problem_responses
from medcode_serving.api.service import Service, current_service
from medcode_serving.bundle import BaseModelRef, DecodingSettings, Metric

router = APIRouter(tags=["model"])


class Health(BaseModel):
    """Whether the service can predict."""

    status: Literal["ok", "no_model"]
    model_loaded: bool
    gpu_available: bool
    reason: str | None = Field(default=None, description="Why no model is loaded.")


class ModelCard(BaseModel):
    """What the served bundle is, and where it came from."""

    recipe: str = Field(examples=["icd"])
    version: str
    created_at: datetime
    base_model: BaseModelRef
    data_version: str = Field(description="Name of the MIMIC version that it was trained on.")
    release: str = Field(examples=["mimic-iv"])
    split_hash: str
    metrics: list[Metric]
    threshold: float = Field(description="In force for requests without their own.")
    decoding: DecodingSettings
    code_version: str
    engine: str
    loaded_at: datetime


@router.get("/health")
async def health(service: Annotated[Service, Depends(current_service)]) -> Health:
    """Tell whether a model is loaded; answers 200 either way."""
    loaded = service.predictor is not None
    return Health(
        status="ok" if loaded else "no_model",
        model_loaded=loaded,
        gpu_available=service.gpu_available,
        reason=service.reason,
    )


@router.get("/model", responses=problem_responses(503))
async def model_card(service: Annotated[Service, Depends(current_service)]) -> ModelCard:
    """Describe the served bundle."""
    predictor = service.loaded()
    manifest = predictor.bundle.manifest
    return ModelCard(
        recipe=manifest.recipe,
        version=manifest.version,
        created_at=manifest.created_at,
        base_model=manifest.base_model,
        data_version=manifest.data.partition,
        release=manifest.data.release,
        split_hash=manifest.data.split_hash,
        metrics=list(manifest.metrics),
        threshold=predictor.threshold,
        decoding=manifest.decoding,
        code_version=manifest.provenance.code_version,
        engine=predictor.engine.name,
        loaded_at=predictor.loaded_at,
    )
