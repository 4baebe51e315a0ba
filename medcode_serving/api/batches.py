"""/predict/batch: many notes in one request, as one JSON document or as a stream of JSON lines."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from medcode_serving.answers import PredictionOptions
from medcode_serving.api.batch_notes import BatchNote, NoteAnswerer, NoteResult
from medcode_serving.api.batch_stream import BatchStream
from medcode_serving.api.connection import while_connected
from medcode_serving.api.keys import require
from medcode_serving.api.predictions import media_type
from medcode_serving.api.problems import ProblemError, problem_responses
from medcode_serving.api.rate_limits import check_rate
from medcode_serving.api.service import Service, current_service
from medcode_serving.note_lines import NoteLine, parse_note

LINES = ("application/x-ndjson", "application/jsonl")
"""Media types of a stream of JSON lines: two names of one thing."""

EXAMPLE: dict[str, Any] = {"id": "note-1", "text": "Type 2 diabetes, hypertension. No fever."}

router = APIRouter(
    prefix="/predict", tags=["predictions"], dependencies=[Depends(require("predict")), Depends(check_rate)]
)


class BatchRequest(PredictionOptions):
    """Several notes, and options for all of them."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"notes": [EXAMPLE], "top_k": 10}]})

    notes: list[Any] = Field(description="Each is judged by itself: a wrong one has a problem in its place.")


class BatchResponse(BaseModel):
    """One result a note, in the order of the notes."""

    results: list[NoteResult]


def _request_body() -> dict[str, Any]:
    """Describe both kinds of bodies; FastAPI would read one that it knows of, and hold a stream in memory."""
    document = BatchRequest.model_json_schema()
    document["properties"]["notes"]["items"] = BatchNote.model_json_schema()
    lines = {
        "schema": {"type": "string", "description": "One JSON object with `id` and `text` a line."},
        "example": f"{json.dumps(EXAMPLE)}\n",
    }
    return {"required": True, "content": {"application/json": {"schema": document}} | dict.fromkeys(LINES, lines)}


_RESULT_LINES = {
    "schema": {"type": "string", "description": "One result a line, as in a document, with the number of its `line`."},
    "example": '{"line": 1, "id": "note-1", "prediction": {...}}\n{"line": 2, "id": "note-2", "problem": {...}}\n',
}
_RESULTS: dict[int | str, dict[str, Any]] = {200: {"content": dict.fromkeys(LINES, _RESULT_LINES)}}


@router.post(
    "/batch",
    response_model=BatchResponse,
    openapi_extra={"requestBody": _request_body()},
    responses=_RESULTS | problem_responses(400, 401, 403, 404, 413, 415, 422, 429, 503),
)
async def predict_batch(
    request: Request,
    service: Annotated[Service, Depends(current_service)],
    options: Annotated[PredictionOptions, Query()],
) -> Response:
    """Predict the codes of many notes. A note that cannot be answered has a problem in its place; the others go on.

    A JSON document is answered as a whole; options stand in it or in the query. JSON lines are answered while they
    arrive, in their order, each as soon as it and all before it are done; options stand in the query. Blank lines are
    skipped. Neither ever fails for a full queue: its notes wait.
    """
    service.coder(options.recipe)  # no use reading notes for nobody
    settings = service.settings.api
    sent_as = media_type(request)
    if sent_as in LINES:
        return BatchStream(
            NoteAnswerer(service, request, options),
            media_type=sent_as,
            max_line_bytes=settings.max_body_bytes,
            patience_s=settings.timeout_s,
        )
    if sent_as != "application/json":
        raise ProblemError(415, "media_type", f"send application/json, or lines of JSON as {' or '.join(LINES)}")
    batch = _parse(await _read(request, settings.max_body_bytes), settings.max_batch_notes)
    options = options.model_copy(update=batch.model_dump(include=batch.model_fields_set - {"notes"}))
    service.coder(options.recipe)
    notes = [parse_note(note) for note in batch.notes]
    results = await while_connected(request, _answer_all(NoteAnswerer(service, request, options), notes))
    return Response(b'{"results":[' + b",".join(results) + b"]}", media_type="application/json")


async def _read(request: Request, max_bytes: int) -> bytes:
    """Return the body; this path is exempt from `BodyLimit`, for the sake of streams."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise HTTPException(413)
    return bytes(body)


def _parse(body: bytes, max_notes: int) -> BatchRequest:
    """Return what was sent; raises RequestValidationError, ProblemError 413 for too many notes."""
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestValidationError([{"type": "json_invalid", "loc": ("body",), "msg": "JSON decode error"}]) from None
    if isinstance(sent, dict) and isinstance(sent.get("notes"), list) and len(sent["notes"]) > max_notes:
        detail = f"more than {max_notes} notes (api.max_batch_notes); send fewer, or JSON lines, which have no limit"
        raise ProblemError(413, "too_many_notes", detail)
    try:
        return BatchRequest.model_validate(sent)
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in wrong]) from None


async def _answer_all(answerer: NoteAnswerer, notes: Sequence[NoteLine]) -> list[bytes]:
    """Return the results of all notes as JSON, in order."""
    results = [b""] * len(notes)

    async def answer(place: int) -> None:
        async with answerer.slots:
            results[place] = (await answerer.answer(notes[place])).encoded()

    async with anyio.create_task_group() as group:
        for place in range(len(notes)):
            group.start_soon(answer, place)
    return results
