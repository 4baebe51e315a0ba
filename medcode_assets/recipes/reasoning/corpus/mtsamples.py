"""Reads the narratives of MTSamples, a CSV that its users have themselves, or of a JSONL file."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from medcode_serving.errors import MedcodeError

COLUMN = "transcription"
"""Of the CSV; description, medical_specialty, sample_name and keywords beside it are not read."""
FIELD = "narrative"
"""Of the JSONL file."""


def read_narratives(path: Path) -> Iterator[str]:
    """Yield the narratives of a file, one after the other; rows without one, as MTSamples has some, are left out.

    Args:
        path: `*.jsonl`: objects with "narrative"; any other: MTSamples' CSV, its columns in any order and case.

    Raises:
        MedcodeError: the file is missing, empty, not UTF-8, without the column or the field, or not well formed; the
            message names the row.
    """
    narratives = _of_jsonl(path) if path.suffix == ".jsonl" else _of_csv(path)
    empty = True
    for narrative in narratives:
        if narrative.strip():
            empty = False
            yield narrative
    if empty:
        raise MedcodeError(f"{path}: holds no narrative; give a file with at least one")


def decoded_lines(path: Path) -> Iterator[str]:
    """Yield a text file's lines with their line breaks, without a byte order mark.

    Raises:
        MedcodeError: the file cannot be read or is not UTF-8; the message names the line.
    """
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise MedcodeError(f"{path}, line {number}: not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise MedcodeError(f"{path}: cannot be read ({error.strerror}); name a file that is there") from None


def _of_csv(path: Path) -> Iterator[str]:
    # Strict: a quote that is never closed would take the rest of the file for one narrative.
    rows = csv.reader(decoded_lines(path), strict=True)
    header: list[str] | None = None
    place = 0
    number = 0
    while True:
        number += 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise MedcodeError(f"{path}, row {number}: not well-formed CSV ({error}); mend its quotes") from None
        if row is None:
            return
        if header is None:
            header = [name.strip().lower() for name in row]
            place = _place(path, header)
        elif row:
            if len(row) != len(header):
                raise MedcodeError(
                    f"{path}, row {number}: {len(row)} columns, the header has {len(header)}; mend or remove the row"
                )
            yield row[place]


def _place(path: Path, header: list[str]) -> int:
    if COLUMN not in header:
        raise MedcodeError(
            f"{path}, row 1: no column {COLUMN!r}; its columns are {', '.join(header[:10])}. Give MTSamples' CSV, or "
            f'a .jsonl file of {{"{FIELD}": …}}'
        )
    return header.index(COLUMN)


def _of_jsonl(path: Path) -> Iterator[str]:
    for number, line in enumerate(decoded_lines(path), start=1):
        if not line.strip():
            continue
        try:
            read = json.loads(line)
        except json.JSONDecodeError as error:
            raise MedcodeError(f"{path}, row {number}: not JSON ({error.msg}, column {error.colno})") from None
        except (ValueError, RecursionError):
            raise MedcodeError(f"{path}, row {number}: a number too long or brackets too deep") from None
        if not isinstance(read, dict) or not isinstance(read.get(FIELD), str):
            raise MedcodeError(f'{path}, row {number}: no text "{FIELD}"; each line is {{"{FIELD}": …}}')
        yield read[FIELD]
