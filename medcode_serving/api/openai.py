"""What clients of OpenAI's API need to ask medcode: /v1/chat/completions, /v1/completions and /v1/models.

The note or question is the last user message, or the prompt; the answer is what the model was trained to write:
`I10, E11.9`, or words.
"""

import json
import math
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from medcode_serving.answers import (
    LARGEST_SEED,
    MOST_TOKENS,
    PredictedCode,
    PredictionOptions,
    PredictionResponse,
    WritingOptions,
    WrittenResponse,
)
from medcode_serving.api.connection import while_connected
from medcode_serving.api.keys import require
from medcode_serving.api.openai_schemas import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    ChatRequest,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    ErrorResponse,
    FinishReason,
    ModelCard,
    ModelList,
    OpenAIError,
    OpenAIRequest,
    Token,
    Usage,
)
from medcode_serving.api.problems import MOST_ERRORS, ProblemError, explained
from medcode_serving.api.rate_limits import check_rate
from medcode_serving.api.service import Service, current_service
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.errors import MedcodeError
from medcode_serving.predictor import Predictor
from medcode_serving.prompts import SEPARATOR, PromptTemplate
from medcode_serving.reasoned import END_THINK, THINK, code_line

NEVER = -9999.0
"""Log probability of what has none, as OpenAI writes it: JSON has no infinity."""

KNOWN_FIELDS = frozenset(
    [
        "model",
        "messages",
        "role",
        "content",
        "type",
        "text",
        "prompt",
        "stream",
        "stream_options",
        "include_usage",
        "logprobs",
        "temperature",
        "max_tokens",
        "max_completion_tokens",
        "seed",
        "stop",
    ]
)
"""Names that an error may repeat; another one may be a piece of the note."""

ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class OpenAIRoute(APIRoute):
    """A route whose errors have OpenAI's form; none quotes what was sent."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route's handler, which also solves its dependencies."""
        handle = super().get_route_handler()

        async def handle_in_openai_s_form(request: Request) -> Response:
            try:
                return await handle(request)
            except ProblemError as error:
                return _error(error.status, error.kind, error.detail, error.headers)
            except RequestValidationError as error:
                kind, message = explained(error.errors()) or ("invalid_request", _what_is_wrong(error))
                return _error(400, kind, message)
            except HTTPException as error:
                return _error(error.status_code, f"http_{error.status_code}", "the request cannot be read")
            except MedcodeError as error:
                return _error(503, "engine", str(error))

        return handle_in_openai_s_form


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    status = 400 if status == 422 else status
    kind = ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    content = ErrorResponse(error=OpenAIError(message=message, type=kind, code=code))
    return JSONResponse(content.model_dump(), status, headers)


def _what_is_wrong(error: RequestValidationError) -> str:
    wrong = []
    for problem in error.errors()[:MOST_ERRORS]:
        place = ".".join(str(part) for part in problem["loc"] if isinstance(part, int) or part in KNOWN_FIELDS)
        wrong.append(f"{place or 'body'}: {problem['msg']}")
    return "; ".join(wrong)


router = APIRouter(
    prefix="/v1",
    tags=["openai"],
    dependencies=[Depends(require("predict")), Depends(check_rate)],
    route_class=OpenAIRoute,
    responses={
        "4XX": {"model": ErrorResponse, "description": "The request cannot be answered."},
        "5XX": {"model": ErrorResponse, "description": "The service cannot answer."},
    },
)


@dataclass(frozen=True)
class _Answer:
    """One note's codes, or an answer in words, as text, piece by piece."""

    response: PredictionResponse | WrittenResponse
    pieces: list[str]
    """Together what a completion says: a space or reasoning, a code, a separator, a code and so on."""
    logprobs: list[float] | None
    words: int
    """Of the note."""
    finish_reason: FinishReason = "stop"

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def usage(self) -> Usage:
        response = self.response
        said = len(response.codes) if isinstance(response, PredictionResponse) else response.tokens
        return Usage(prompt_tokens=self.words, completion_tokens=said, total_tokens=self.words + said)


