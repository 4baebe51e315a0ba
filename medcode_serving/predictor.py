"""A bundle and an engine that answer: the same answers for the API and for the command line."""

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from medcode_serving.answers import (
    LARGEST_SEED,
    Evidence,
    Fallback,
    ModelIdentity,
    PredictedCode,
    PredictionOptions,
    PredictionResponse,
    WritingOptions,
    WrittenResponse,
)
from medcode_serving.bundle import Bundle, BundleManifest
from medcode_serving.codes.dictionary import Dictionary
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.documents import page_of
from medcode_serving.engines.linear import LinearEngine
from medcode_serving.engines.protocol import (
    Engine,
    NoteOptions,
    Prediction,
    ScoredCode,
    Writing,
    WrittenAnswer,
    above_threshold,
    calibrate,
    never,
)
from medcode_serving.errors import MedcodeError
from medcode_serving.evidence.lexical import LexicalEvidence
from medcode_serving.evidence.occlusion import occlusion
from medcode_serving.evidence.spans import Span
from medcode_serving.note_lines import is_unicode
from medcode_serving.safety import SafetyReport
from medcode_serving.settings import GenerationSettings, WritingSettings

if TYPE_CHECKING:
    from medcode_serving.engines.transformers import TransformersEngine

DEFAULTS = PredictionOptions()


