"""An engine's answers to a split as one table, and the table as a score matrix."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_assets.evaluation.columns import Code, CodeColumns
from medcode_serving.engines.protocol import DEPTH, Engine, Prediction
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from scipy.sparse import csr_array

CHUNK = 256
"""Documents that an engine is given at once; engines batch inside."""

SECONDS = b"medcode.engine_seconds"


@dataclass(frozen=True)
class LabelledNotes:
    """The documents of one split: three lists of one length."""

    split: str
    """validation or test"""
    ids: Sequence[int]
    """hadm_id, all different."""
    notes: Sequence[str]
    gold: Sequence[Sequence[Code]]
    """Each document's true (system, code) pairs, those outside the vocabulary too."""

    def __len__(self) -> int:
        return len(self.ids)


def predict_documents(
    engine: Engine,
    ids: Sequence[int],
    notes: Sequence[str],
    *,
    on_progress: Callable[[int], None] | None = None,
) -> "pa.Table":
    """Let an engine answer a list of notes.

    Args:
        engine: Anything that follows the protocol.
        ids: Each note's admission (hadm_id), all different.
        notes: As many notes.
        on_progress: Told how many more notes are done.

    Returns:
        One row a predicted code, at most `DEPTH` a document, in the engine's order: hadm_id int64, rank int32 (1 is
        first), system, code, probability float64 (null where the engine tells none), truncated, dropped
        (`Prediction`'s). A document without codes keeps one row whose rank and code are null. No note text.

    Raises:
        MedcodeError: the engine cannot answer, or answered another number of notes than it was given.
    """
    import pyarrow as pa

    answers = engine.predict(notes, on_progress=on_progress)
    if len(answers) != len(ids):
        raise MedcodeError(f"engine {engine.name}: {len(answers)} answers to {len(ids)} notes; mend the engine")
    rows = [row for hadm_id, answer in zip(ids, answers, strict=True) for row in _rows(hadm_id, answer)]
    return pa.Table.from_pylist(rows, schema=_schema())


def predict_split(
    engine: Engine,
    split: LabelledNotes,
    parts: Path,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> "pa.Table":
    """Let an engine answer a split, `CHUNK` notes after the other, each kept in a file: a killed run goes on.

    Args:
        engine: Anything that follows the protocol.
        split: The notes.
        parts: Folder of the answers so far; belongs to this engine and these notes.
        on_progress: Told how many more notes are done, those of earlier runs too.

    Returns:
        As `predict_documents`. Its schema's metadata say how many seconds the engine took (`engine_seconds`).

    Raises:
        MedcodeError: as `predict_documents`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for start in range(0, len(split), CHUNK):
        file = parts / f"{split.split}-{start:08d}.parquet"
        ids, notes = split.ids[start : start + CHUNK], split.notes[start : start + CHUNK]
        if file.exists():
            if on_progress:
                on_progress(len(ids))
        else:
            started = time.monotonic()
            table = predict_documents(engine, ids, notes, on_progress=on_progress)
            write_predictions(_with_seconds(table, time.monotonic() - started), file)
        tables.append(pq.read_table(file))
    answered = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    return _with_seconds(answered, sum(map(engine_seconds, tables)))


def engine_seconds(table: "pa.Table") -> float:
    """Return how long an engine took for a table of `predict_split`; 0 if that was not recorded."""
    return float((table.schema.metadata or {}).get(SECONDS, 0.0))


def _with_seconds(table: "pa.Table", seconds: float) -> "pa.Table":
    return table.replace_schema_metadata({SECONDS: f"{seconds:.3f}"})


def write_predictions(table: "pa.Table", file: Path) -> None:
    """Write a predictions table as Parquet, aside and renamed."""
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    pq.write_table(table, aside, compression="zstd")
    aside.replace(file)


def predicted_codes(table: "pa.Table") -> set[Code]:
    """Return the different codes of a predictions table."""
    groups = table.group_by(["system", "code"]).aggregate([]).to_pylist()
    return {(group["system"], group["code"]) for group in groups if group["code"] is not None}


def score_matrix(table: "pa.Table", ids: Sequence[int], columns: CodeColumns) -> "csr_array":
    """Return the probabilities of a predictions table as float64 [documents, codes].

    Only told codes are stored. A null probability becomes 1.0: its engine decided for the code already, and
    serving keeps such codes whatever the threshold. A code that an engine names twice has its higher
    probability.

    Args:
        table: As `predict_documents` returns it.
        ids: The documents; row i is ids[i], whether or not it has codes.
        columns: The codes; must hold every predicted one (`CodeColumns.with_codes`).

    Raises:
        ValueError: a document or code of the table is not among `ids` or `columns`.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    from scipy.sparse import csr_array

    told = table.filter(pc.is_valid(table["code"]))
    names = pa.array([_key(code) for code in columns.codes], type=pa.string())
    rows = pc.index_in(told["hadm_id"], pa.array(ids, type=pa.int64()))
    keys = pc.binary_join_element_wise(told["system"], told["code"], ":")
    found = pc.index_in(keys, names)
    if rows.null_count or found.null_count:
        raise ValueError("the table names documents or codes that are not among ids and columns")
    row, column = np.asarray(rows, dtype=np.int64), np.asarray(found, dtype=np.int64)
    values = np.asarray(pc.fill_null(told["probability"], 1.0), dtype=np.float64)
    order = np.lexsort((-values, column, row))
    row, column, values = row[order], column[order], values[order]
    first = np.append(True, (row[1:] != row[:-1]) | (column[1:] != column[:-1]))[: len(row)]
    return csr_array((values[first], (row[first], column[first])), shape=(len(ids), len(columns)))


def gold_matrix(gold: Sequence[Iterable[Code]], columns: CodeColumns) -> "csr_array":
    """Return the documents' true codes as a 0/1 matrix [documents, codes]; KeyError if a code has no column."""
    from medcode_assets.evaluation.metrics import indicator_matrix

    return indicator_matrix([[columns.index_of[code] for code in codes] for codes in gold], len(columns))


def told_pairs(scores: "csr_array", gold: "csr_array") -> tuple["np.ndarray", "np.ndarray"]:
    """Return each told code's probability and whether it is gold: float64 and bool, both [told].

    Args:
        scores: Probabilities [documents, codes]; what is not stored was not told.
        gold: 0/1 matrix of the same shape.
    """
    import numpy as np

    pairs = scores.tocoo()
    if not pairs.nnz:  # an empty choice of a sparse matrix has no shape of its own
        return np.zeros(0), np.zeros(0, dtype=bool)
    return pairs.data.astype(np.float64), np.asarray(gold[pairs.row, pairs.col]).ravel() > 0


def _key(code: Code) -> str:
    return ":".join(code)


def _schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(
        [
            ("hadm_id", pa.int64()),
            ("rank", pa.int32()),
            ("system", pa.string()),
            ("code", pa.string()),
            ("probability", pa.float64()),
            ("truncated", pa.bool_()),
            ("dropped", pa.int32()),
        ]
    )


def _rows(hadm_id: int, answer: Prediction) -> list[dict[str, object]]:
    document: dict[str, object] = {"hadm_id": hadm_id, "truncated": answer.truncated, "dropped": answer.dropped}
    codes: list[dict[str, object]] = [
        {"rank": rank, "system": code.system, "code": code.code, "probability": code.probability}
        for rank, code in enumerate(answer.codes[:DEPTH], start=1)
    ]
    return [document | code for code in codes] or [document]
