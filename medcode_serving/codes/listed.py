"""A list of codes as a CSV with the columns code and description: CPT and HCPCS Level II, of which none ships whole."""

import csv
from pathlib import Path
from typing import NamedTuple

from medcode_serving.codes.systems import SYSTEMS
from medcode_serving.errors import MedcodeError

COLUMNS = ("code", "description")


class ListedCode(NamedTuple):
    """One row."""

    code: str
    description: str | None


def read_code_list(path: Path, system: str) -> list[ListedCode]:
    """Read a list of codes of one system.

    Args:
        path: CSV in UTF-8; further columns are not read, and a description may be empty.
        system: The codes', one whose codes have no dots.

    Raises:
        MedcodeError: names the file, and the line: no such file, not UTF-8, no such column, a code that is none of the
            system, twice the same code, or no codes at all.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _read_rows(path, system, csv.DictReader(file, strict=True))
    except OSError as error:
        raise MedcodeError(f"{path}: {error.strerror}; name a CSV with the columns code and description") from None
    except UnicodeDecodeError:
        raise MedcodeError(f"{path}: not a text file in UTF-8; save the CSV as UTF-8") from None


def _read_rows(path: Path, system: str, reader: "csv.DictReader[str]") -> list[ListedCode]:
    title = SYSTEMS[system].title
    codes: dict[str, ListedCode] = {}
    try:
        for name in COLUMNS:
            if name not in (reader.fieldnames or ()):
                raise MedcodeError(f"{path}: no column {name}; the first line names them: code,description")
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if None in row:
                raise MedcodeError(f'{place}: more cells than columns; a text with commas stands in "quotes"')
            code = (row["code"] or "").strip().upper()
            if not SYSTEMS[system].pattern.fullmatch(code):
                raise MedcodeError(f"{place}: {_shown(code)} is no {title} code; mend it or leave the line out")
            if code in codes:
                raise MedcodeError(f"{place}: {code} is there already; leave one of them out")
            codes[code] = ListedCode(code, " ".join((row["description"] or "").split()) or None)
    except csv.Error as error:
        raise MedcodeError(f"{path}, line {reader.line_num}: not CSV ({error})") from None
    if not codes:
        raise MedcodeError(f"{path}: no codes; a line each, below code,description")
    return list(codes.values())


def _shown(code: str) -> str:
    return repr(code if len(code) <= 20 else f"{code[:20]}…")
