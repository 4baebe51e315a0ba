"""What the routes share: the served models, the queue of notes, and how one note is answered."""

import asyncio
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import anyio
import anyio.to_thread
from fastapi import Request

from medcode_serving.answers import (
    Fallback,
    PredictionOptions,
    PredictionResponse,
    WritingOptions,
    WrittenResponse,
)
from medcode_serving.api.audit import AuditLog
from medcode_serving.api.keys import KeyRing
from medcode_serving.api.metrics import Metrics
from medcode_serving.api.problems import ProblemError
from medcode_serving.api.rate_limits import RateLimits
from medcode_serving.engines.protocol import NoteOptions, Prediction, ScoredCode
from medcode_serving.errors import EngineTimeoutError, MedcodeError, OptionError
from medcode_serving.evidence.spans import Span
from medcode_serving.note_lines import is_unicode
from medcode_serving.note_queue import EngineFailedError, NoteQueue, QueueClosedError, QueueFullError
from medcode_serving.predictor import Predictor
from medcode_serving.safety import SafetyReport, check_safety, load_rules
from medcode_serving.served_models import ServedModels
from medcode_serving.settings import InferenceSettings

RETRY_LOADING_S = 10.0
"""Retry-After of a request that came before a model was there."""

Response = TypeVar("Response", PredictionResponse, WrittenResponse)


class _EngineError(ProblemError):
    """The engine failed or was too slow: another one may answer."""

    def __init__(self, reason: Literal["timeout", "failed"], status: int, kind: str, detail: str) -> None:
        super().__init__(status, kind, detail)
        self.reason = reason


@dataclass(frozen=True)
class _Answer:
    prediction: Prediction
    codes: tuple[ScoredCode, ...]
    spans: list[list[Span]] | None
    options: PredictionOptions
    """As they could be met: the fallback has no occlusion."""
    fallback: Fallback | None = None


