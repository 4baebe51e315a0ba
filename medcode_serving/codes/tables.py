"""The code tables that ship with medcode, and a user's own lists: what a code is called, and whether it may be billed.

The folder tables/ says where they come from. A table is read when the first code of its system is asked for; titles
stay in Arrow's memory, where they take a third of what Python's strings would.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from os.path import commonprefix
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medcode_serving.bundle import file_sha256
from medcode_serving.codes.hierarchy import category
from medcode_serving.codes.listed import ListedCode, read_code_list
from medcode_serving.codes.systems import SYSTEMS, dotted, undotted
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = Path(__file__).with_name("tables")
HCPCS_SELECTION = FOLDER / "hcpcs.csv"
VINTAGE = "vintage"
"""Key of a Parquet table's metadata: which edition it is, for people."""
SHIPPED = ("icd10cm", "icd9cm", "icd9pcs")
"""Systems whose whole list ships."""

_CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LONGEST = 7
"""Characters of the longest code of any system, without its dot."""


def tables_hash() -> dict[str, str]:
    """Return the sha256 of each shipped table by its file's name."""
    return {file.name: file_sha256(file) for file in sorted(FOLDER.iterdir()) if file.is_file()}


@dataclass(frozen=True)
class TableCode:
    """One code of a table."""

    system: str
    code: str
    """With its system's dot."""
    title: str | None
    billable: bool
    """Divided no further, and valid now."""
    retired: bool
    """Was billable once, and is not now: it was divided or given up."""


class CodeTables:
    """The tables of all systems that have one. Safe for use by several threads.

    A system without a list (ICD-10-PCS; CPT, unless a user gives one) is known, and has no codes.
    """

    def __init__(self, cpt_descriptions: Path | None = None, hcpcs: Path | None = None) -> None:
        """Name the user's lists; they are read when they are needed.

        Args:
            cpt_descriptions: CSV with the columns code and description.
            hcpcs: The same, in the place of the selection of HCPCS Level II that ships.
        """
        self._lists = {
            system: path for system, path in (("cpt", cpt_descriptions), ("hcpcs", hcpcs)) if path is not None
        }
        self._tables: dict[str, _Table | None] = {}

    def find(self, system: str, code: str) -> TableCode | None:
        """Return a code, written with or without its dot and in any case; None if it is not in its system's table.

        A dot in another place is another code: `00.66` is no diagnosis 006.6.

        Raises:
            MedcodeError: the system is unknown, or the user's list is broken.
        """
        table = self._table(system)
        code = code.strip().upper()
        if table is None or ("." in code and dotted(system, code) != code):
            return None
        row = table.row(undotted(code))
        return None if row is None else table.code(row)

    def below(self, system: str, code: str, limit: int | None = None) -> list[TableCode]:
        """Return the billable codes that a code is divided into: the shortest first, then first encounters (A).

        Raises:
            MedcodeError: the system is unknown, or the user's list is broken.
        """
        table = self._table(system)
        bare = undotted(code)
        if table is None or not bare:
            return []
        rows = [row for row in table.beginning(bare) if table.billable[row] and table.spelling(row) != bare]
        rows.sort(key=lambda row: _first_in_order(table.spelling(row)))
        return [table.code(row) for row in rows[:limit]]

    def near(self, system: str, code: str, limit: int = 5) -> list[TableCode]:
        """Return billable codes that may have been meant: one slip of the pen away, then others of the category.

        A slip is a character too many, too few or wrong, or two in each other's place. Of equals, those that begin
        alike the longest come first, then those that end alike (the seventh character: which encounter).

        Raises:
            MedcodeError: the system is unknown, or the user's list is broken.
        """
        table = self._table(system)
        bare = undotted(code)
        if table is None or not bare.isascii() or not bare.isalnum() or len(bare) > _LONGEST + 1:
            return []
        swapped = set(table.rows_of(_swapped(bare)))
        slips = swapped | set(table.rows_of(_slips(bare)))
        least = len(category(system, bare))
        rows = [row for row in slips.union(table.beginning_alike(bare, least, limit + 1)) if table.billable[row]]

        def order(row: int) -> tuple[bool, int, bool, str]:
            other = table.spelling(row)
            # The two that were swapped are the right ones.
            alike = len(commonprefix([other, bare])) + (2 if row in swapped else 0)
            return row not in slips, -alike, other[-1] != bare[-1], other

        rows.sort(key=order)
        return [table.code(row) for row in rows if table.spelling(row) != bare][:limit]

    def among(self, system: str, codes: Iterable[str]) -> list[TableCode]:
        """Return those of the codes, without dots, that are in the system's table, in the order given."""
        table = self._table(system)
        return [] if table is None else [table.code(row) for row in table.rows_of(codes)]

    def with_words(self, system: str, words: Sequence[str], limit: int = 5) -> list[TableCode]:
        """Return billable codes whose title has all of the words, or longer ones that begin so; the shortest first.

        Args:
            system: Whose codes.
            words: Of letters only.
            limit: Codes at most.
        """
        table = self._table(system)
        return [] if table is None or not words else [table.code(row) for row in table.with_words(words)[:limit]]

    def list_name(self, system: str) -> str | None:
        """Return what a system's list is called, for people; None if there is none."""
        table = self._table(system)
        return None if table is None else table.name

    def is_whole(self, system: str) -> bool:
        """Tell whether what a system's list lacks is no code: the selection of HCPCS Level II is not whole."""
        return system in SHIPPED or system in self._lists

    def _table(self, system: str) -> "_Table | None":
        if system not in self._tables:
            self._tables[system] = self._read(system)
        return self._tables[system]

    def _read(self, system: str) -> "_Table | None":
        if system not in SYSTEMS:
            raise MedcodeError(f"unknown code system {system!r}; known are {', '.join(SYSTEMS)}")
        if system in SHIPPED:
            return _read_shipped(system)
        if system in self._lists:
            return _from_list(system, str(self._lists[system]), read_code_list(self._lists[system], system))
        if system == "hcpcs":
            return _from_list(system, "medcode's selection of HCPCS Level II", read_code_list(HCPCS_SELECTION, system))
        return None


