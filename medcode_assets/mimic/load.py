"""One CSV file into one raw table: declared types, fixed dialect, all or nothing."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_assets.mimic.sources import DOWNLOAD_AGAIN, TableSpec, check_columns, header
from medcode_assets.warehouse import (
    Built,
    Source,
    build_table,
    built,
    fingerprint,
    quoted,
    record,
    record_of,
    write_table,
)
from medcode_serving.bundle import file_sha256
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import duckdb

ABSENT = "absent"
"""Stands for the sha256 of an optional file that is not there."""


def load_table(
    con: "duckdb.DuckDBPyConnection", spec: TableSpec, path: Path | None, *, drop_existing: bool = False
) -> Built:
    """Load a MIMIC file into `raw.<table>`; skipped while the file's sha256 and the spec are unchanged.

    The earlier table stays until the new one is complete. Without a path (an optional file that is not there) the
    table is made empty.

    Raises:
        MedcodeError: a column is missing, the file is cut off or malformed, a value has the wrong type, or there are
            no rows where there must be some. No message quotes the file's content.
    """
    import duckdb

    if path is None:
        made_from = _made_from(spec, ABSENT)
        return build_table(con, f"raw.{spec.name}", _empty(spec), made_from, recorded={"sha256": ABSENT})
    check_columns(path, spec)
    known = record_of(con, f"raw.{spec.name}")
    stat = _stat(path)
    if known and not drop_existing:
        sha256 = known["sha256"] if known.get("stat") == stat else file_sha256(path)
        earlier = built(con, f"raw.{spec.name}")
        if earlier and earlier.fingerprint == _made_from(spec, sha256):
            record(con, f"raw.{spec.name}", {"sha256": sha256, "stat": stat})  # it may have been touched or moved
            return earlier
    # The file is read twice at once, by DuckDB and for its sha256, which takes a fifth as long.
    with ThreadPoolExecutor(1) as executor:
        hashing = executor.submit(file_sha256, path)

        def create() -> None:
            con.execute(f"SET force_compression = '{'zstd' if 'text' in spec.columns else 'auto'}'")
            con.execute(f"CREATE OR REPLACE TABLE raw.{spec.name} AS {_select(spec, path)}")

        def source() -> Source:
            if _stat(path) != stat:
                raise MedcodeError(f"{path}: changed while it was loaded; materialize it again when it is complete")
            return Source(_made_from(spec, hashing.result()), {"sha256": hashing.result(), "stat": stat})

        try:
            return write_table(
                con, f"raw.{spec.name}", source, create, check=lambda rows: _refuse_empty(spec, path, rows)
            )
        except (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.IOException) as error:
            raise _refusal(con, spec, path, error) from None


def _made_from(spec: TableSpec, sha256: str) -> str:
    what = {"columns": spec.columns, "derived": spec.derived, "keep": spec.keep}
    return fingerprint(source=sha256, spec=what, version=3)


def _stat(path: Path) -> str:
    """Return what changes when a file changes; one whose stat is as it was is not read again."""
    stat = path.stat()
    return f"{path}:{stat.st_size}:{stat.st_mtime_ns}"


def _select(spec: TableSpec, path: Path) -> str:
    """Cast each declared column from text, so that no type and no dialect is guessed from the first rows."""
    columns = [f'CAST("{name}" AS {kind}) AS "{name}"' for name, kind in spec.columns.items()]
    columns += [f"{expression} AS {name}" for name, expression in spec.derived.items()]
    return f"SELECT {', '.join(columns)} FROM {_read_csv(path)}" + (f" WHERE {spec.keep}" if spec.keep else "")


def _empty(spec: TableSpec) -> str:
    columns = ", ".join(f'CAST(NULL AS {kind}) AS "{name}"' for name, kind in spec.columns.items())
    return f"SELECT {columns} WHERE false"


def _read_csv(path: Path) -> str:
    names = ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in header(path))
    return (
        f"read_csv({quoted(str(path))}, columns = {{{names}}}, auto_detect = false, header = true, "
        "delim = ',', quote = '\"', escape = '\"', nullstr = '')"
    )


def _refuse_empty(spec: TableSpec, path: Path, rows: int) -> None:
    if spec.must_have_rows and not rows:
        condition = f" with {spec.keep}" if spec.keep else ""
        raise MedcodeError(f"{path}: no rows{condition} for table {spec.name}, so there is nothing to learn from")


def _refusal(con: "duckdb.DuckDBPyConnection", spec: TableSpec, path: Path, error: "duckdb.Error") -> MedcodeError:
    """Say what is wrong with a file without DuckDB's own message, which quotes the file's content."""
    import duckdb

    if isinstance(error, duckdb.ConversionException):
        try:
            return _wrong_type(con, spec, path)
        except duckdb.Error as structural:  # a broken line further down: that is the real reason
            return _unreadable(path, str(structural))
    return _unreadable(path, str(error))


def _wrong_type(con: "duckdb.DuckDBPyConnection", spec: TableSpec, path: Path) -> MedcodeError:
    """Name the first column with values that are not of its type."""
    typed = {name: kind for name, kind in spec.columns.items() if kind != "VARCHAR"}
    counts = ", ".join(
        f'count(*) FILTER ("{name}" IS NOT NULL AND TRY_CAST("{name}" AS {kind}) IS NULL)'
        for name, kind in typed.items()
    )
    wrong = con.execute(f"SELECT {counts} FROM {_read_csv(path)}").fetchall()[0]
    for (name, kind), count in zip(typed.items(), wrong, strict=True):
        if count:
            return MedcodeError(f"{path}: column {name}: {count} values are not {kind}; {DOWNLOAD_AGAIN}")
    return MedcodeError(f"{path}: a value has the wrong type; {DOWNLOAD_AGAIN}")


def _unreadable(path: Path, message: str) -> MedcodeError:
    if "MAXIMUM LINE SIZE" in message.upper():
        return MedcodeError(f"{path}: a line of more than 2 MB, which no MIMIC file has; {DOWNLOAD_AGAIN}")
    if line := re.search(r"CSV Error on Line: (\d+)", message):
        return MedcodeError(f"{path}: line {line[1]} has not the columns of the header; {DOWNLOAD_AGAIN}")
    if "GZIP" in message.upper():
        return MedcodeError(f"{path}: the gzip file is cut off or broken; {DOWNLOAD_AGAIN}")
    if "NO SPACE LEFT" in message.upper():
        return MedcodeError(f"{path}: the disk of the warehouse is full; free some space, the earlier table is intact")
    return MedcodeError(f"{path}: cannot be read as CSV; {DOWNLOAD_AGAIN}")
