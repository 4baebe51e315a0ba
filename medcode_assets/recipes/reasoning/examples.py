"""A corpus's JSONL files as tables of the warehouse, and from these the recipe's examples."""

import hashlib
from collections.abc import Iterator
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.config import DataSettings
from medcode_assets.mimic.transform import split_hash
from medcode_assets.recipes.reasoning.formats import STAGES, Line, Stage3Line
from medcode_assets.recipes.reasoning.lines import Problem, read_lines
from medcode_assets.warehouse import Built, Source, built, fingerprint, inputs, record_of, write_table
from medcode_serving.bundle import DataVersion, file_sha256
from medcode_serving.codes.systems import dotted
from medcode_serving.errors import MedcodeError
from medcode_serving.reasoned import MARKERS

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

SPLITS = ("train", "validation", "test")
BATCH = 2_000
"""Lines that are read into the warehouse together."""
RELEASE = "narratives"
VERSION = 1
COLUMNS = (
    "example_id BIGINT, subject_id BIGINT, split VARCHAR, narrative VARCHAR, system VARCHAR, code VARCHAR, "
    "description VARCHAR, completion VARCHAR, worse VARCHAR"
)


def _sql(name: str) -> str:
    return resources.files(__package__).joinpath("sql", f"{name}.sql").read_text()


def load_stage(con: "duckdb.DuckDBPyConnection", stage: int, corpus: Path, rebuild: bool = False) -> Built:
    """Make `reasoning.stage_<n>` from a corpus's files: one row a line.

    `worse` is what stage 3 rejects, null in the others; `subject_id` numbers what must stay in one split.

    Raises:
        MedcodeError: a line cannot be read; the corpus was changed since it was made.
    """
    files = {split: corpus / f"stage_{stage}" / f"{split}.jsonl" for split in SPLITS}
    hashes = {split: file_sha256(file) for split, file in files.items()}
    made_from = fingerprint(files=hashes, version=VERSION)
    table = f"reasoning.stage_{stage}"
    earlier = built(con, table)
    if earlier and earlier.fingerprint == made_from and not rebuild:
        return earlier
    con.execute("CREATE SCHEMA IF NOT EXISTS reasoning")

    def create() -> None:
        con.execute(f"CREATE OR REPLACE TABLE {table} ({COLUMNS})")
        number = 0
        for split, file in files.items():
            lines = _rows(file, stage, split)
            while rows := list(islice(lines, BATCH)):
                con.register("lines", _numbered(rows, number))
                con.execute(f"INSERT INTO {table} SELECT * FROM lines")
                con.unregister("lines")
                number += len(rows)

    return write_table(con, table, Source(made_from, {"sha256": hashes}), create)


def _rows(file: Path, stage: int, split: str) -> Iterator[dict[str, Any]]:
    for number, line in read_lines(file, stage):
        if isinstance(line, Problem) or line.answer.system is None or line.answer.code is None:
            raise MedcodeError(f"{file}, line {number}: changed since the corpus was made; run it with --drop-existing")
        yield _row(line, line.answer.system, line.answer.code, split)


def _row(line: Line, system: str, code: str, split: str) -> dict[str, Any]:
    group = line.metadata.group or line.narrative
    return {
        "subject_id": int.from_bytes(hashlib.sha256(group.encode()).digest()[:7]),
        "split": split,
        "narrative": line.narrative,
        "system": system,
        "code": dotted(system, code),
        "description": line.answer.description,
        "completion": line.completion,
        "worse": line.rejected if isinstance(line, Stage3Line) else None,
    }


def _numbered(rows: list[dict[str, Any]], first: int) -> "pa.Table":
    import pyarrow as pa

    names = ("subject_id", "split", "narrative", "system", "code", "description", "completion", "worse")
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in names}
    texts = {name: pa.array(values, pa.string()) for name, values in columns.items() if name != "subject_id"}
    return pa.table(
        {
            "example_id": pa.array(range(first, first + len(rows)), pa.int64()),
            "subject_id": pa.array(columns["subject_id"], pa.int64()),
            **texts,
        }
    )


def build_examples(con: "duckdb.DuckDBPyConnection", settings: DataSettings, rebuild: bool = False) -> Built:
    """Make `reasoning.labels`, `reasoning.examples` and what the factory's assets look for beside them.

    What is asked and measured are stage 2's narratives; the labels are the codes of the first two stages. The table
    `splits` holds all stages' groups, whose hash says which split a bundle was trained on.
    """
    parameters = {"systems": list(MARKERS), "markers": list(MARKERS.values())}
    tables = [f"reasoning.stage_{stage}" for stage in STAGES]
    made_from = fingerprint(
        labels=_sql("labels"), examples=_sql("examples"), parameters=parameters, inputs=inputs(con, *tables)
    )
    earlier = built(con, "reasoning.examples")
    if earlier and earlier.fingerprint == made_from and not rebuild:
        return earlier

    def create() -> None:
        con.execute(f"CREATE OR REPLACE TABLE reasoning.labels AS {_sql('labels')}", parameters)
        con.execute(f"CREATE OR REPLACE TABLE reasoning.examples AS {_sql('examples')}")
        con.execute(
            "CREATE OR REPLACE VIEW reasoning.notes AS SELECT example_id, narrative AS note FROM reasoning.stage_2"
        )
        # The task is closed: no code is asked for that training never saw.
        con.execute(
            "CREATE OR REPLACE VIEW reasoning.dictionary AS "
            "SELECT system, code, coalesce(description, code) AS description FROM reasoning.labels WHERE frequency > 0"
        )
        groups = " UNION ".join(f"SELECT subject_id, split FROM {table}" for table in tables)
        con.execute(f"CREATE OR REPLACE TABLE splits AS {groups}")

    return write_table(con, "reasoning.examples", Source(made_from, parameters), create)


def data_version(con: "duckdb.DuckDBPyConnection", home: Path, partition: str, train_documents: int) -> DataVersion:
    """Return which corpus a warehouse holds: sha256 of each stage's files, and the split hash."""
    sources = {
        f"stage_{stage}/{split}.jsonl": sha256
        for stage in STAGES
        for split, sha256 in record_of(con, f"reasoning.stage_{stage}")["sha256"].items()
    }
    return DataVersion(
        partition=partition,
        release=RELEASE,
        sources=sources,
        split_hash=split_hash(con),
        train_documents=train_documents,
    )