class Predictor:
    """Answers with one bundle; safe for use by several threads, one of which predicts at a time."""

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        generation: GenerationSettings,
        linear: LinearEngine | None = None,
        *,
        falls_back: bool = False,
        writing: WritingSettings | None = None,
    ) -> None:
        """Take what `load_predictor` loaded.

        Args:
            bundle: What answers.
            engine: The served engine.
            generation: What requests for codes leave open.
            linear: The bundle's linear model: it finds evidence.
            falls_back: Whether the linear model may answer where the engine cannot.
            writing: What requests for answers in words leave open; None: the settings' defaults.
        """
        self.bundle = bundle
        self.engine = engine
        self.fallback = linear if falls_back else None
        self._linear = linear
        self.loaded_at = datetime.now(UTC)
        self._generation = generation
        self._writing = writing or WritingSettings()
        self.threshold = self._threshold(engine)
        manifest = bundle.manifest
        self.identity = ModelIdentity(
            recipe=manifest.recipe, version=manifest.version, base_model=manifest.base_model.id
        )
        self._one_at_a_time = threading.Lock()

    @property
    def manifest(self) -> BundleManifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    @property
    def answers(self) -> Literal["codes", "words"]:
        """What it answers: codes to a note, or words to a question."""
        return "words" if self.manifest.answers_in_words else "codes"

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The codes of the training notes."""
        return Vocabulary.read(self.bundle.codes)

    @cached_property
    def dictionary(self) -> Dictionary:
        """Every code that the bundle knows; read when first asked for."""
        return Dictionary.read(self.bundle)

    @cached_property
    def lexical_evidence(self) -> LexicalEvidence:
        """What finds the words of the codes in a note; made when first asked for."""
        descriptions = {(code.system, code.code): code.description for code in self.dictionary.codes}
        return LexicalEvidence(None if self._linear is None else self._linear.model, descriptions)

    def close(self) -> None:
        """Give up what the engines hold in memory; nothing is answered any more."""
        self.engine.close()
        if self._linear is not None:
            self._linear.close()

    def predict(
        self, note: str, options: PredictionOptions = DEFAULTS, *, pages: Sequence[int] | None = None
    ) -> PredictionResponse:
        """Return the codes of one note, of a PDF with `pages` as in its document. Raises as `predict_batch` does."""
        return self._predict_batch([note], options, pages, None)[0]

    def predict_batch(
        self,
        notes: Sequence[str],
        options: PredictionOptions = DEFAULTS,
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[PredictionResponse]:
        """Return the codes of each note, in order; a note's processing time is its share of the whole.

        Args:
            notes: Raw text.
            options: For all of them.
            on_progress: Is told how many more notes are done.

        Raises:
            MedcodeError: the engine cannot answer, or answers in words, a note is no valid Unicode, or one is too long
                and the options refuse those.
        """
        return self._predict_batch(notes, options, None, on_progress)

    def _predict_batch(
        self,
        notes: Sequence[str],
        options: PredictionOptions,
        pages: Sequence[int] | None,
        on_progress: Callable[[int], None] | None,
    ) -> list[PredictionResponse]:
        if self.answers == "words":
            raise MedcodeError(
                f"recipe {self.identity.recipe} answers questions in words and has no codes; serve it (medcode serve "
                f"--recipe {self.identity.recipe}) and ask POST /generate"
            )
        for number, note in enumerate(notes, start=1):
            if not is_unicode(note):
                raise MedcodeError(f"note {number} of {len(notes)} is no valid Unicode text; save it in UTF-8")
        with self._one_at_a_time:
            start = time.perf_counter()
            predictions = self.engine.predict(
                notes, options=[self.note_options(options)] * len(notes), on_progress=on_progress
            )
            found = [self.select(prediction, options) for prediction in predictions]
            spans = [self.find_evidence(note, codes, options) for note, codes in zip(notes, found, strict=True)]
            milliseconds = (time.perf_counter() - start) * 1000 / max(1, len(notes))
        for number, prediction in enumerate(predictions, start=1):
            if prediction.outcome == "too_long":
                raise MedcodeError(
                    f"note {number} of {len(notes)} is longer than the model reads at once; allow long_notes "
                    "`shorten` or `windows`"
                )
        return [
            self.respond(note, prediction, codes, options, milliseconds, spans=evidence, pages=pages)
            for note, prediction, codes, evidence in zip(notes, predictions, found, spans, strict=True)
        ]

    def note_options(self, options: PredictionOptions) -> NoteOptions:
        """Return what the options of a request mean for the engine."""
        return NoteOptions(
            max_codes=options.max_codes,
            constrained=options.constrained,
            long_notes=options.long_notes,
        )

    def writing(self, options: WritingOptions) -> Writing:
        """Return how an answer in words is to be written; where it is drawn, a seed is among it."""
        given, left = options, self._writing
        temperature = left.temperature if given.temperature is None else given.temperature
        drawn = secrets.randbelow(LARGEST_SEED + 1) if given.seed is None else given.seed
        return Writing(
            max_tokens=min(filter(None, (given.max_length, left.max_tokens)), default=None),
            temperature=temperature,
            seed=drawn if temperature > 0 else None,
            length_penalty=left.length_penalty if given.length_penalty is None else given.length_penalty,
            max_sentences=left.max_sentences if given.max_sentences is None else given.max_sentences,
        )

    def select(
        self, prediction: Prediction, options: PredictionOptions, engine: Engine | None = None
    ) -> tuple[ScoredCode, ...]:
        """Return the calibrated codes at or above the threshold, most probable first.

        Args:
            prediction: What an engine answered.
            options: Threshold and `top_k` of the request, if it has any.
            engine: Which engine; None: the served one.
        """
        engine = engine or self.engine
        least = self._threshold(engine) if options.threshold is None else options.threshold
        calibrated = calibrate(prediction, self.bundle.decision(engine.name).calibration)
        return above_threshold(calibrated, least, options.top_k or self._generation.top_k)

    def find_evidence(
        self, note: str, codes: Sequence[ScoredCode], options: PredictionOptions, ended: Callable[[], bool] = never
    ) -> list[list[Span]] | None:
        """Return the spans of a note that support each code; None if none were asked for.

        `occlusion` asks the engine, and so belongs on the thread that predicts; it stops, with nothing found, when
        `ended` says so. `lexical` may run anywhere.

        Raises:
            MedcodeError: the engine cannot say how likely given codes are.
        """
        if options.evidence == "none":
            return None
        names = [(code.system, code.code) for code in codes]
        if options.evidence == "lexical":
            return self.lexical_evidence.find(note, names)
        return occlusion(self.occludable(), note, names, ended=ended)

    def occludable(self) -> "TransformersEngine":
        """Return the engine if it can tell how likely given codes are.

        Raises:
            MedcodeError: it cannot.
        """
        from medcode_serving.engines.transformers import TransformersEngine

        if not isinstance(self.engine, TransformersEngine):
            raise MedcodeError(
                f"evidence by occlusion needs engine transformers, and engine {self.engine.name!r} is served; ask for "
                "`lexical`"
            )
        if self.manifest.prompt.answer == "reasoned":
            raise MedcodeError(
                f"recipe {self.identity.recipe} has no evidence by occlusion: its codes follow from its reasoning, "
                "which another note would have otherwise; read the reasoning, or ask for `lexical`"
            )
        return self.engine

    def respond(
        self,
        note: str,
        prediction: Prediction,
        codes: Sequence[ScoredCode],
        options: PredictionOptions,
        milliseconds: float,
        *,
        spans: Sequence[Sequence[Span]] | None = None,
        pages: Sequence[int] | None = None,
        fallback: Fallback | None = None,
    ) -> PredictionResponse:
        """Return the answer to one note.

        Args:
            note: The submitted text.
            prediction: What the engine answered.
            codes: Those of its codes that `select` kept.
            options: Of the request.
            milliseconds: That it took.
            spans: Evidence of each code; None if none was asked for.
            pages: Where the pages of a PDF begin in the text.
            fallback: Why the fallback answered, if it did.
        """
        engine = self.engine if fallback is None or self.fallback is None else self.fallback
        evidence = [None] * len(codes) if spans is None else [_evidence(note, found, pages) for found in spans]
        return PredictionResponse(
            codes=[
                PredictedCode(
                    system=code.system,
                    code=code.code,
                    description=code.description,
                    probability=code.probability,
                    confidence=code.confidence,
                    support=code.support,
                    evidence=found,
                )
                for code, found in zip(codes, evidence, strict=True)
            ],
            model=self.identity,
            engine=engine.name,
            fallback=fallback,
            threshold=self._threshold(engine) if options.threshold is None else options.threshold,
            constrained=options.constrained,
            truncated=prediction.truncated,
            sections_cut=list(prediction.sections_cut),
            windows=prediction.windows,
            reasoning=prediction.reasoning,
            dropped=prediction.dropped,
            evidence_method=options.evidence,
            processing_time_ms=round(milliseconds, 3),
        )

    def respond_in_words(
        self,
        answer: WrittenAnswer,
        writing: Writing,
        milliseconds: float,
        *,
        truncated: bool,
        safety_report: SafetyReport | None,
    ) -> WrittenResponse:
        """Return the answer to one question.

        Args:
            answer: What the engine wrote.
            writing: How it was asked to.
            milliseconds: That it took.
            truncated: Whether a part of the question was not read.
            safety_report: Of question and answer; None if they were not checked.
        """
        return WrittenResponse(
            response=answer.text,
            safety_report=safety_report,
            inference_time_ms=round(milliseconds, 3),
            model=self.identity,
            engine=self.engine.name,
            confidence=answer.confidence,
            tokens=answer.tokens,
            cut=answer.cut,
            truncated=truncated,
            temperature=writing.temperature,
            seed=writing.seed,
        )

    def _threshold(self, engine: Engine) -> float:
        """Return the least probability of a code where a request names none; the settings' is for the served engine."""
        if self._generation.threshold is not None and engine is self.engine:
            return self._generation.threshold
        return self.bundle.decision(engine.name).threshold


def _evidence(note: str, spans: Sequence[Span], pages: Sequence[int] | None) -> list[Evidence]:
    return [
        Evidence(
            start=span.start,
            end=span.end,
            text=note[span.start : span.end],
            score=round(span.score, 4),
            page=None if pages is None else page_of(pages, span.start),
        )
        for span in spans
    ]