def code_tables(cpt_descriptions: Path | None = None, hcpcs: Path | None = None) -> CodeTables:
    """Return the tables with a user's lists; the same object again as long as the files are the same.

    Args:
        cpt_descriptions: CSV with the columns code and description, of a licensee of the AMA.
        hcpcs: CSV with the same columns: the whole list of HCPCS Level II, in the place of the selection that ships.

    Raises:
        MedcodeError: there is no such file. What is wrong inside is said when a code of the system is asked for.
    """
    return _code_tables(cpt_descriptions, _changed(cpt_descriptions), hcpcs, _changed(hcpcs))


@lru_cache(maxsize=8)
def _code_tables(
    cpt_descriptions: Path | None, cpt_changed: int | None, hcpcs: Path | None, hcpcs_changed: int | None
) -> CodeTables:
    return CodeTables(cpt_descriptions, hcpcs)


def _changed(path: Path | None) -> int | None:
    try:
        return None if path is None else path.stat().st_mtime_ns
    except OSError as error:
        raise MedcodeError(f"{path}: {error.strerror}; name a CSV with the columns code and description") from None


class _Table:
    """One system's codes, in the order of their characters without dots."""

    def __init__(
        self,
        system: str,
        name: str,
        bare: NDArray[np.bytes_],
        titles: "pa.Array",
        billable: NDArray[np.bool_],
        retired: NDArray[np.bool_],
    ) -> None:
        self.system = system
        self.name = name
        self.bare = bare
        self.titles = titles
        self.billable = billable
        self.retired = retired

    def code(self, row: int) -> TableCode:
        return TableCode(
            system=self.system,
            code=dotted(self.system, self.spelling(row)),
            title=self.titles[row].as_py() or None,
            billable=bool(self.billable[row]),
            retired=bool(self.retired[row]),
        )

    def spelling(self, row: int) -> str:
        return bytes(self.bare[row]).decode()

    def row(self, bare: str) -> int | None:
        if not bare.isascii():
            return None
        key = bare.encode()
        row = int(self.bare.searchsorted(np.bytes_(key)))
        return row if row < len(self.bare) and self.bare[row] == key else None

    def rows_of(self, codes: Iterable[str]) -> list[int]:
        keys = np.array([code for code in codes if 0 < len(code) <= _LONGEST], np.bytes_)
        if not len(keys):
            return []
        rows = np.minimum(self.bare.searchsorted(keys), len(self.bare) - 1)
        found: list[int] = rows[self.bare[rows] == keys].tolist()
        return list(dict.fromkeys(found))

    def beginning(self, bare: str) -> range:
        if not bare.isascii():
            return range(0)
        first, end = self.bare.searchsorted(np.array([bare.encode(), bare.encode() + b"\x7f"]))
        return range(int(first), int(end))

    def beginning_alike(self, bare: str, least: int, enough: int) -> range:
        """Return the rows of the longest beginning that enough billable ones share, of `least` characters or more."""
        for length in range(len(bare), least, -1):
            rows = self.beginning(bare[:length])
            if np.count_nonzero(self.billable[rows.start : rows.stop]) >= enough:
                return rows
        return self.beginning(bare[:least])

    def with_words(self, words: Sequence[str]) -> list[int]:
        import pyarrow.compute as pc

        has = self.billable.copy()
        for word in words:
            found = pc.match_substring_regex(self.titles, rf"(?:^|[^\pL]){word}", ignore_case=True)
            has &= _flags(found)
        rows = np.flatnonzero(has)
        lengths = [len(self.titles[row].as_py()) for row in rows.tolist()]
        ranked: list[int] = rows[np.argsort(lengths, kind="stable")].tolist()
        return ranked


