"""Which column of a score matrix stands for which code."""

from collections.abc import Iterable
from functools import cached_property

from medcode_serving.codes.vocabulary import Vocabulary

Code = tuple[str, str]
"""(system, code), the code with its system's dots."""


class CodeColumns:
    """The codes known: those of the vocabulary in its order, then others in sorted order.

    Others are gold codes that training never saw, which closed metrics must ask for, and predicted ones
    outside the vocabulary, which open metrics must count as wrong.
    """

    def __init__(self, codes: Iterable[Code]) -> None:
        self.codes = tuple(codes)

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> "CodeColumns":
        """Return the columns of a vocabulary; a column's number is the code's row in codes.parquet."""
        return cls((code.system, code.code) for code in vocabulary.codes)

    @cached_property
    def index_of(self) -> dict[Code, int]:
        """Column number by (system, code)."""
        return {code: index for index, code in enumerate(self.codes)}

    def with_codes(self, codes: Iterable[Code]) -> "CodeColumns":
        """Return these columns followed by those of `codes` that are new."""
        return CodeColumns((*self.codes, *sorted(set(codes) - self.index_of.keys())))
