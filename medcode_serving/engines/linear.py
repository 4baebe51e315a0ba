"""The linear baseline as an engine: milliseconds a note, without a language model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_serving.engines.protocol import DEPTH, NoteOptions, Prediction, ScoredCode

if TYPE_CHECKING:
    from medcode_serving.linear.model import LinearModel


class LinearEngine:
    """Answers with the candidates of a linear model, most probable first, at most `DEPTH` a note.

    It reads the whole note, whatever its length. Not safe for use by two threads at once.
    """

    name = "linear"

    def __init__(self, model: "LinearModel") -> None:
        from medcode_serving.linear.text import WordTable

        self.model = model
        self._words = WordTable()

    @classmethod
    def load(cls, folder: Path) -> "LinearEngine":
        """Read a model that `medcode_assets.baselines.fit_linear` wrote.

        Raises:
            MedcodeError: a file is missing or broken, or of another version.
        """
        from medcode_serving.linear.files import load_model

        return cls(load_model(folder))

    def predict(
        self,
        notes: Sequence[str],
        *,
        options: Sequence[NoteOptions] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Prediction]:
        """Return the scored candidates of each note; a note takes milliseconds, so no option changes anything."""
        predictions = []
        for note in notes:
            predictions.append(self._predict_one(note))
            if on_progress:
                on_progress(1)
        return predictions

    def close(self) -> None:
        """Nothing to give up but the model itself."""

    def _predict_one(self, note: str) -> Prediction:
        features = self._words.features(self._words.encode(note))
        codes, probabilities = self.model.probabilities(features)
        rows = [self.model.codes[code] for code in codes[:DEPTH].tolist()]
        return Prediction(
            tuple(
                ScoredCode(row.system, row.code, row.description, probability)
                for row, probability in zip(rows, probabilities.tolist(), strict=False)
            )
        )
