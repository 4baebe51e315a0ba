"""Groups of codes that metrics are taken over, and the parents that codes belong to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from medcode_assets.evaluation.columns import Code, CodeColumns
from medcode_serving.codes.hierarchy import category, chapter
from medcode_serving.codes.systems import SYSTEMS

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array

Level = Literal["category", "chapter"]

OTHER = "other"
"""The chapter of codes that no chapter of their system holds."""

FREQUENCIES = (
    ("unseen", "Never seen in training", 0, 0),
    ("1-10", "In 1-10 training documents", 1, 10),
    ("11-50", "In 11-50 training documents", 11, 50),
    ("51-100", "In 51-100 training documents", 51, 100),
    ("101-500", "In 101-500 training documents", 101, 500),
    ("over-500", "In over 500 training documents", 501, math.inf),
)
"""Buckets of training documents with a code: name, title, least, most (shared/field/coding.md)."""


@dataclass(frozen=True)
class ColumnGroup:
    """Some of the columns."""

    name: str
    """kind:which, as system:icd10cm, frequency:11-50, chapter:icd10cm:I00-I99."""
    title: str
    """For people."""
    columns: "np.ndarray"
    """int64, rising."""


def code_groups(columns: CodeColumns, frequencies: "np.ndarray") -> tuple[ColumnGroup, ...]:
    """Return the columns by code system, by frequency in training, and by chapter; no group is empty.

    Args:
        columns: The codes.
        frequencies: Training documents with each code, int [codes]; 0 where training never saw it.

    Returns:
        Systems in the order of `SYSTEMS`, frequencies from rare to frequent, chapters in order within each system.

    Raises:
        MedcodeError: a code's system is unknown.
        ValueError: there are not as many frequencies as columns.
    """
    import numpy as np

    if len(frequencies) != len(columns):
        raise ValueError(f"{len(frequencies)} frequencies for {len(columns)} columns")
    systems = np.array([system for system, _ in columns.codes], dtype=object)
    found = [
        *(
            ColumnGroup(f"system:{name}", system.title, np.flatnonzero(systems == name))
            for name, system in SYSTEMS.items()
        ),
        *(
            ColumnGroup(f"frequency:{name}", title, np.flatnonzero((frequencies >= least) & (frequencies <= most)))
            for name, title, least, most in FREQUENCIES
        ),
        *_chapters(columns),
    ]
    return tuple(group for group in found if len(group.columns))


def membership(groups: Sequence[ColumnGroup], codes: int) -> "csr_array":
    """Return which of so many columns each group holds: 0/1, float64 [groups, codes]."""
    import numpy as np
    from scipy.sparse import csr_array

    offsets = np.cumsum([0, *(len(group.columns) for group in groups)])
    held = np.concatenate([np.zeros(0, dtype=np.int64), *(group.columns for group in groups)])
    return csr_array((np.ones(len(held)), held, offsets), shape=(len(groups), codes))


def parents(columns: CodeColumns, level: Level) -> "csr_array":
    """Return which category or chapter each column's code belongs to: 0/1, int64 [codes, parents].

    Codes of different systems never share a parent. Codes without a chapter share the chapter `other` of their system.

    Raises:
        MedcodeError: a code's system is unknown.
    """
    import numpy as np
    from scipy.sparse import csr_array

    if level == "category":
        names = [(system, category(system, code)) for system, code in columns.codes]
    else:
        names = _chapter_names(columns)
    place = {name: index for index, name in enumerate(sorted(set(names)))}
    cells = (np.arange(len(names)), np.array([place[name] for name in names], dtype=np.int64))
    return csr_array((np.ones(len(names), dtype=np.int64), cells), shape=(len(names), len(place)))


def at_level(matrix: "csr_array", parent_of: "csr_array") -> "csr_array":
    """Return which documents have any code of a parent: 0/1, int64 [documents, parents].

    Args:
        matrix: Which documents have which code, 0/1 [documents, codes].
        parent_of: As `parents` returns it.
    """
    from scipy.sparse import csr_array

    counted = csr_array(matrix @ parent_of)
    counted.data[:] = 1
    return counted


def _chapters(columns: CodeColumns) -> list[ColumnGroup]:
    """Return the columns of each chapter, a system's codes without one last."""
    import numpy as np

    held: dict[tuple[int, bool, str], list[int]] = {}
    order = {system: place for place, system in enumerate(SYSTEMS)}
    for index, (system, name) in enumerate(_chapter_names(columns)):
        held.setdefault((order[system], name == OTHER, name), []).append(index)
    return [
        ColumnGroup(
            f"chapter:{columns.codes[places[0]][0]}:{key[2]}",
            _chapter_title(columns.codes[places[0]]),
            np.array(places, dtype=np.int64),
        )
        for key, places in sorted(held.items())
    ]


def _chapter_names(columns: CodeColumns) -> list[tuple[str, str]]:
    """Return each column's system and the name of its chapter."""
    found = [chapter(*code) for code in columns.codes]
    return [(system, held.name if held else OTHER) for (system, _), held in zip(columns.codes, found, strict=True)]


def _chapter_title(code: Code) -> str:
    found = chapter(*code)
    return f"{found.title} ({found.name})" if found else f"No chapter ({SYSTEMS[code[0]].title})"
