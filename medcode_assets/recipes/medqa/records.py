"""Files of exam questions as numbered records: JSON, JSON lines, parquet, arrow."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from medcode_assets.recipes.words.arrow_files import arrow_batches
from medcode_serving.errors import MedcodeError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_file(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield a file's records with their places, from 1: `row 7`, or `line 7` of a file of JSON lines.

    Raises:
        MedcodeError: the file is of no known kind, cannot be read, is cut off or broken at a row, or is not UTF-8.
    """
    reader = READERS.get(path.suffix)
    if reader is None:
        raise MedcodeError(f"{path}: of no known kind; expected a name that ends with {', '.join(READERS)}")
    try:
        yield from reader(path)
    except OSError as error:
        # pyarrow's own errors about broken files are OSErrors, too, without a number.
        reason = error.strerror or "cut off or broken; fetch it anew"
        raise MedcodeError(f"{path}: cannot be read ({reason})") from None


def numbered_rows(records: Iterable[Any], start: int = 1) -> Iterator[tuple[str, Any]]:
    """Yield records with their places."""
    for number, record in enumerate(records, start=start):
        yield f"row {number}", record


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    """Read one array, or objects line by line: MedMCQA's own `.json` files are of lines."""
    with path.open("rb") as file:
        first = next((line.lstrip() for line in file if line.removeprefix(_BYTE_ORDER_MARK).strip()), b"")
    if not first.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"["):
        yield from _lines(path)
        return
    contents = _decoded(path.read_bytes().removeprefix(_BYTE_ORDER_MARK), path)
    try:
        records = json.loads(contents)
    except json.JSONDecodeError as error:
        raise MedcodeError(
            f"{path}, line {error.lineno}: no JSON ({error.msg}, column {error.colno}); correct it"
        ) from None
    except (ValueError, RecursionError):
        raise MedcodeError(f"{path}: brackets too deep or a number too long; correct it") from None
    yield from numbered_rows(records)


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = raw.removeprefix(_BYTE_ORDER_MARK) if number == 1 else raw
            if not line.strip():
                continue
            text = _decoded(line, path, first=number)
            try:
                yield f"line {number}", json.loads(text)
            except json.JSONDecodeError as error:
                raise MedcodeError(
                    f"{path}, line {number}: no JSON ({error.msg}, column {error.colno}); correct or delete the line"
                ) from None
            except (ValueError, RecursionError):
                raise MedcodeError(
                    f"{path}, line {number}: brackets too deep or a number too long; correct or delete the line"
                ) from None


def _decoded(raw: bytes, path: Path, first: int = 1) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = first + raw.count(b"\n", 0, error.start)
        raise MedcodeError(
            f"{path}, line {line}: not UTF-8 (byte 0x{raw[error.start]:02x}); if it is Windows-1252, convert that line "
            "with `iconv -f cp1252 -t utf-8`"
        ) from None


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from numbered_rows(batch.to_pylist(), start=number + 1)
                number += batch.num_rows
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise MedcodeError(_broken(path, number, error)) from None


def _arrow(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa

    number = 0
    try:
        with arrow_batches(path) as (_, batches):
            for batch in batches:
                yield from numbered_rows(batch.to_pylist(), start=number + 1)
                number += batch.num_rows
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise MedcodeError(_broken(path, number, error)) from None


def _broken(path: Path, rows: int, error: Exception) -> str:
    return f"{path}: broken or cut off after row {rows} ({type(error).__name__}); fetch the file anew"


READERS: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
    ".jsonl": _lines,
    ".json": _json,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
"""By how a file's name ends."""
