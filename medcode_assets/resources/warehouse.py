"""Resource `warehouse`: DuckDB files, one a MIMIC version.

Builds on dagster-duckdb's resource for its settings. Its `get_connection` is not used: it always opens one file for
writing, retries unfairly when another step has it, and leaves it open after an exception (`medcode_assets.warehouse`).
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from dagster_duckdb import DuckDBResource
from pydantic import Field, ValidationError

from medcode_assets.config import WarehouseSettings
from medcode_assets.warehouse import open_warehouse
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import duckdb

_FIELDS = WarehouseSettings.model_fields


class Warehouse(DuckDBResource):
    """Opens the warehouse of a MIMIC version; `database` is the folder of the files."""

    memory_limit: str = Field(default="1GB", description=_FIELDS["memory_limit"].description)
    threads: int = Field(default=0, description=_FIELDS["threads"].description)
    temp_folder: str | None = Field(default=None, description=_FIELDS["temp_folder"].description)
    wait_minutes: float = Field(default=60.0, description=_FIELDS["wait_minutes"].description)

    def connect(
        self, context: dg.AssetExecutionContext, *, read_only: bool = False
    ) -> AbstractContextManager["duckdb.DuckDBPyConnection"]:
        """Open `<database>/<partition>.duckdb`; waits, and says so, while another process writes to it."""
        return open_warehouse(
            self.file(context.partition_key),
            read_only=read_only,
            settings=self._settings(),
            purpose=f"{context.asset_key.to_user_string()} of run {context.run_id[:8]}",
            on_wait=context.log.warning,
        )

    def _settings(self) -> WarehouseSettings:
        try:
            return WarehouseSettings(**{name: getattr(self, name) for name in _FIELDS})
        except ValidationError as error:
            problem = error.errors(include_input=False, include_url=False)[0]
            raise MedcodeError(f"resource warehouse: {problem['loc'][0]}: {problem['msg']}") from None

    def file(self, partition: str) -> Path:
        """Return the DuckDB file of a MIMIC version."""
        return Path(self.database) / f"{partition}.duckdb"
