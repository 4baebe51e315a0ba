"""Routes that predict one note: /predict and /predict/pdf."""

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request, UploadFile
from pydantic import ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from medcode_serving.answers import PredictionOptions, PredictionResponse
from medcode_serving.api.connection import while_connected
from medcode_serving.api.keys import require
from medcode_serving.api.problems import ProblemError, problem_responses
from medcode_serving.api.rate_limits import check_rate
from medcode_serving.api.service import Service, current_service
from medcode_serving.documents import DocumentError, read_pdf
from medcode_serving.note_lines import is_unicode

router = APIRouter(
    prefix="/predict", tags=["predictions"], dependencies=[Depends(require("predict")), Depends(check_rate)]
)


class PredictionRequest(PredictionOptions):
    """One note."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"text": "Type 2 diabetes, hypertension. No fever.", "top_k": 10, "evidence": "lexical"},
            ]
        },
    )

    text: str = Field(description="The note, as it is.")

    @field_validator("text")
    @classmethod
    def _is_text(cls, text: str) -> str:
        if not text.strip():
            raise PydanticCustomError("empty", "the text is empty")
        if not is_unicode(text):
            raise PydanticCustomError("not_unicode", "the text holds half of a surrogate pair")
        return text


class PdfRequest(PredictionOptions):
    """A PDF and the options, as a form."""

    model_config = ConfigDict(extra="forbid")

    file: UploadFile = Field(description="The PDF.")
    include_text: bool = Field(default=False, description="Whether the answer has the text that was read.")


class PdfPredictionResponse(PredictionResponse):
    """The codes of one PDF."""

    pages: int = Field(description="Pages of the PDF.")
    text: str | None = Field(
        default=None,
        description="The text that was read, which the evidence's offsets count in; null if not asked for.",
    )


def media_type(request: Request) -> str:
    """Return the media type of a request's body, without its parameters; empty if it has none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def is_json(request: Request) -> None:
    """Dependency: FastAPI would take another body for a text, and say that it is no object."""
    if not re.fullmatch(r"application/([^/]+\+)?json", media_type(request)):
        raise ProblemError(415, "media_type", "send application/json")


async def _is_form(request: Request) -> None:
    """Dependency: FastAPI would say of another body that all fields are missing."""
    if media_type(request) != "multipart/form-data":
        raise ProblemError(415, "media_type", "send multipart/form-data with the field `file`")


@router.post(
    "", dependencies=[Depends(is_json)], responses=problem_responses(401, 403, 404, 413, 415, 422, 429, 503, 504)
)
async def predict(
    body: PredictionRequest, request: Request, service: Annotated[Service, Depends(current_service)]
) -> PredictionResponse:
    """Predict the codes of a note."""
    return await while_connected(request, service.predict(request, body.text, body))


@router.post(
    "/pdf",
    dependencies=[Depends(_is_form)],
    responses=problem_responses(400, 401, 403, 404, 413, 415, 422, 429, 503, 504),
)
async def predict_pdf(
    form: Annotated[PdfRequest, Form(media_type="multipart/form-data")],
    request: Request,
    service: Annotated[Service, Depends(current_service)],
) -> PdfPredictionResponse:
    """Predict the codes of a PDF's text layer.

    A PDF without text (a scan), encrypted, damaged or too long is refused with a problem that says so.
    """
    service.coder(form.recipe)  # no use reading a PDF for nobody
    return await while_connected(request, _predict_pdf(form, request, service))


async def _predict_pdf(form: PdfRequest, request: Request, service: Service) -> PdfPredictionResponse:
    limits = service.settings.documents
    try:
        document = await read_pdf(await form.file.read(limits.max_bytes + 1), limits)
    except DocumentError as error:
        service.metrics.pdf.labels(error.kind).inc()
        raise
    service.metrics.pdf.labels("text").inc()
    answer = await service.predict(request, document.text, form, pages=document.pages)
    return PdfPredictionResponse(
        **dict(answer), pages=len(document.pages), text=document.text if form.include_text else None
    )
