"""Which data a MIMIC version's warehouse holds, for the bundle that is made of it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_assets.mimic.transform import split_hash
from medcode_assets.mimic.versions import registered
from medcode_serving.bundle import DataVersion

if TYPE_CHECKING:
    import duckdb


def data_version(con: "duckdb.DuckDBPyConnection", home: Path, partition: str, train_documents: int) -> DataVersion:
    """Return the release, the sha256 of each raw table's file, and the split hash."""
    rows = con.execute("SELECT name, settings FROM made WHERE name LIKE 'raw.%' ORDER BY name").fetchall()
    sources = {name.removeprefix("raw."): json.loads(settings)["sha256"] for name, settings in rows}
    return DataVersion(
        partition=partition,
        release=registered(home, partition).release,
        sources=sources,
        split_hash=split_hash(con),
        train_documents=train_documents,
    )
