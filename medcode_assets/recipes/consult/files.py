"""Local files of rows with named columns: CSV, JSON lines, JSON, Arrow and parquet, as a stream where they allow it."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.recipes.words.arrow_files import arrow_batches, whole
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]
SUFFIXES = (".csv", ".jsonl", ".json", ".arrow", ".feather", ".parquet")
BATCH = 1_000
LONGEST_CELL = 1_000_000
"""Characters of a CSV file's cell; a quote that is never closed would take the rest of the file for one."""


def file_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Yield each row of a file with its place, for messages: `answers.csv, row 3`. Rows are numbered from 1.

    Args:
        path: The file; its ending says what it is.
        columns: It must have.

    Raises:
        MedcodeError: the file is empty, broken, not UTF-8, or has not these columns; the message names the row or line.
    """
    readers = {".csv": _csv_rows, ".jsonl": _json_lines, ".json": _json_rows, ".parquet": _parquet_rows}
    reader = readers.get(path.suffix.lower(), _arrow_rows)
    if path.suffix.lower() not in SUFFIXES:
        raise MedcodeError(f"{path}: no {', '.join(SUFFIXES)}; save it as one of these")
    none = True
    for place, row in reader(path, columns):
        none = False
        yield place, row
    if none:
        raise MedcodeError(f"{path}: holds no row; give a file with at least one")


def _csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(LONGEST_CELL)
    # Strict: a quote that is never closed would take the rest of the file for one answer.
    reader = csv.reader(_decoded_lines(path), strict=True)
    header: list[str] | None = None
    number = 0
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise MedcodeError(
                f"{path}, row {number + 1} (line {reader.line_num}): no well-formed CSV ({error}); mend its quotes"
            ) from None
        if cells is None:
            return
        if header is None:
            header = [name.strip() for name in cells]
            if repeated := [name for name in columns if header.count(name) > 1]:
                raise MedcodeError(f"{path}: column {repeated[0]} is there twice; keep one of them")
            refuse_missing(path, columns, header)
        elif cells:
            number += 1
            if len(cells) != len(header):
                raise MedcodeError(
                    f"{path}, row {number} (line {reader.line_num}): {len(cells)} cells, and the header has "
                    f"{len(header)}; mend or remove the row"
                )
            yield f"{path}, row {number} (line {reader.line_num})", dict(zip(header, cells, strict=True))


def _decoded_lines(path: Path) -> Iterator[str]:
    with _opened(path) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise MedcodeError(
                    f"{path}, line {number}: byte {error.start + 1} of it is no UTF-8, so the file mixes encodings or "
                    f"has another; convert it, e.g. iconv -f WINDOWS-1252 -t UTF-8 {path.name} > converted{path.suffix}"
                ) from None


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise MedcodeError(f"{path}: cannot be read ({error.strerror}); name a file that is there") from None


def _json_lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    number = 0
    for line_number, line in enumerate(_decoded_lines(path), start=1):
        if line.strip():
            number += 1
            place = f"{path}, row {number} (line {line_number})"
            yield place, _object(place, _json(place, line), columns)


def _json_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    rows = _json(str(path), "".join(_decoded_lines(path)))
    if not isinstance(rows, list):
        raise MedcodeError(f"{path}: no list of rows; write [{{...}}, {{...}}], or a .jsonl file with a row a line")
    for number, row in enumerate(rows, start=1):
        place = f"{path}, row {number}"
        yield place, _object(place, row, columns)


def _json(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise MedcodeError(
            f"{place}: no JSON ({error.msg}, line {error.lineno}, column {error.colno}); mend it"
        ) from None
    except (ValueError, RecursionError):
        raise MedcodeError(f"{place}: a number too long or brackets too deep; mend it") from None


def _object(place: str, row: Any, columns: Sequence[str]) -> Row:
    if not isinstance(row, dict):
        raise MedcodeError(f"{place}: a {type(row).__name__} and no object; write {{{', '.join(columns)}: ...}}")
    refuse_missing(place, columns, list(row))
    return row


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            refuse_missing(path, columns, file.schema_arrow.names)
            yield from _batch_rows(path, whole(file.iter_batches(BATCH)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MedcodeError(f"{path}: no whole parquet file ({type(error).__name__}); copy or write it anew") from None


def _arrow_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa

    try:
        with arrow_batches(path) as (names, batches):
            refuse_missing(path, columns, names)
            yield from _batch_rows(path, batches)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MedcodeError(f"{path}: no whole Arrow file ({type(error).__name__}); copy or write it anew") from None


def _batch_rows(path: Path, batches: "Iterator[pa.RecordBatch]") -> Iterator[tuple[str, Row]]:
    first = 1
    for batch in batches:
        for number, row in enumerate(batch.to_pylist(), start=first):
            yield f"{path}, row {number}", row
        first += batch.num_rows


def refuse_missing(place: Path | str, columns: Sequence[str], there: Sequence[str]) -> None:
    """Raise MedcodeError if a column is missing; it tells no other names: without a header they are the first row."""
    missing = [column for column in columns if column not in there]
    if missing:
        wanted = {column.casefold() for column in columns}
        known = [name for name in there if name.casefold() in wanted]
        others = f" and {len(there) - len(known)} other columns" if len(there) > len(known) else ""
        raise MedcodeError(
            f"{place}: no column {', '.join(missing)}; it has {', '.join(known) or 'none of these'}{others}, and needs "
            f"{', '.join(columns)}"
        )