_EVENTS = {"schema": {"type": "string"}, "example": "data: {...}\n\ndata: [DONE]\n\n"}
SSE: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": _EVENTS}}}


@router.post("/chat/completions", responses=SSE, response_model=ChatCompletion)
async def chat(
    body: ChatRequest, request: Request, service: Annotated[Service, Depends(current_service)]
) -> ChatCompletion | Response:
    """Predict the codes of the last user message, or answer it in words. No other messages are read."""
    answer = await _answer(body, body.text, request, service)
    begin = int(answer.pieces[:1] == [" "])  # without the space in front
    pieces, logprobs = answer.pieces[begin:], answer.logprobs and answer.logprobs[begin:]
    tokens = [
        Token(token=piece, logprob=logprob, bytes=list(piece.encode()))
        for piece, logprob in zip(pieces, logprobs or (), strict=False)
    ]
    choice = ChatChoice(
        message=AssistantMessage(content="".join(pieces)),
        logprobs=ChatLogprobs(content=tokens) if body.logprobs and logprobs is not None else None,
        finish_reason=answer.finish_reason,
    )
    whole = ChatCompletion(**_common("chatcmpl", body, request, answer), choices=[choice])
    if not body.stream:
        return whole
    said = choice.model_dump(exclude={"message"}) | {"finish_reason": None}
    return _events(
        body,
        whole,
        [
            said | {"logprobs": None, "delta": {"role": "assistant", "content": ""}},
            said | {"delta": {"content": choice.message.content}},
            said | {"logprobs": None, "delta": {}, "finish_reason": answer.finish_reason},
        ],
    )


@router.post("/completions", responses=SSE, response_model=Completion)
async def complete(
    body: CompletionRequest, request: Request, service: Annotated[Service, Depends(current_service)]
) -> Completion | Response:
    """Answer a prompt: a note or question, alone or with the words that training put around it."""
    answer = await _answer(body, body.text, request, service)
    logprobs = None
    if body.logprobs is not None and answer.logprobs is not None:
        offsets = [sum(map(len, answer.pieces[:place])) for place in range(len(answer.pieces))]
        logprobs = CompletionLogprobs(tokens=answer.pieces, token_logprobs=answer.logprobs, text_offset=offsets)
    choice = CompletionChoice(text=answer.text, logprobs=logprobs, finish_reason=answer.finish_reason)
    whole = Completion(**_common("cmpl", body, request, answer), choices=[choice])
    return _events(body, whole, [choice.model_dump()]) if body.stream else whole


@router.get("/models")
async def models(service: Annotated[Service, Depends(current_service)]) -> ModelList:
    """List the recipes that have a model loaded."""
    cards = []
    for recipe in service.settings.model.recipes:
        try:
            cards.append(_card(recipe, service.predictor(recipe)))
        except ProblemError:
            continue  # it is served, but its model is not there yet
    return ModelList(data=cards)


@router.get("/models/{model}")
async def model_card(model: str, service: Annotated[Service, Depends(current_service)]) -> ModelCard:
    """Tell of one model."""
    return _card(model, _predictor(service, model))


def _card(model: str, predictor: Predictor) -> ModelCard:
    return ModelCard(id=model, created=int(predictor.manifest.created_at.timestamp()))


def _predictor(service: Service, model: str) -> Predictor:
    """Return what answers for a model's name; raises ProblemError 404 if none does, 503 if it is not loaded."""
    recipe = model.partition("@")[0]
    served = ", ".join(service.settings.model.recipes)
    unknown = ProblemError(404, "model_not_found", f"that model is not served here; there are {served}")
    try:
        predictor = service.predictor(recipe)
    except ProblemError as error:
        raise unknown if error.status == 404 else error from None
    if model not in (recipe, f"{recipe}@{predictor.identity.version}"):
        raise unknown
    return predictor


