"""The warehouse: one DuckDB file a MIMIC version, one writer at a time, every table with its fingerprint."""

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.config import WarehouseSettings
from medcode_assets.locks import POLL_SECONDS, waiting_lock
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import duckdb


CATALOG = "warehouse"
"""Name under which the file is attached; what is not qualified is looked up there."""
ROW_GROUP = 8_192
"""Rows that are compressed together: of notes, about 80 MB."""


@dataclass(frozen=True)
class Built:
    """What `build_table` did."""

    table: str
    rows: int
    fingerprint: str
    skipped: bool
    """The table was there already, made from the same inputs."""


@dataclass(frozen=True)
class Source:
    """What a table is made from."""

    fingerprint: str
    recorded: dict[str, Any] = field(default_factory=dict)
    """Kept beside the fingerprint, for provenance."""


@contextmanager
def open_warehouse(
    file: Path,
    *,
    read_only: bool = False,
    settings: WarehouseSettings | None = None,
    purpose: str = "medcode",
    on_wait: Callable[[str], None] | None = None,
) -> Iterator["duckdb.DuckDBPyConnection"]:
    """Open a version's DuckDB file and wait for it: readers share it, a writer has it alone.

    DuckDB itself refuses a second process at once; the lock beside the file makes it wait its turn instead.

    Args:
        file: The DuckDB file.
        read_only: Share it with other readers.
        settings: Memory, threads, folder for what does not fit into memory, and how long to wait.
        purpose: What others are told who wait for this one.
        on_wait: Told who holds the file, if it is not free at once.

    Raises:
        MedcodeError: the file is to be read and does not exist, or others held it for too long.
    """
    settings = settings or WarehouseSettings()
    if read_only and not file.exists():
        raise MedcodeError(f"{file}: no such warehouse yet; materialize the raw tables first: medcode prepare")
    with (
        waiting_lock(
            file.with_suffix(".lock"),
            what=str(file),
            exclusive=not read_only,
            purpose=purpose,
            wait_seconds=settings.wait_minutes * 60,
            on_wait=on_wait,
        ),
        _attached(file, read_only, settings) as con,
        _plain_errors(file),
    ):
        if not read_only:
            con.execute("CREATE SCHEMA IF NOT EXISTS raw")
            con.execute(
                "CREATE TABLE IF NOT EXISTS made (name VARCHAR PRIMARY KEY, fingerprint VARCHAR, "
                "rows BIGINT, made_at TIMESTAMPTZ, settings JSON)"
            )
        yield con


@contextmanager
def _attached(file: Path, read_only: bool, settings: WarehouseSettings) -> Iterator["duckdb.DuckDBPyConnection"]:
    import duckdb

    scratch = Path(settings.temp_folder or file.parent)
    scratch.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        # Order costs memory on large tables, and nothing here depends on it without saying ORDER BY.
        "preserve_insertion_order": False,
        "memory_limit": settings.memory_limit,
        "temp_directory": str(scratch / f".{file.stem}.tmp"),
    }
    if settings.threads:
        config["threads"] = settings.threads
    with duckdb.connect(":memory:", config=config) as con:
        # Only ATTACH takes a row group size. DuckDB's own of 122,880 rows means 1.2 GB of notes in memory at once,
        # and that a smaller table of notes is compressed by one thread, after loading instead of beside it.
        option = "READ_ONLY" if read_only else f"ROW_GROUP_SIZE {ROW_GROUP}"
        _attach(con, f"ATTACH {quoted(str(file))} AS {CATALOG} ({option})", file, settings.wait_minutes * 60)
        _select_warehouse(con)
        yield con


def _attach(con: "duckdb.DuckDBPyConnection", statement: str, file: Path, wait_seconds: float) -> None:
    """Attach the file, waiting while a program that knows nothing of our lock has it open: DuckDB's own, DBeaver."""
    import duckdb

    give_up = time.monotonic() + wait_seconds
    while True:
        try:
            con.execute(statement)
            return
        except duckdb.IOException as error:
            if "lock" not in str(error).lower():
                raise MedcodeError(f"{file}: cannot be opened as a DuckDB file; delete it to make it anew") from None
            if time.monotonic() >= give_up:
                holder = re.search(r"PID (\d+)", str(error))
                raise MedcodeError(
                    f"{file}: open in {f'process {holder[1]}' if holder else 'another program'}; close it there"
                ) from None
        time.sleep(POLL_SECONDS)


@contextmanager
def _plain_errors(file: Path) -> Iterator[None]:
    """Say in a line what a user can mend, instead of DuckDB's traceback."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException:
        raise MedcodeError(
            f"{file}: warehouse.memory_limit is too low for this step, or its temp folder is full; raise the one or "
            "free the other"
        ) from None
    except duckdb.IOException as error:
        if "no space left" not in str(error).lower():
            raise
        raise MedcodeError(f"{file}: the disk is full; free some space, earlier tables are intact") from None


@contextmanager
def second_cursor(con: "duckdb.DuckDBPyConnection") -> Iterator["duckdb.DuckDBPyConnection"]:
    """Give a cursor on the same warehouse, to read from while `con` writes."""
    with con.cursor() as cursor:
        _select_warehouse(cursor)
        yield cursor


def _select_warehouse(cursor: "duckdb.DuckDBPyConnection") -> None:
    """Look names up in the attached file, and show DuckDB's progress bar to a person only: no cursor inherits that."""
    cursor.execute(f"USE {CATALOG}")
    cursor.execute(f"SET enable_progress_bar = {str(sys.stdout.isatty()).lower()}")


