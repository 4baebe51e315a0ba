"""/predict/batch: many notes in one request, as one JSON document or as a stream of JSON lines."""

import json
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from medcode_serving.answers import PredictionOptions
from medcode_serving.api.connection import while_connected
from medcode_serving.api.keys import require
from medcode_serving.api.line_stream import LineStream
from medcode_serving.api.note_results import BatchNote, NoteAnswerer, NoteResult
from medcode_serving.api.problems import ProblemError, problem_responses
from medcode_serving.api.service import Service, current_service

STREAMED = ("application/x-ndjson", "application/jsonl", "application/x-jsonlines")
"""Media types of a stream of lines; they are three names for one thing."""

router = APIRouter(prefix="/predict", tags=["predictions"], dependencies=[Depends(require("predict"))])


class BatchRequest(PredictionOptions):
    """Several notes, and options for all of them."""

    model_config = ConfigDict(extra="forbid")

    notes: list[BatchNote]


class BatchResponse(BaseModel):
    """One result a note, in the order of the notes."""

    results: list[NoteResult]
