"""Engines without a language model, to compare with."""

from collections.abc import Callable, Sequence

from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.engines.protocol import DEPTH, NoteOptions, Prediction, ScoredCode


class FrequencyPriorEngine:
    """Answers every note alike: each code with the share of training documents that carry it, frequent ones first.

    Codes beyond the most frequent `DEPTH` are not named.
    """

    name = "frequency_prior"

    def __init__(self, vocabulary: Vocabulary, documents: int) -> None:
        """Count once.

        Args:
            vocabulary: Codes with their training frequency.
            documents: Number of training documents that the frequencies were counted on.

        Raises:
            ValueError: a code is in more documents than there are.
        """
        ranked = sorted(vocabulary.codes, key=lambda code: -code.frequency)
        if ranked and ranked[0].frequency > documents:
            raise ValueError(f"{ranked[0].code} is in {ranked[0].frequency} of {documents} documents")
        self._prediction = Prediction(
            tuple(
                ScoredCode(code.system, code.code, code.description, code.frequency / max(documents, 1))
                for code in ranked[:DEPTH]
            )
        )

    def predict(
        self,
        notes: Sequence[str],
        *,
        options: Sequence[NoteOptions] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Prediction]:
        """Return the same ranking for every note."""
        if on_progress:
            on_progress(len(notes))
        return [self._prediction] * len(notes)

    def close(self) -> None:
        """Nothing to give up."""
