"""Errors as RFC 9457 problem documents, none of which quotes what was sent."""

import math
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from medcode_serving.api.body_limit import BodyTooLongError
from medcode_serving.documents import DocumentError
from medcode_serving.errors import MedcodeError

MEDIA_TYPE = "application/problem+json"

DOCUMENT_STATUS = {"too_big": 413, "not_a_pdf": 415, "timeout": 504, "busy": 503}
"""Status by kind of a document error; every other kind is 422."""

MOST_ERRORS = 20
"""Wrong parts of a request that an answer lists."""

NO_JSON = "the body is no JSON in UTF-8"

REQUEST_PARTS = frozenset({"body", "query", "path", "header", "cookie"})

_CONTENT = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}


class InvalidField(BaseModel):
    """One wrong part of a request."""

    loc: list[str | int] = Field(description="Where it is.", examples=[["body", "text"]])
    msg: str = Field(examples=["Field required"])
    type: str = Field(examples=["missing"])


class Problem(BaseModel):
    """A problem document, RFC 9457."""

    type: str = Field(description="Names the kind of problem.", examples=["urn:medcode:problem:no_model"])
    title: str = Field(examples=["Service Unavailable"])
    status: int = Field(examples=[503])
    detail: str = Field(examples=["no bundle of recipe 'icd' is published yet; make one: medcode run"])
    instance: str = Field(description="This occurrence.", examples=["urn:medcode:request:5f0c"])
    request_id: str = Field(description="As in the header X-Request-ID and in the log.", examples=["5f0c"])
    errors: list[InvalidField] | None = Field(default=None, description="The wrong parts of the request, on 422.")


class ProblemError(Exception):
    """Ends a request with a problem document.

    Args:
        status: HTTP status.
        kind: Last part of the document's `type`.
        detail: One sentence for the client; never quotes the note.
        headers: Further headers of the response.
        retry_after: Seconds until the client may try again; the header is in whole seconds, at least 1.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI should say about these error statuses."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        responses[status] = {"description": HTTPStatus(status).phrase, "content": _CONTENT}
        if status in (429, 503):
            responses[status]["headers"] = _RETRY_AFTER
    return responses


def describe_problems(app: FastAPI) -> None:
    """Let OpenAPI describe problem documents; FastAPI's `model=` would promise application/json.

    Adds the schema that `problem_responses` refers to, and replaces what FastAPI says of every 422, which
    `install_handlers` answers with a problem document.
    """
    describe_routes = app.openapi

    def openapi() -> dict[str, Any]:
        description = describe_routes()
        schemas = description.setdefault("components", {}).setdefault("schemas", {})
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= problem.pop("$defs", {}) | {"Problem": problem}
        for path in description.get("paths", {}).values():
            for operation in path.values():
                if "422" in operation["responses"]:
                    operation["responses"] |= {"422": problem_responses(422)[422]}
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        return description

    app.openapi = openapi  # type: ignore[method-assign]


def problem_response(
    status: int,
    kind: str,
    detail: str,
    request_id: str,
    errors: list[InvalidField] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return the response for one problem."""
    problem = Problem(
        type=f"urn:medcode:problem:{kind}",
        title=HTTPStatus(status).phrase,
        status=status,
        # Half of a surrogate pair, as in a recipe's name that a detail repeats, could not be sent as UTF-8.
        detail=detail.encode(errors="replace").decode(),
        instance=f"urn:medcode:request:{request_id}",
        request_id=request_id,
        errors=errors,
    )
    content = problem.model_dump(exclude_none=True)
    return JSONResponse(content, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def install_handlers(app: FastAPI) -> None:
    """Let every error of a handler end in a problem document; `RequestLog` does so for unforeseen ones."""

    @app.exception_handler(ProblemError)
    async def on_problem(request: Request, error: ProblemError) -> JSONResponse:
        return problem_response(error.status, error.kind, error.detail, request.state.request_id, headers=error.headers)

    @app.exception_handler(DocumentError)
    async def on_document(request: Request, error: DocumentError) -> JSONResponse:
        status = DOCUMENT_STATUS.get(error.kind, 422)
        headers = None if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
        return problem_response(status, error.kind, str(error), request.state.request_id, headers=headers)

    @app.exception_handler(MedcodeError)
    async def on_medcode(request: Request, error: MedcodeError) -> JSONResponse:
        return problem_response(503, "engine", str(error), request.state.request_id)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        wrong = error.errors()
        kind, detail = explained(wrong) or ("invalid_request", "the request is not as described in /docs")
        if len(wrong) > MOST_ERRORS:
            detail += f"; {len(wrong) - MOST_ERRORS} more errors"
        names = _documented_names(request.app)
        errors = [_invalid_field(one, names) for one in wrong[:MOST_ERRORS]]
        return problem_response(422, kind, detail, request.state.request_id, errors)

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        status = HTTPStatus(error.status_code)
        if status == 400 and isinstance(error.__cause__, ValueError | RecursionError):
            # FastAPI's answer to a body that is no UTF-8, nested too deep, or has a number of thousands of digits.
            return problem_response(422, "invalid_json", NO_JSON, request.state.request_id)
        return problem_response(
            status.value,
            f"http_{status.value}",
            error.detail if isinstance(error, BodyTooLongError) else status.description or status.phrase,
            request.state.request_id,
            headers=error.headers,
        )


def explained(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Return the kind and the detail of a request's errors if one sentence says it all, else None."""
    if len(errors) != 1:
        return None
    (error,) = errors
    match error["type"]:
        case "json_invalid":
            return "invalid_json", NO_JSON
        case "empty" | "not_unicode" | "unsupported_parameter" as kind:  # types of our own
            return kind, error["msg"]
        case "unknown_field":
            return "invalid_request", error["msg"]
        case _:
            return None


def _invalid_field(wrong: Mapping[str, Any], names: frozenset[str]) -> InvalidField:
    """Return one of pydantic's errors without what was sent: another key of a body may be a piece of the note."""
    loc = [part if isinstance(part, int) or part in names else "(unknown)" for part in wrong["loc"]]
    # The only one of pydantic's messages that quotes a whole value.
    msg = "Input should have one of the expected tags" if wrong["type"] == "union_tag_invalid" else wrong["msg"]
    return InvalidField(loc=loc, msg=msg, type=wrong["type"])


def _documented_names(app: FastAPI) -> frozenset[str]:
    """Return the names that an error may repeat: those of all fields and parameters in /openapi.json."""
    if not hasattr(app.state, "documented_names"):
        app.state.documented_names = REQUEST_PARTS | set(_names(app.openapi()))
    names: frozenset[str] = app.state.documented_names
    return names


def _names(part: Any) -> Iterator[str]:
    """Yield the names of fields and parameters anywhere in a part of the description."""
    if isinstance(part, dict):
        if isinstance(part.get("properties"), dict):
            yield from part["properties"]
        if "in" in part and isinstance(part.get("name"), str):
            yield part["name"]
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _names(inner)
