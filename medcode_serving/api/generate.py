"""The route that answers a question in words: /generate."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from medcode_serving.answers import WritingOptions, WrittenResponse
from medcode_serving.api.connection import while_connected
from medcode_serving.api.keys import require
from medcode_serving.api.predictions import is_json
from medcode_serving.api.problems import problem_responses
from medcode_serving.api.rate_limits import check_rate
from medcode_serving.api.service import Service, current_service
from medcode_serving.note_lines import is_unicode

router = APIRouter(tags=["answers in words"], dependencies=[Depends(require("predict")), Depends(check_rate)])


class GenerationRequest(WritingOptions):
    """One question."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"question": "I take warfarin. May I take ibuprofen for my knee?", "temperature": 0, "max_length": 200},
            ]
        },
    )

    question: str = Field(description="The question, as it is.")

    @field_validator("question")
    @classmethod
    def _is_text(cls, question: str) -> str:
        if not question.strip():
            raise PydanticCustomError("empty", "the question is empty")
        if not is_unicode(question):
            raise PydanticCustomError("not_unicode", "the question holds half of a surrogate pair")
        return question


@router.post(
    "/generate",
    dependencies=[Depends(is_json)],
    responses=problem_responses(401, 403, 404, 413, 415, 422, 429, 503, 504),
)
async def generate(
    body: GenerationRequest, request: Request, service: Annotated[Service, Depends(current_service)]
) -> WrittenResponse:
    """Answer a question in words, and check question and answer for dangers. **Not for clinical use.**

    The safety report changes nothing in the answer: show its warnings before it. Recipes that answer with codes are a
    problem with status 422; ask them at `/predict`.
    """
    return await while_connected(request, service.generate(request, body.question, body))
