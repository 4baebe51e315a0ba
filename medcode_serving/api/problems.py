"""Errors as RFC 9457 problem documents, none of which quotes what was sent."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from medcode_serving.documents import DocumentError
from medcode_serving.errors import MedcodeError

MEDIA_TYPE = "application/problem+json"

DOCUMENT_STATUS = {"too_big": 413, "not_a_pdf": 415, "timeout": 504}
"""Status by kind of a document error; every other kind is 422."""

KNOWN_FIELDS = {"body", "query", "path", "header", "text", "file", "threshold", "top_k"}
"""Names that may be repeated in an error; another key of the body may be a piece of the note."""


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
    """Ends a request with a problem document."""

    def __init__(self, status: int, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI should say about these error statuses."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def describe_problems(app: FastAPI) -> None:
    """Add the schema that `problem_responses` refers to; FastAPI's `model=` would promise application/json."""
    describe_routes = app.openapi

    def openapi() -> dict[str, Any]:
        description = describe_routes()
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = description.setdefault("components", {}).setdefault("schemas", {})
        schemas |= problem.pop("$defs", {}) | {"Problem": problem}
        return description

    app.openapi = openapi  # type: ignore[method-assign]


def problem_response(
    status: int, kind: str, detail: str, request_id: str, errors: list[InvalidField] | None = None
) -> JSONResponse:
    """Return the response for one problem."""
    problem = Problem(
        type=f"urn:medcode:problem:{kind}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=f"urn:medcode:request:{request_id}",
        request_id=request_id,
        errors=errors,
    )
    return JSONResponse(problem.model_dump(exclude_none=True), status_code=status, media_type=MEDIA_TYPE)


def install_handlers(app: FastAPI) -> None:
    """Let every error of a handler end in a problem document; `RequestLog` does so for unforeseen ones."""

    @app.exception_handler(ProblemError)
    async def on_problem(request: Request, error: ProblemError) -> JSONResponse:
        return problem_response(error.status, error.kind, error.detail, request.state.request_id)

    @app.exception_handler(DocumentError)
    async def on_document(request: Request, error: DocumentError) -> JSONResponse:
        status = DOCUMENT_STATUS.get(error.kind, 422)
        return problem_response(status, error.kind, str(error), request.state.request_id)

    @app.exception_handler(MedcodeError)
    async def on_medcode(request: Request, error: MedcodeError) -> JSONResponse:
        return problem_response(503, "engine", str(error), request.state.request_id)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        errors = [
            InvalidField(
                loc=[part if isinstance(part, int) or part in KNOWN_FIELDS else "(unknown)" for part in wrong["loc"]],
                msg=wrong["msg"],
                type=wrong["type"],
            )
            for wrong in error.errors()
        ]
        return problem_response(
            422, "invalid_request", "the request is not as described in /docs", request.state.request_id, errors
        )

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        status = HTTPStatus(error.status_code)
        response = problem_response(
            status.value, f"http_{status.value}", status.description or status.phrase, request.state.request_id
        )
        response.headers.update(error.headers or {})
        return response