def quoted(text: str) -> str:
    """Return a text as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def fingerprint(**parts: Any) -> str:
    """Return a sha256 over named parts; equal parts give equal fingerprints, in any order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def built(con: "duckdb.DuckDBPyConnection", table: str) -> Built | None:
    """Return how a table was made, or None if it was not."""
    row = one_row(con, "SELECT rows, fingerprint FROM made WHERE name = ?", [table])
    return Built(table, row[0], row[1], skipped=True) if row else None


def record_of(con: "duckdb.DuckDBPyConnection", table: str) -> dict[str, Any]:
    """Return what was recorded beside a table's fingerprint; empty if it was not made."""
    row = one_row(con, "SELECT settings FROM made WHERE name = ?", [table])
    return json.loads(row[0]) if row else {}


def record(con: "duckdb.DuckDBPyConnection", table: str, recorded: dict[str, Any]) -> None:
    """Replace what is recorded beside a table's fingerprint."""
    con.execute("UPDATE made SET settings = ? WHERE name = ?", [json.dumps(recorded), table])


def inputs(con: "duckdb.DuckDBPyConnection", *tables: str) -> dict[str, str]:
    """Return the fingerprints of the tables that a step reads.

    Raises:
        MedcodeError: one of them was not made yet; the message names it.
    """
    found = {table: built(con, table) for table in tables}
    for table, made in found.items():
        if made is None:
            raise MedcodeError(f"table {table} is not in the warehouse yet; materialize its asset first")
    return {table: made.fingerprint for table, made in found.items() if made}


def build_table(
    con: "duckdb.DuckDBPyConnection",
    table: str,
    select: str,
    made_from: str,
    *,
    parameters: dict[str, Any] | None = None,
    recorded: dict[str, Any] | None = None,
    rebuild: bool = False,
    compression: str = "auto",
    check: Callable[[int], None] | None = None,
) -> Built:
    """Make a table from a SELECT in one transaction, unless it was made from the same inputs.

    Args:
        con: A writing connection from `open_warehouse`.
        table: Name with schema, as `raw.patients`.
        select: The query; `$name` stands for a parameter.
        made_from: Fingerprint of all that goes into the table.
        parameters: Values of the query's parameters.
        recorded: Kept beside the fingerprint, for provenance; the parameters if not given.
        rebuild: Make it anew even if nothing changed.
        compression: DuckDB's method for the columns; `zstd` for tables of long text halves the time to write and the
            size (193 MB of notes: 1.9 s and 69 MB).
        check: Told the number of rows before anything is kept; what it raises undoes the table.
    """
    earlier = built(con, table)
    if earlier and earlier.fingerprint == made_from and not rebuild:
        return earlier

    def create() -> None:
        con.execute(f"SET force_compression = '{compression}'")
        con.execute(f"CREATE OR REPLACE TABLE {table} AS {select}", parameters or {})

    return write_table(con, table, Source(made_from, recorded or parameters or {}), create, check=check)


def write_table(
    con: "duckdb.DuckDBPyConnection",
    table: str,
    source: "Source | Callable[[], Source]",
    create: Callable[[], None],
    *,
    check: Callable[[int], None] | None = None,
) -> Built:
    """Run `create`, which makes a table, and record its source: both or, after any error, neither.

    A source that is a function is asked for once the table is made.
    """
    con.execute("BEGIN")
    try:
        create()
        rows = count_rows(con, table)
        if check:
            check(rows)
        if callable(source):
            source = source()
        con.execute(
            "INSERT OR REPLACE INTO made VALUES (?, ?, ?, now(), ?)",
            [table, source.fingerprint, rows, json.dumps(source.recorded)],
        )
    except BaseException:
        con.execute("ROLLBACK")
        raise
    con.execute("COMMIT")
    return Built(table, rows, source.fingerprint, skipped=False)


def count_rows(con: "duckdb.DuckDBPyConnection", table: str) -> int:
    """Return a table's number of rows."""
    return int(one_value(con, f"SELECT count(*) FROM {table}"))


def one_row(
    con: "duckdb.DuckDBPyConnection", query: str, parameters: list[Any] | dict[str, Any] | None = None
) -> tuple[Any, ...] | None:
    """Return a query's first row, or None.

    `fetchone` would leave the result open, and DuckDB 2 refuses other work on the connection until it is read out.
    """
    rows = con.execute(query, parameters or []).fetchall()
    return rows[0] if rows else None


def one_value(
    con: "duckdb.DuckDBPyConnection", query: str, parameters: list[Any] | dict[str, Any] | None = None
) -> Any:
    """Return the one value of an aggregate query."""
    return con.execute(query, parameters or []).fetchall()[0][0]