async def _answer(body: OpenAIRequest, read: Callable[[], str], request: Request, service: Service) -> _Answer:
    predictor = _predictor(service, body.model)
    note = unframed(read(), predictor.manifest.prompt)
    if predictor.answers == "words":
        return await _write(body, note, predictor, request, service)
    options = PredictionOptions(recipe=predictor.identity.recipe)
    response = await while_connected(request, service.predict(request, note, options))
    prompt = predictor.manifest.prompt
    pieces = _listed(response, predictor.vocabulary) if prompt.answer == "codes" else _lines(response)
    return _Answer(response, pieces, _logprobs(response.codes), words=len(note.split()))


async def _write(
    body: OpenAIRequest, question: str, predictor: Predictor, request: Request, service: Service
) -> _Answer:
    options = WritingOptions(
        recipe=predictor.identity.recipe,
        temperature=body.temperature,
        max_length=None if body.most_tokens is None else min(body.most_tokens, MOST_TOKENS),
        seed=None if body.seed is None else body.seed % (LARGEST_SEED + 1),
    )
    response = await while_connected(request, service.generate(request, question, options))
    text = before_stops(response.response, body.stops)
    cut = response.cut and text == response.response
    return _Answer(response, [text], None, len(question.split()), "length" if cut else "stop")


def before_stops(text: str, stops: Iterable[str]) -> str:
    """Return a text up to the first of the stops in it."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=None)]


def unframed(text: str, prompt: PromptTemplate) -> str:
    """Return the note of a text that is exactly a prompt; another text as it is."""
    before, _, after = prompt.instruction.partition("{note}")
    after += prompt.answer_header
    framed = len(text) >= len(before) + len(after) and text.startswith(before) and text.endswith(after)
    return text[len(before) : len(text) - len(after)] if framed else text


def _listed(response: PredictionResponse, vocabulary: Vocabulary) -> list[str]:
    pieces: list[str] = []
    for code in response.codes:
        pieces += [SEPARATOR if pieces else " ", _written(code, vocabulary)]
    return pieces


def _lines(response: PredictionResponse) -> list[str]:
    """Return an answer whose codes are lines, behind the reasoning in its tags: clients show it apart."""
    reasoning = f"{THINK}\n{response.reasoning}\n{END_THINK}\n" if response.reasoning else ""
    pieces = [reasoning] if reasoning and not response.codes else []
    for code in response.codes:
        pieces += ["\n" if pieces else reasoning, code_line(code.system, code.code, code.description)]
    return pieces


def _written(code: PredictedCode, vocabulary: Vocabulary) -> str:
    """Return a code as completions write it: with its system where two systems share it."""
    with_system = f"{code.system}:{code.code}"
    return with_system if with_system in vocabulary.index_of else code.code


def _logprobs(codes: Iterable[PredictedCode]) -> list[float] | None:
    """Return a log probability for each piece of the answer; None if the engine tells no probabilities."""
    logprobs: list[float] = []
    for code in codes:
        if code.probability is None:
            return None
        logprobs += [0.0, math.log(code.probability) if code.probability > 0 else NEVER]
    return logprobs


def _common(prefix: str, body: OpenAIRequest, request: Request, answer: _Answer) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{request.state.request_id}",
        "created": int(time.time()),
        "model": body.model,
        "usage": answer.usage,
        "medcode": answer.response,
    }


def _events(body: OpenAIRequest, whole: ChatCompletion | Completion, choices: list[dict[str, Any]]) -> Response:
    """Return an answer as server-sent events, a choice an event; the last one carries `medcode`."""
    described = whole.model_dump(mode="json")
    usage, medcode = described.pop("usage"), described.pop("medcode")
    if described["object"] == "chat.completion":
        described["object"] = "chat.completion.chunk"
    chunks = [described | {"choices": [choice]} for choice in choices]
    chunks[-1]["medcode"] = medcode
    if body.stream_options and body.stream_options.include_usage:
        chunks.append(described | {"choices": [], "usage": usage})
    lines = [json.dumps(chunk) for chunk in chunks] + ["[DONE]"]
    return Response("".join(f"data: {line}\n\n" for line in lines), media_type="text/event-stream")
