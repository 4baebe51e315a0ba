"""What the routes share: the served models, the queue of notes, and how one note is answered."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import anyio
import anyio.to_thread
from fastapi import Request

from medcode_serving.answers import Fallback, PredictionOptions, PredictionResponse
from medcode_serving.api.audit import AuditLog
from medcode_serving.api.keys import KeyRing
from medcode_serving.api.metrics import Metrics
from medcode_serving.api.problems import ProblemError
from medcode_serving.api.rate_limits import RateLimits
from medcode_serving.engines.protocol import Prediction, ScoredCode
from medcode_serving.errors import EngineTimeoutError, MedcodeError
from medcode_serving.evidence.spans import Span
from medcode_serving.note_queue import EngineFailedError, NoteQueue, QueueClosedError, QueueFullError
from medcode_serving.predictor import Predictor, is_unicode
from medcode_serving.served_models import ServedModels
from medcode_serving.settings import InferenceSettings

RETRY_LOADING_S = 10.0
"""Retry-After of a request that came before a model was there."""


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
            ProblemError: 404 and 503 as `predictor`; 422 empty, not_unicode, too_long; 503 queue_full, engine,
                shutting_down; 504 timeout.
        """
        try:
            response = await self._predict(note, options, pages)
        except ProblemError as problem:
            self.audit.prediction(request, note, None, note_id=note_id, outcome=problem.kind)
            raise
        except asyncio.CancelledError:
            self.audit.prediction(request, note, None, note_id=note_id, outcome="cancelled")
            raise
        self.metrics.answered(response)
        self.audit.prediction(request, note, response, note_id=note_id)
        return response

    async def _predict(self, note: str, options: PredictionOptions, pages: Sequence[int] | None) -> PredictionResponse:
        self._refuse_unreadable(note)
        recipe = self.recipe(options.recipe)
        start = time.perf_counter()
        with self.models.lease(recipe) as predictor:
            if predictor is None:
                raise self._no_model(recipe)
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

    def _refuse_unreadable(self, note: str) -> None:
        if not note.strip():
            raise ProblemError(422, "empty", "the text is empty")
        if not is_unicode(note):
            raise ProblemError(422, "not_unicode", "the text holds half of a surrogate pair")
        most = self.settings.api.max_note_characters
        if len(note) > most:
            raise ProblemError(
                413, "note_too_big", f"the note has more than {most} characters (api.max_note_characters); split it"
            )

    async def _answer(self, predictor: Predictor, note: str, options: PredictionOptions) -> _Answer:
        """Ask the served engine; if it fails or is too slow, the linear model."""
        if options.evidence == "occlusion":
            try:
                predictor.occludable()
            except MedcodeError as error:
                raise ProblemError(422, "no_occlusion", str(error)) from None
        try:
            with anyio.fail_after(self.settings.api.timeout_s):
                return await self._ask_engine(predictor, note, options)
        except (TimeoutError, EngineTimeoutError):
            fallback = Fallback(engine=predictor.engine.name, reason="timeout")
            seconds = self.settings.api.timeout_s
            problem = ProblemError(504, "timeout", f"the note was not answered within {seconds:g} s (api.timeout_s)")
        except QueueFullError as error:
            self.metrics.rejected.labels("queue_full").inc()
            detail = "too many notes are waiting; try again later"
            raise ProblemError(503, "queue_full", detail, retry_after=error.retry_after) from None
        except QueueClosedError:
            raise ProblemError(503, "shutting_down", "the service is ending", retry_after=RETRY_LOADING_S) from None
        except EngineFailedError:
            fallback = Fallback(engine=predictor.engine.name, reason="failed")
            problem = ProblemError(
                503, "engine", "the engine failed; the log names the error under this request's time"
            )
        except MedcodeError as error:
            fallback = Fallback(engine=predictor.engine.name, reason="failed")
            problem = ProblemError(503, "engine", str(error))
        if predictor.fallback is None:
            if problem.status == 504:
                self.metrics.rejected.labels("timeout").inc()
            raise problem
        return await self._fall_back(predictor, note, options, fallback)

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


def current_service(request: Request) -> Service:
    """Dependency: the application's service."""
    service: Service = request.app.state.service
    return service
