"""The closed list of codes that a bundle can predict."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medcode_serving.errors import MedcodeError

COLUMNS = ("system", "code", "text", "description", "frequency")


@dataclass(frozen=True)
class VocabularyCode:
    """One row of codes.parquet."""

    system: str
    """icd9cm, icd9pcs, icd10cm, icd10pcs, hcpcs or cpt."""
    code: str
    """With its system's dots: E11.9, 401.9, 0DTJ4ZZ."""
    text: str
    """How completions write it: the code, or `system:code` where two systems share it."""
    description: str | None
    frequency: int
    """Training admissions that carry the code."""


class Vocabulary:
    """The codes in the order of codes.parquet; an index is a code's row number."""

    def __init__(self, codes: Sequence[VocabularyCode]) -> None:
        self.codes = tuple(codes)

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def index_of(self) -> dict[str, int]:
        """Row number by the text that completions write."""
        return {code.text: index for index, code in enumerate(self.codes)}

    @classmethod
    def read(cls, path: Path) -> "Vocabulary":
        """Read codes.parquet.

        Raises:
            MedcodeError: a column is missing, or the list is empty.
        """
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        missing = [name for name in COLUMNS if name not in table.column_names]
        if missing:
            raise MedcodeError(f"{path}: column {missing[0]} is missing; publish the bundle anew: medcode run")
        if not table.num_rows:
            raise MedcodeError(f"{path}: no codes; publish the bundle anew: medcode run")
        return cls([VocabularyCode(**row) for row in table.select(COLUMNS).to_pylist()])
