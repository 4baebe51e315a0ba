"""Split files as papers publish them, read into one temporary table."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_assets.mimic.sources import found_columns
from medcode_assets.warehouse import fingerprint, one_value, quoted
from medcode_serving.bundle import file_sha256
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import duckdb

KEYS = ("hadm_id", "note_id", "subject_id")
"""Columns that say whom a row is about; the first one that a file has counts."""
ANONYMOUS_KEY = "_id"
"""medical-coding-reproducibility's name for either of the first two."""
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev", "development"),
    "test": ("test", "testing"),
}
CAML_FILE = re.compile(r"(train|dev|test)_(full|50)?_?hadm_ids\.csv")
"""https://github.com/jamesmullenbach/caml-mimic: one admission a line, no header, one file a split."""


def load_published_splits(con: "duckdb.DuckDBPyConnection", path: Path) -> str:
    """Read a split file, or a set of CAML's, into the temporary table `published_splits` (key, id, split).

    Args:
        con: Writing connection of a warehouse with facts and discharge_notes.
        path: CSV, TSV, parquet or feather file; or CAML's folder, or one file of a set in it.

    Returns:
        A fingerprint of the files' content.

    Raises:
        MedcodeError: it cannot be read, or has no known column or split name.
    """
    import duckdb
    import pyarrow as pa

    if not path.exists():
        raise MedcodeError(f"data.split_file {path}: no such file")
    try:
        caml = path.is_dir() or CAML_FILE.fullmatch(path.name.lower())
        source, key, files = _caml(path) if caml else _table(con, path)
        con.execute(f"CREATE OR REPLACE TEMP TABLE published_splits AS SELECT '{key}' AS key, * FROM ({source})")
    except (duckdb.Error, pa.ArrowInvalid):
        raise MedcodeError(f"data.split_file {path}: not a CSV, TSV, parquet or feather file of splits") from None
    _name_splits(con, path)
    if key == ANONYMOUS_KEY:
        key = _likelier_key(con)
        con.execute(f"UPDATE published_splits SET key = '{key}'")
    return fingerprint(key=key, files=[file_sha256(file) for file in files])


def _caml(path: Path) -> tuple[str, str, list[Path]]:
    """Read the three files of a set; a folder may hold one, and one of its files names it where there are several."""
    sets: dict[str, dict[str, Path]] = {}
    for file in sorted((path if path.is_dir() else path.parent).iterdir()):
        if match := CAML_FILE.fullmatch(file.name.lower()):
            sets.setdefault(match[2] or "", {})[match[1]] = file
    named = CAML_FILE.fullmatch(path.name.lower())
    complete = {name: files for name, files in sets.items() if set(files) == {"train", "dev", "test"}}
    if named:
        complete = {name: files for name, files in complete.items() if name == (named[2] or "")}
    if len(complete) != 1:
        raise MedcodeError(
            f"data.split_file {path}: expected one set of CAML's train_, dev_ and test_..._hadm_ids.csv, found "
            f"{len(complete)}" + ("; name one of its files" if complete else "")
        )
    (files,) = complete.values()
    selects = [
        f"SELECT trim(id) AS id, '{split}' AS split FROM read_csv({quoted(str(file))}, columns = {{'id': 'VARCHAR'}}, "
        "header = false, auto_detect = false)"
        for split, file in files.items()
    ]
    return " UNION ALL ".join(selects), "hadm_id", list(files.values())


def _table(con: "duckdb.DuckDBPyConnection", path: Path) -> tuple[str, str, list[Path]]:
    suffix = path.suffix.lower()
    if suffix in (".feather", ".arrow", ".ipc"):
        import pyarrow.feather as feather

        con.register("split_table", feather.read_table(path))
        relation = "split_table"
    elif suffix == ".parquet":
        relation = f"read_parquet({quoted(str(path))})"
    else:
        relation = f"read_csv({quoted(str(path))}, all_varchar = true, header = true)"
    names = {row[0].lower(): row[0] for row in con.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()}
    key = next((name for name in (*KEYS, ANONYMOUS_KEY) if name in names), None)
    if key is None or "split" not in names:
        raise MedcodeError(
            f"data.split_file {path}: expected a column split and one of {', '.join((*KEYS, ANONYMOUS_KEY))}; "
            f"{found_columns(list(names))}"
        )
    select = (
        # pandas writes ids with a missing one among them as 100001.0
        f"SELECT DISTINCT regexp_replace(CAST(\"{names[key]}\" AS VARCHAR), '\\.0$', '') AS id, "
        f'lower(CAST("{names["split"]}" AS VARCHAR)) AS split '
        f"FROM {relation}"
    )
    return select, key, [path]


def _name_splits(con: "duckdb.DuckDBPyConnection", path: Path) -> None:
    """Give the splits our names."""
    for split, names in SPLITS.items():
        con.execute("UPDATE published_splits SET split = ? WHERE list_contains(?, trim(split))", [split, list(names)])
    unknown = con.execute(
        "SELECT DISTINCT split FROM published_splits WHERE NOT list_contains(?, split) ORDER BY split", [list(SPLITS)]
    ).fetchall()
    if unknown:
        raise MedcodeError(
            f"data.split_file {path}: split {unknown[0][0]!r} is none of train, validation (val, dev) and test"
        )


def _likelier_key(con: "duckdb.DuckDBPyConnection") -> str:
    """Tell which ids a column `_id` holds: those of which more are here."""
    ids = "SELECT id FROM published_splits"
    admissions = one_value(con, f"SELECT count(*) FROM facts WHERE CAST(hadm_id AS VARCHAR) IN ({ids})")
    notes = one_value(con, f"SELECT count(*) FROM discharge_notes WHERE CAST(note_id AS VARCHAR) IN ({ids})")
    return "note_id" if notes > admissions else "hadm_id"
