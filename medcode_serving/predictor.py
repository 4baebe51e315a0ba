"""A bundle and an engine that answer: the same answers for the API and for the command line."""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, Field

from medcode_serving.bundle import Bundle, latest_bundle, open_bundle
from medcode_serving.engines.loading import load_engine
from medcode_serving.engines.protocol import Engine, Prediction, above_threshold, calibrate
from medcode_serving.errors import MedcodeError
from medcode_serving.settings import GenerationSettings, InferenceSettings


class PredictedCode(BaseModel):
    """One code of an answer."""

    system: str = Field(description="icd9cm, icd9pcs, icd10cm, icd10pcs, hcpcs or cpt.", examples=["icd10cm"])
    code: str = Field(description="With its system's dots.", examples=["E11.9"])
    description: str | None = Field(examples=["Type 2 diabetes mellitus without complications"])
    probability: float | None = Field(
        description="In [0, 1], calibrated on the validation split; null where a remote engine tells none.",
        examples=[0.93],
    )


class ModelIdentity(BaseModel):
    """Which bundle answered."""

    recipe: str = Field(examples=["icd"])
    version: str = Field(examples=["20261120-1"])
    base_model: str = Field(examples=["embedded"])


class PredictionResponse(BaseModel):
    """The codes of one note and how they came about."""

    codes: list[PredictedCode] = Field(description="Most probable first.")
    model: ModelIdentity
    engine: str = Field(
        description="What predicted: transformers, litellm, linear, untuned_base or frequency_prior.",
        examples=["transformers"],
    )
    threshold: float = Field(description="Codes below this probability were left out.", examples=[0.4])
    truncated: bool = Field(
        description="The note was too long and was shortened; its least telling sections were not read."
    )
    dropped: int = Field(description="Fragments of the answer that were no codes of the vocabulary.")
    processing_time_ms: float = Field(description="Time that the engine took for this note.", examples=[41.7])


class Predictor:
    """Answers with one bundle; safe for use by several threads, one of which predicts at a time."""

    def __init__(self, bundle: Bundle, engine: Engine, generation: GenerationSettings) -> None:
        """Take what `load_predictor` loaded; `generation` gives the threshold and `top_k` of requests without."""
        self.bundle = bundle
        self.engine = engine
        self.loaded_at = datetime.now(UTC)
        manifest = bundle.manifest
        decision = bundle.decision(engine.name)
        self.threshold = decision.threshold if generation.threshold is None else generation.threshold
        self._calibration = decision.calibration
        self._top_k = generation.top_k
        self._identity = ModelIdentity(
            recipe=manifest.recipe, version=manifest.version, base_model=manifest.base_model.id
        )
        self._one_at_a_time = threading.Lock()

    def predict(self, note: str, *, threshold: float | None = None, top_k: int | None = None) -> PredictionResponse:
        """Return the codes of one note. Raises as `predict_batch` does."""
        return self.predict_batch([note], threshold=threshold, top_k=top_k)[0]

    def predict_batch(
        self,
        notes: Sequence[str],
        *,
        threshold: float | None = None,
        top_k: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[PredictionResponse]:
        """Return the codes of each note, in order; a note's processing time is its share of the whole.

        Args:
            notes: Raw text.
            threshold: Least probability; None takes the settings', or else the bundle's.
            top_k: Most codes a note; None takes the settings'.
            on_progress: Is told how many more notes are done.

        Raises:
            MedcodeError: the engine cannot answer, or a note is no valid Unicode.
        """
        for number, note in enumerate(notes, start=1):
            if not is_unicode(note):
                raise MedcodeError(f"note {number} of {len(notes)} is no valid Unicode text; save it in UTF-8")
        least = self.threshold if threshold is None else threshold
        with self._one_at_a_time:
            start = time.perf_counter()
            predictions = self.engine.predict(notes, on_progress=on_progress)
            milliseconds = (time.perf_counter() - start) * 1000 / max(1, len(notes))
        return [self._response(prediction, least, top_k or self._top_k, milliseconds) for prediction in predictions]

    def _response(
        self, prediction: Prediction, threshold: float, top_k: int | None, milliseconds: float
    ) -> PredictionResponse:
        return PredictionResponse(
            codes=[
                PredictedCode(
                    system=code.system,
                    code=code.code,
                    description=code.description,
                    probability=code.probability,
                )
                for code in above_threshold(calibrate(prediction, self._calibration), threshold, top_k)
            ],
            model=self._identity,
            engine=self.engine.name,
            threshold=threshold,
            truncated=prediction.truncated,
            dropped=prediction.dropped,
            processing_time_ms=round(milliseconds, 3),
        )


def is_unicode(text: str) -> bool:
    """Tell whether a text has no lone surrogates, which no tokenizer takes (broken JSON or file encodings do)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def load_predictor(settings: InferenceSettings) -> Predictor:
    """Open and verify the bundle that the settings name, and load its engine.

    Raises:
        MedcodeError: no bundle is published, it was changed, or its engine cannot be loaded.
    """
    if settings.model.bundle is not None:
        bundle = open_bundle(settings.model.bundle)
    else:
        bundle = latest_bundle(settings.home / "bundles", settings.model.recipe)
    return Predictor(bundle, load_engine(bundle, settings, settings.home / "base_models"), settings.generation)