class Service:
    """The state of a running application."""

    def __init__(
        self,
        settings: InferenceSettings,
        models: ServedModels,
        queue: NoteQueue,
        *,
        metrics: Metrics,
        keys: KeyRing,
        rate_limits: RateLimits,
        audit: AuditLog,
        gpu_available: bool,
    ) -> None:
        self.settings = settings
        self.models = models
        self.queue = queue
        self.metrics = metrics
        self.keys = keys
        self.rate_limits = rate_limits
        self.audit = audit
        self.gpu_available = gpu_available
        # The linear model keeps a table of words that two threads must not share.
        self._fallback_thread = anyio.CapacityLimiter(1)

    def recipe(self, recipe: str | None) -> str:
        """Return the recipe that a request means; raises ProblemError 404 if it is not served."""
        if recipe is None:
            return self.settings.model.recipes[0]
        if recipe not in self.models.by_recipe:
            served = ", ".join(self.models.by_recipe)
            raise ProblemError(404, "unknown_recipe", f"that recipe is not served here; there are {served}")
        return recipe

    def predictor(self, recipe: str | None) -> Predictor:
        """Return what answers for a recipe; raises ProblemError 404 for an unknown one, 503 if no model is loaded."""
        predictor = self.models.by_recipe[self.recipe(recipe)].predictor
        if predictor is None:
            raise self._no_model(recipe)
        return predictor

    def coder(self, recipe: str | None) -> Predictor:
        """Return what predicts codes; raises ProblemError as `predictor`, and 422 if the recipe answers in words."""
        return _answering("codes", self.predictor(recipe))

    def writing_recipe(self, recipe: str | None) -> str:
        """Return the recipe that a question is for: the named one, or the first that answers in words.

        Raises:
            ProblemError: 404 the named one is not served, or none answers in words; 503 the one may not be loaded yet.
        """
        if recipe is not None:
            return self.recipe(recipe)
        predictors = {name: model.predictor for name, model in self.models.by_recipe.items()}
        for name, predictor in predictors.items():
            if predictor is not None and predictor.answers == "words":
                return name
        for name, predictor in predictors.items():
            if predictor is None:  # only its bundle tells what it answers
                raise self._no_model(name)
        served = ", ".join(predictors)
        raise ProblemError(404, "no_words", f"none of the recipes served here answers in words; there are {served}")

    def _no_model(self, recipe: str | None) -> ProblemError:
        attempt = self.models.by_recipe[self.recipe(recipe)].last_attempt
        reason = attempt.reason if attempt and attempt.reason else "no model is loaded yet"
        return ProblemError(503, "no_model", self.without_home(reason), retry_after=RETRY_LOADING_S)

    def without_home(self, text: str) -> str:
        """Return a message for strangers: where on the server bundles lie is not their business."""
        return text.replace(str(self.settings.home), "$MEDCODE_HOME")

    async def predict(
        self,
        request: Request,
        note: str,
        options: PredictionOptions,
        *,
        note_id: str | None = None,
        pages: Sequence[int] | None = None,
    ) -> PredictionResponse:
        """Queue a note and return its answer. If the awaiting task is cancelled, the model stops working on it.

        Args:
            request: For the audit log: its id, key and route.
            note: The text.
            options: Of the request.
            note_id: The client's name for the note, in a batch.
            pages: Where the pages of a PDF begin in the text.

        Raises:
            ProblemError: 404 and 503 as `predictor`; 413 note_too_big; 422 empty, not_unicode, too_long,
                answers_in_words; 503 queue_full, engine, shutting_down; 504 timeout.
        """
        response = await self._audited(request, note, self._predict(note, options, pages), note_id=note_id)
        self.metrics.answered(response)
        return response

    async def generate(self, request: Request, question: str, options: WritingOptions) -> WrittenResponse:
        """Queue a question and return its answer in words; cancelled as `predict`.

        Raises:
            ProblemError: as `predict`, but 413 question_too_big, 422 answers_with_codes, and 404 no_words.
        """
        response = await self._audited(request, question, self._generate(question, options))
        self.metrics.written(response)
        return response

    async def _audited(
        self, request: Request, text: str, work: Awaitable[Response], *, note_id: str | None = None
    ) -> Response:
        try:
            response = await work
        except ProblemError as problem:
            self.audit.prediction(request, text, None, note_id=note_id, outcome=problem.kind)
            raise
        except asyncio.CancelledError:
            self.audit.prediction(request, text, None, note_id=note_id, outcome="cancelled")
            raise
        self.audit.prediction(request, text, response, note_id=note_id)
        return response

    async def _generate(self, question: str, options: WritingOptions) -> WrittenResponse:
        most = self.settings.writing.max_question_characters
        if len(question) > most:
            detail = f"the question has more than {most} characters (writing.max_question_characters); shorten it"
            raise ProblemError(413, "question_too_big", detail)
        _refuse_unreadable(question)
        recipe = self.writing_recipe(options.recipe)
        start = time.perf_counter()
        with self._leased(recipe, "words") as predictor:
            writing = predictor.writing(options)
            note_options = NoteOptions(long_notes=options.long_questions, writing=writing)
            with self._engine_in_time():
                prediction = await self.queue.answer(predictor.engine, question, note_options)
            if prediction.outcome == "too_long":
                raise ProblemError(
                    422, "too_long", "the question is longer than the model reads; shorten it, or allow `shorten`"
                )
            written = prediction.written
            if written is None:
                raise ProblemError(503, "engine", f"engine {predictor.engine.name} gave no answer in words")
            safety_report = None
            if self.settings.writing.use_safety if options.use_safety is None else options.use_safety:
                safety_report = await anyio.to_thread.run_sync(self._checked, question, written.text)
            milliseconds = (time.perf_counter() - start) * 1000
            return predictor.respond_in_words(
                written, writing, milliseconds, truncated=prediction.truncated, safety_report=safety_report
            )

    def _checked(self, question: str, answer: str) -> SafetyReport:
        rules = load_rules(self.settings.writing.safety_rules)  # read once
        return check_safety(answer, question=question, rules=rules)

    @contextmanager
    def _leased(self, recipe: str, answers: Literal["codes", "words"]) -> Iterator[Predictor]:
        """Give a recipe's predictor; raises ProblemError 503 if none is loaded, 422 if it answers otherwise."""
        with self.models.lease(recipe) as predictor:
            if predictor is None:
                raise self._no_model(recipe)
            yield _answering(answers, predictor)

    async def _predict(self, note: str, options: PredictionOptions, pages: Sequence[int] | None) -> PredictionResponse:
        most = self.settings.api.max_note_characters
        if len(note) > most:
            raise ProblemError(
                413, "note_too_big", f"the note has more than {most} characters (api.max_note_characters); split it"
            )
        _refuse_unreadable(note)
        start = time.perf_counter()
        with self._leased(self.recipe(options.recipe), "codes") as predictor:
            answer = await self._answer(predictor, note, options)
            if answer.prediction.outcome == "too_long":
                raise ProblemError(
                    422, "too_long", "the note is longer than the model reads at once; allow `shorten` or `windows`"
                )
            return predictor.respond(
                note,
                answer.prediction,
                answer.codes,
                answer.options,
                (time.perf_counter() - start) * 1000,
                spans=answer.spans,
                pages=pages,
                fallback=answer.fallback,
            )

    async def _answer(self, predictor: Predictor, note: str, options: PredictionOptions) -> _Answer:
        """Ask the served engine; if it fails or is too slow, the linear model."""
        if options.evidence == "occlusion":
            try:
                predictor.occludable()
            except MedcodeError as error:
                raise ProblemError(422, "no_occlusion", str(error)) from None
        try:
            with self._engine_in_time(falls_back=predictor.fallback is not None):
                return await self._ask_engine(predictor, note, options)
        except _EngineError as error:
            if predictor.fallback is None:
                raise
            fallback = Fallback(engine=predictor.engine.name, reason=error.reason)
        return await self._fall_back(predictor, note, options, fallback)

    @contextmanager
    def _engine_in_time(self, *, falls_back: bool = False) -> Iterator[None]:
        """Give the engine until the deadline; whatever goes wrong with it or with the queue is a ProblemError.

        `falls_back` says that another engine will answer in its place.
        """
        seconds = self.settings.api.timeout_s
        try:
            with anyio.fail_after(seconds):
                yield
        except (TimeoutError, EngineTimeoutError):
            if not falls_back:
                self.metrics.rejected.labels("timeout").inc()
            detail = f"there was no answer within {seconds:g} s (api.timeout_s)"
            raise _EngineError("timeout", 504, "timeout", detail) from None
        except QueueFullError as error:
            self.metrics.rejected.labels("queue_full").inc()
            detail = "too many notes are waiting; try again later"
            raise ProblemError(503, "queue_full", detail, retry_after=error.retry_after) from None
        except QueueClosedError:
            raise ProblemError(503, "shutting_down", "the service is ending", retry_after=RETRY_LOADING_S) from None
        except EngineFailedError:
            detail = "the engine failed; the log names the error under this request's time"
            raise _EngineError("failed", 503, "engine", detail) from None
        except OptionError as error:
            raise ProblemError(422, "unsupported_option", str(error)) from None
        except MedcodeError as error:
            raise _EngineError("failed", 503, "engine", str(error)) from None

    async def _ask_engine(self, predictor: Predictor, note: str, options: PredictionOptions) -> _Answer:
        prediction = await self.queue.answer(predictor.engine, note, predictor.note_options(options))
        codes = predictor.select(prediction, options)
        if options.evidence == "none":
            spans = None
        elif options.evidence == "occlusion":
            spans = await self.queue.run(lambda ended: predictor.find_evidence(note, codes, options, ended))
        else:
            spans = await anyio.to_thread.run_sync(predictor.find_evidence, note, codes, options)
        return _Answer(prediction, codes, spans, options)

    async def _fall_back(
        self, predictor: Predictor, note: str, options: PredictionOptions, fallback: Fallback
    ) -> _Answer:
        engine = predictor.fallback
        assert engine is not None
        (prediction,) = await anyio.to_thread.run_sync(engine.predict, [note], limiter=self._fallback_thread)
        if options.evidence == "occlusion":
            options = options.model_copy(update={"evidence": "lexical"})
        codes = predictor.select(prediction, options, engine)
        spans = await anyio.to_thread.run_sync(predictor.find_evidence, note, codes, options)
        return _Answer(prediction, codes, spans, options, fallback)


def _refuse_unreadable(text: str) -> None:
    if not text.strip():
        raise ProblemError(422, "empty", "the text is empty")
    if not is_unicode(text):
        raise ProblemError(422, "not_unicode", "the text holds half of a surrogate pair")


def _answering(wanted: Literal["codes", "words"], predictor: Predictor) -> Predictor:
    """Return a predictor that answers as wanted; raises ProblemError 422 for any other."""
    if predictor.answers == wanted:
        return predictor
    recipe = predictor.identity.recipe
    if wanted == "codes":
        raise ProblemError(
            422, "answers_in_words", f"recipe {recipe} answers in words and has no codes; ask POST /generate"
        )
    raise ProblemError(422, "answers_with_codes", f"recipe {recipe} answers with codes; ask POST /predict")


def current_service(request: Request) -> Service:
    """Dependency: the application's service."""
    service: Service = request.app.state.service
    return service
