"""What assets tell about themselves in the UI: row counts, schemas, aggregate previews, pictures. Never note text."""

import base64
from typing import TYPE_CHECKING, Any

import dagster as dg

from medcode_assets.warehouse import Built

if TYPE_CHECKING:
    import duckdb


def table_metadata(con: "duckdb.DuckDBPyConnection", built: Built, preview: str | None = None) -> dict[str, Any]:
    """Return the metadata of a table.

    Args:
        con: Connection of its warehouse.
        built: How it was made.
        preview: A query that aggregates; its rows are shown, so it must never select text or patients.
    """
    columns = con.execute(f"DESCRIBE {built.table}").fetchall()
    metadata: dict[str, Any] = {
        "dagster/row_count": built.rows,
        "dagster/column_schema": dg.TableSchema([dg.TableColumn(row[0], row[1]) for row in columns]),
        "fingerprint": built.fingerprint,
        "unchanged": built.skipped,
    }
    if preview:
        metadata["preview"] = query_table(con, preview)
    return metadata


def query_table(con: "duckdb.DuckDBPyConnection", query: str) -> dg.MarkdownMetadataValue:
    """Return an aggregate query's rows as a markdown table, which the UI renders wide."""
    result = con.execute(query)
    names = [column[0] for column in result.description]
    return markdown_table(names, result.fetchall())


def markdown_table(names: list[str], rows: list[tuple[Any, ...]]) -> dg.MarkdownMetadataValue:
    """Return rows as a markdown table."""
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows]
    return dg.MetadataValue.md("\n".join(lines))


def picture(png: bytes, alt: str) -> dg.MarkdownMetadataValue:
    """Return a PNG as metadata; Dagster has no image type, so it goes in as markdown."""
    return dg.MetadataValue.md(f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})")


def mlflow_metadata(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the MLflow run that an artifact's facts name; as a link where a server shows it."""
    metadata = {name: facts[name] for name in ("mlflow_run", "mlflow_uri") if facts.get(name)}
    if facts.get("mlflow_link"):
        metadata["mlflow_link"] = dg.MetadataValue.url(facts["mlflow_link"])
    return metadata


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value).replace("|", "\\|")
