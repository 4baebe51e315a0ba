"""Routes that predict: /predict and /predict/pdf."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, UploadFile
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from medcode_serving.api.problems import problem_responses
from medcode_serving.api.service import Service, current_service
from medcode_serving.documents import read_pdf
from medcode_serving.predictor import PredictionResponse, is_unicode

router = APIRouter(prefix="/predict", tags=["predictions"])

Threshold = Annotated[
    float | None, Field(ge=0, le=1, description="Least probability of a code; the model's own if not given.")
]
TopK = Annotated[int | None, Field(ge=1, description="Codes that the answer has at most.")]


class PredictionRequest(BaseModel):
    """One note."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"text": "Type 2 diabetes, hypertension. No fever.", "threshold": 0.5, "top_k": 10}]
        },
    )

    text: str = Field(description="The note, as it is.")
    threshold: Threshold = None
    top_k: TopK = None

    @field_validator("text")
    @classmethod
    def _is_text(cls, text: str) -> str:
        if not text.strip():
            raise PydanticCustomError("empty", "the text is empty")
        if not is_unicode(text):
            raise PydanticCustomError("not_unicode", "the text holds half of a surrogate pair")
        return text


@router.post("", responses=problem_responses(413, 422, 503))
async def predict(
    request: PredictionRequest, service: Annotated[Service, Depends(current_service)]
) -> PredictionResponse:
    """Predict the codes of a note."""
    return await service.predict(request.text, request.threshold, request.top_k)


@router.post("/pdf", responses=problem_responses(400, 413, 415, 422, 503, 504))
async def predict_pdf(
    file: UploadFile,
    service: Annotated[Service, Depends(current_service)],
    threshold: Annotated[Threshold, Form()] = None,
    top_k: Annotated[TopK, Form()] = None,
) -> PredictionResponse:
    """Predict the codes of a PDF's text layer.

    A PDF without text (a scan), encrypted, damaged or too long is refused with a problem that says so.
    """
    service.loaded()
    limits = service.settings.documents
    data = await file.read(limits.max_bytes + 1)
    text = await read_pdf(data, limits)
    return await service.predict(text, threshold, top_k)
