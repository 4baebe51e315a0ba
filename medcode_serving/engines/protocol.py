"""What every engine answers: scored codes, however it got them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from medcode_serving.calibration import Calibration

DEPTH = 200
"""Codes of one answer at most. Ten times what an admission has: a whole vocabulary for each of MIMIC-IV's 19,802 test
documents would be 160 million rows."""

LongNotes = Literal["shorten", "windows", "refuse"]
"""What becomes of a note that is longer than the model reads at once: its least telling sections are left out, it is
read in windows one after the other, or it is not answered."""

Outcome = Literal["complete", "ended", "too_long"]


def never() -> bool:
    """Return False: nobody ends this note early."""
    return False


@dataclass(frozen=True)
class Writing:
    """How an answer in words is to be written."""

    max_tokens: int | None = None
    """Tokens at most; None: the engine's own limit, which no request can exceed."""
    temperature: float = 0.0
    """0: always the likeliest token; above, tokens are drawn from probabilities that it flattens."""
    seed: int | None = None
    """Of the draws; None: another one each time."""
    length_penalty: float = 0.0
    """Added to the end's logit for each token written: the longer an answer, the likelier it ends. In nats a token."""
    max_sentences: int | None = None
    """The answer ends with this sentence."""


@dataclass(frozen=True)
class NoteOptions:
    """How one note is to be answered."""

    max_codes: int | None = None
    """Codes that the engine writes at most; None: its own limit, which no request can exceed."""
    constrained: bool = True
    """False: a language model writes freely and its text is parsed."""
    long_notes: LongNotes = "shorten"
    writing: Writing = Writing()
    """Of engines that answer in words."""
    ended: Callable[[], bool] = never
    """Is asked between steps, from the engine's thread; from True on, the note is given up (client gone, deadline)."""


DEFAULT_OPTIONS = NoteOptions()


@dataclass(frozen=True)
class ScoredCode:
    """One code and the engine's probability for it."""

    system: str
    code: str
    description: str | None
    probability: float | None
    """In [0, 1]; None where a remote engine tells none."""
    confidence: float | None = None
    """The engine's own probability, where `probability` has been calibrated since."""
    support: float | None = None
    """In [0, 1]: see `medcode_serving.decoding`; None where an engine has none."""


@dataclass(frozen=True)
class WrittenAnswer:
    """An answer in words."""

    text: str
    """Without what the model thinks before, in tags."""
    tokens: int
    """That it took, thoughts among them, without the end."""
    confidence: float | None
    """Geometric mean of its tokens' probabilities, the end's included, in [0, 1]; None where a server tells none."""
    cut: bool = False
    """It reached the limit of tokens before its end."""


@dataclass(frozen=True)
class Prediction:
    """The codes of one note, in the engine's order, each once; no threshold applied yet."""

    codes: tuple[ScoredCode, ...]
    truncated: bool = False
    """The note was too long and was shortened; its least telling sections were not read."""
    dropped: int = 0
    """Fragments of the answer that were no code of the vocabulary."""
    sections_cut: tuple[str, ...] = ()
    """Of a shortened note: the sections of which something was left out."""
    windows: int = 1
    """Pieces in which the note was read."""
    reasoning: str | None = None
    """What the model wrote before the codes, a point a line; of several windows, that of the surest code."""
    written: WrittenAnswer | None = None
    """What an engine answers that writes words; it has no codes."""
    outcome: Outcome = "complete"
    """ended: given up because its options said so; too_long: not answered, for `long_notes` is `refuse`. Both without
    codes."""


class Engine(Protocol):
    """Anything that turns notes into scored codes."""

    name: str

    def predict(
        self,
        notes: Sequence[str],
        *,
        options: Sequence[NoteOptions] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Prediction]:
        """Return one prediction a note, in order.

        Args:
            notes: Raw text.
            options: One a note; None: the defaults for all.
            on_progress: Is told how many more notes are done.

        Raises:
            MedcodeError: the engine cannot answer (a server is away, say).
        """
        ...

    def close(self) -> None:
        """Give up what the engine holds in memory; it answers no more."""
        ...


def calibrate(prediction: Prediction, calibration: Calibration) -> Prediction:
    """Return a prediction whose probabilities are calibrated, the told ones kept as confidences.

    Codes without a probability stay without.
    """
    told = [code.probability for code in prediction.codes if code.probability is not None]
    values = iter(calibration.apply(told).tolist())
    codes = (
        code if code.probability is None else replace(code, probability=next(values), confidence=code.probability)
        for code in prediction.codes
    )
    return replace(prediction, codes=tuple(codes))


def above_threshold(prediction: Prediction, threshold: float, top_k: int | None = None) -> tuple[ScoredCode, ...]:
    """Return the codes at or above a probability, most probable first, at most `top_k`.

    A code without a probability stays and goes last: its engine already decided for it.
    """
    kept = [code for code in prediction.codes if code.probability is None or code.probability >= threshold]
    kept.sort(key=lambda code: -1.0 if code.probability is None else code.probability, reverse=True)
    return tuple(kept[:top_k])
