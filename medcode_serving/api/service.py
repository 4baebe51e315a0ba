"""What the routes share: the loaded predictor, or why there is none."""

from dataclasses import dataclass

import anyio
import anyio.to_thread
from fastapi import Request

from medcode_serving.api.problems import ProblemError
from medcode_serving.predictor import PredictionResponse, Predictor
from medcode_serving.settings import InferenceSettings


@dataclass(frozen=True)
class Service:
    """The state of a running application."""

    settings: InferenceSettings
    predictor: Predictor | None
    reason: str | None
    """Why no predictor is loaded."""
    gpu_available: bool
    inference_thread: anyio.CapacityLimiter
    """Admits one prediction at a time; the others wait outside the thread pool."""

    def loaded(self) -> Predictor:
        """Return the predictor; raises ProblemError 503 if none is loaded."""
        if self.predictor is None:
            raise ProblemError(503, "no_model", self.reason or "no model is loaded")
        return self.predictor

    async def predict(self, note: str, threshold: float | None, top_k: int | None) -> PredictionResponse:
        """Predict off the event loop."""
        predictor = self.loaded()
        return await anyio.to_thread.run_sync(
            lambda: predictor.predict(note, threshold=threshold, top_k=top_k), limiter=self.inference_thread
        )


def current_service(request: Request) -> Service:
    """Dependency: the application's service."""
    service: Service = request.app.state.service
    return service
