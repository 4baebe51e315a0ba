"""The route that tells what is served: /model."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from medcode_serving.api.health import LastReload
from medcode_serving.api.keys import require
from medcode_serving.api.problems import problem_responses
from medcode_serving.api.service import Service, current_service
from medcode_serving.bundle import BaseModelRef, DecodingSettings, Metric
from medcode_serving.engines.llamacpp import LlamaCppEngine

router = APIRouter(tags=["model"], dependencies=[Depends(require("predict"))])


class ModelCard(BaseModel):
    """What the served bundle is, and where it came from."""

    recipe: str = Field(examples=["icd"])
    recipes: list[str] = Field(description="All that are served; the first answers requests that name none.")
    answers: Literal["codes", "words"] = Field(
        description="What it answers: `codes` to a note (POST /predict), or `words` to a question (POST /generate)."
    )
    version: str
    created_at: datetime
    base_model: BaseModelRef
    data_version: str = Field(description="Name of the MIMIC version that it was trained on.")
    release: str = Field(examples=["mimic-iv"])
    split_hash: str
    metrics: list[Metric]
    threshold: float = Field(description="In force for requests without their own.")
    calibration: str = Field(description="How probabilities are calibrated: none, temperature or isotonic.")
    vocabulary: int = Field(description="Codes of the training notes; 0 where answers are words.")
    decoding: DecodingSettings
    code_version: str
    engine: str
    gguf: str | None = Field(description="The GGUF file that the engine llamacpp runs, its number format in its name.")
    fallback: str | None = Field(description="What answers when the engine fails or is too slow.")
    loaded_at: datetime
    previous_version: str | None = Field(description="What a rollback without a version would go back to.")
    pinned: bool = Field(description="Rolled back by hand: LATEST is not followed.")
    last_reload: LastReload | None


@router.get("/model", responses=problem_responses(401, 403, 404, 503))
async def model_card(
    service: Annotated[Service, Depends(current_service)],
    recipe: Annotated[str | None, Query(max_length=100, description="The first one served if not given.")] = None,
) -> ModelCard:
    """Describe a served bundle."""
    predictor = service.predictor(recipe)
    model = service.models.by_recipe[service.recipe(recipe)]
    manifest = predictor.manifest
    return ModelCard(
        recipe=manifest.recipe,
        recipes=list(service.models.by_recipe),
        answers=predictor.answers,
        version=manifest.version,
        created_at=manifest.created_at,
        base_model=manifest.base_model,
        data_version=manifest.data.partition,
        release=manifest.data.release,
        split_hash=manifest.data.split_hash,
        metrics=list(manifest.metrics),
        threshold=predictor.threshold,
        calibration=predictor.bundle.decision(predictor.engine.name).calibration.method,
        vocabulary=0 if predictor.answers == "words" else len(predictor.vocabulary),
        decoding=manifest.decoding,
        code_version=manifest.provenance.code_version,
        engine=predictor.engine.name,
        gguf=predictor.engine.file.name if isinstance(predictor.engine, LlamaCppEngine) else None,
        fallback=None if predictor.fallback is None else predictor.fallback.name,
        loaded_at=predictor.loaded_at,
        previous_version=model.previous_version,
        pinned=model.pinned,
        last_reload=None if model.last_attempt is None else LastReload.of(model.last_attempt, service),
    )