def _read_shipped(system: str) -> _Table:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = FOLDER / f"{system}.parquet"
    try:
        table = pq.ParquetFile(path).read(use_threads=False).combine_chunks()
        columns = {name: table.column(name).chunk(0) for name in ("code", "title", "billable", "retired")}
        vintage = table.schema.metadata[VINTAGE.encode()].decode()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise MedcodeError(f"{path}: cannot be read ({type(error).__name__}); install medcode anew") from None
    padded = pc.utf8_rpad(pc.replace_substring(columns["code"], ".", ""), _LONGEST, "\0")
    read = _Table(
        system,
        vintage,
        np.frombuffer(padded.buffers()[2], np.dtype((np.bytes_, _LONGEST)), len(padded)),
        columns["title"],
        _flags(columns["billable"]),
        _flags(columns["retired"]),
    )
    pa.default_memory_pool().release_unused()  # what decompression took: half of the process's growth
    return read


def _flags(column: "pa.Array") -> NDArray[np.bool_]:
    # Arrow's own to_numpy imports pandas: a second, and 70 MB.
    import pyarrow as pa

    return np.frombuffer(column.cast(pa.uint8()).buffers()[1], np.uint8, len(column)).astype(np.bool_)


def _from_list(system: str, name: str, codes: list[ListedCode]) -> _Table:
    from pyarrow.lib import StringBuilder  # pa.array would import pandas

    ordered = sorted(codes, key=lambda row: row.code)
    titles = StringBuilder()
    titles.append_values([row.description or "" for row in ordered])
    return _Table(
        system,
        name,
        np.array([row.code for row in ordered], np.bytes_),
        titles.finish(),
        np.ones(len(ordered), np.bool_),
        np.zeros(len(ordered), np.bool_),
    )


def _first_in_order(bare: str) -> tuple[int, bool, str]:
    return len(bare), len(bare) == _LONGEST and not bare.endswith("A"), bare


def _swapped(bare: str) -> set[str]:
    return {bare[:place] + bare[place : place + 2][::-1] + bare[place + 2 :] for place in range(len(bare) - 1)} - {bare}


def _slips(bare: str) -> set[str]:
    """Return what one character less, more or other makes of a code."""
    cuts = [(bare[:place], bare[place:]) for place in range(len(bare) + 1)]
    out = {before + after[1:] for before, after in cuts if after}
    replaced = {before + character + after[1:] for before, after in cuts if after for character in _CHARACTERS}
    put_in = {before + character + after for before, after in cuts for character in _CHARACTERS}
    return (out | replaced | put_in) - {bare}
