"""The linear baseline: what a fine-tuned language model must beat, and what serving falls back to."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from medcode_assets.writing import refusing_unwritable
from medcode_serving.errors import MedcodeError

Chunks = Callable[[], Iterator[tuple[Sequence[str], Sequence[Sequence[tuple[str, str]]]]]]
"""Gives, each time it is called, the training notes from the first on: some notes, and the (system, code) of each."""

OnProgress = Callable[[str, float], None]
"""Is told what was done and the share of the work that is done."""


@dataclass(frozen=True)
class CandidateCode:
    """A code that the model may name."""

    system: str
    code: str
    """With its system's dots."""
    description: str | None
    frequency: int
    """Training notes with the code; 0: none, it is reached by its description only."""


@dataclass(frozen=True)
class LinearSettings:
    """Sizes of the linear model. The defaults serve from hundreds of notes to MIMIC."""

    dimensions: int = 2048
    """Of the random projection that the ridge regression works in."""
    penalty: float = 0.1
    """Of the ridge regression; a note's squared length is 1."""
    phrases_per_code: int = 300
    notes_per_code: int = 128
    """Notes of a code that its phrases are looked for in, at most."""
    sampled_notes: int = 16_000
    """Notes that phrases are collected from, at most."""
    folds: int = 5
    """Of notes that are too few to hold some out for good."""
    folded_notes: int = 2_000
    """From so many on, a tenth is held out for the logistic regression."""
    stacking_notes: int = 5_000
    """Notes that are held out for good, at most."""


def fit_linear(
    chunks: Chunks,
    codes: Sequence[CandidateCode],
    folder: Path,
    settings: LinearSettings | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> None:
    """Fit the linear model and write it for `LinearEngine.load`.

    The same notes in the same order and the same codes give the same files, bit for bit, on the same machine. Notes are
    read once and never held all at once.

    Args:
        chunks: The training notes.
        codes: Every code that may be named; gold codes that are not among them are not learned.
        folder: Where model.json, weights.safetensors and codes.parquet go; is made where it is missing.
        settings: Sizes; None takes the defaults.
        on_progress: Is told how far it is.

    Raises:
        MedcodeError: there are fewer than two notes, no code is trained, or the folder cannot be written.
        ValueError: a code is there twice.
    """
    from medcode_assets.baselines.corpus import spooled_corpus
    from medcode_assets.baselines.scorers import title_index
    from medcode_assets.baselines.stacking import fit_stack
    from medcode_serving.linear.files import save_model
    from medcode_serving.linear.model import LinearCode, LinearModel

    settings = settings or LinearSettings()
    tell = on_progress or (lambda stage, share: None)
    ordered = sorted(codes, key=lambda code: (code.frequency == 0, code.system, code.code))
    if len({(code.system, code.code) for code in ordered}) < len(ordered):
        raise ValueError("a code is there twice")
    trained = [(code.system, code.code) for code in ordered if code.frequency]
    if not trained:
        raise MedcodeError("the linear baseline has no trained codes; lower data.min_frequency")
    with refusing_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with spooled_corpus(chunks, trained, folder) as corpus:
            if len(corpus) < 2:
                raise MedcodeError(f"the linear baseline needs 2 training notes or more, there are {len(corpus)}")
            tell("notes", 0.1)
            titles = title_index([code.description for code in ordered])
            scorers, weights, intercept = fit_stack(corpus, titles, len(trained), settings, tell)
            facts = {"settings": asdict(settings), "training_notes": len(corpus), "trained_codes": len(trained)}
        rows = tuple(LinearCode(code.system, code.code, code.description, code.frequency) for code in ordered)
        save_model(LinearModel(scorers, weights, intercept, rows), folder, facts)
    tell("model", 1.0)
