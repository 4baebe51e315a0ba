"""Resource `warehouse`: DuckDB files, one a MIMIC version.

Builds on dagster-duckdb's resource for its settings. Its `get_connection` is not used: it always opens one file for
writing, retries unfairly when another step has it, and leaves it open after an exception (`medcode_assets.warehouse`).
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from dagster_duckdb import DuckDBResource

from medcode_assets.warehouse import open_warehouse

if TYPE_CHECKING:
    import duckdb


class Warehouse(DuckDBResource):
    """Opens the warehouse of a MIMIC version; `database` is the folder of the files."""

    def connect(
        self, partition: str, *, read_only: bool = False
    ) -> AbstractContextManager["duckdb.DuckDBPyConnection"]:
        """Open `<database>/<partition>.duckdb`; waits while another process writes to it."""
        file = Path(self.database) / f"{partition}.duckdb"
        return open_warehouse(file, read_only=read_only, settings=dict(self.connection_config))
