"""One note of a batch: what is sent, what is answered, and how its failure stays its own."""

import logging
import traceback
from http import HTTPStatus
from typing import Annotated

import anyio
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from medcode_serving.answers import PredictionOptions, PredictionResponse
from medcode_serving.api.problems import ProblemError
from medcode_serving.api.service import Service
from medcode_serving.errors import MedcodeError
from medcode_serving.note_lines import MAX_ID_CHARACTERS, NoteLine

FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 0.25
"""Between two attempts to find room in the queue; each wait is twice the one before."""

logger = logging.getLogger(__name__)

NoteId = Annotated[str, Field(max_length=MAX_ID_CHARACTERS)] | int | None


class BatchNote(BaseModel):
    """One note of a batch, as /openapi.json describes it; `note_lines` reads it."""

    model_config = ConfigDict(extra="forbid")

    id: NoteId = Field(default=None, description="Comes back with the answer.", examples=["note-1"])
    text: str = Field(description="The note, as it is.", examples=["Type 2 diabetes, hypertension. No fever."])


class NoteProblem(BaseModel):
    """Why a note has no answer; as in a problem document."""

    type: str = Field(examples=["urn:medcode:problem:empty"])
    title: str = Field(examples=["Unprocessable Entity"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["the text is empty"])


class _Result(BaseModel):
    line: int | None = Field(default=None, description="Line of the note in a stream, from 1; absent in a document.")
    id: NoteId = Field(description="As sent.", examples=["note-1"])

    def encoded(self) -> bytes:
        """Return the result as JSON on one line, without its end."""
        return self.model_dump_json(exclude={"line"} if self.line is None else None).encode()


class AnsweredNote(_Result):
    """The codes of one note."""

    prediction: PredictionResponse


class FailedNote(_Result):
    """A note without an answer; the others have theirs."""

    problem: NoteProblem


NoteResult = AnsweredNote | FailedNote


def failed(status: int, kind: str, detail: str, *, note_id: NoteId = None, line: int | None = None) -> FailedNote:
    """Return the result of a note that cannot be answered."""
    title = HTTPStatus(status).phrase
    problem = NoteProblem(type=f"urn:medcode:problem:{kind}", title=title, status=status, detail=detail)
    return FailedNote(line=line, id=note_id, problem=problem)


class NoteAnswerer:
    """Answers the notes of one request."""

    def __init__(self, service: Service, request: Request, options: PredictionOptions) -> None:
        """Take what is the same for all notes."""
        self._service = service
        self._request = request
        self._options = options
        self._room = max(1, service.settings.queue.max_notes // 2)
        """Of the queue: notes of batches leave the other half to requests of one note, which cannot wait."""
        self.slots = anyio.Semaphore(2 * service.settings.generation.batch_size)
        """To be held while a note is answered: the engine always has a batch waiting, and others find room beside."""

    async def answer(self, note: NoteLine, line: int | None = None) -> NoteResult:
        """Return the result of one note; whatever goes wrong with it is told in there."""
        if note.text is None:
            assert note.kind is not None and note.detail is not None
            status = 413 if note.kind == "line_too_long" else 422
            return failed(status, note.kind, note.detail, note_id=note.id, line=line)
        try:
            prediction = await self._predict(note.id, note.text)
        except ProblemError as error:
            return failed(error.status, error.kind, error.detail, note_id=note.id, line=line)
        except MedcodeError as error:
            return failed(503, "engine", str(error), note_id=note.id, line=line)
        except Exception as error:  # noqa: BLE001 - nobody foresaw it; its text may quote the note, and others go on
            place = traceback.extract_tb(error.__traceback__)[-1]
            request_id = self._request.state.request_id
            logger.error("request_id=%s %s at %s:%s", request_id, type(error).__name__, place.filename, place.lineno)  # noqa: TRY400
            detail = "medcode failed; its log names the place under this request id"
            return failed(500, "internal", detail, note_id=note.id, line=line)
        return AnsweredNote(line=line, id=note.id, prediction=prediction)

    async def _predict(self, sent_id: NoteId, text: str) -> PredictionResponse:
        """Predict; while there is no room in the queue, wait."""
        note_id = None if sent_id is None else str(sent_id)
        wait = FIRST_WAIT_S
        while True:
            if len(self._service.queue) < self._room:
                try:
                    return await self._service.predict(self._request, text, self._options, note_id=note_id)
                except ProblemError as error:
                    if error.kind != "queue_full":  # another request was faster
                        raise
            await anyio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)
