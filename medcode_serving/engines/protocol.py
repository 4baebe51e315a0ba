"""What every engine answers: scored codes, however it got them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from medcode_serving.calibration import Calibration

DEPTH = 200
"""Codes of one answer at most. Ten times what an admission has: a whole vocabulary for each of MIMIC-IV's 19,802 test
documents would be 160 million rows."""


@dataclass(frozen=True)
class ScoredCode:
    """One code and the engine's probability for it."""

    system: str
    code: str
    description: str | None
    probability: float | None
    """In [0, 1]; None where a remote engine tells none."""


@dataclass(frozen=True)
class Prediction:
    """The codes of one note, in the engine's order, each once; no threshold applied yet."""

    codes: tuple[ScoredCode, ...]
    truncated: bool = False
    """The note was too long and was shortened; its least telling sections were not read."""
    dropped: int = 0
    """Fragments of the answer that were no code of the vocabulary."""


class Engine(Protocol):
    """Anything that turns notes into scored codes."""

    name: str

    def predict(self, notes: Sequence[str], *, on_progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Return one prediction a note, in order; `on_progress` is told how many more notes are done.

        Raises:
            MedcodeError: the engine cannot answer (a server is away, say).
        """
        ...


def calibrate(prediction: Prediction, calibration: Calibration) -> Prediction:
    """Return a prediction whose probabilities are calibrated; codes without one stay without."""
    told = [code.probability for code in prediction.codes if code.probability is not None]
    values = iter(calibration.apply(told).tolist())
    codes = (code if code.probability is None else replace(code, probability=next(values)) for code in prediction.codes)
    return replace(prediction, codes=tuple(codes))


def above_threshold(prediction: Prediction, threshold: float, top_k: int | None = None) -> tuple[ScoredCode, ...]:
    """Return the codes at or above a probability, most probable first, at most `top_k`.

    A code without a probability stays and goes last: its engine already decided for it.
    """
    kept = [code for code in prediction.codes if code.probability is None or code.probability >= threshold]
    kept.sort(key=lambda code: -1.0 if code.probability is None else code.probability, reverse=True)
    return tuple(kept[:top_k])
