"""Tokens in a file that training maps into memory: a row is read when a step needs it, by any number of processes.

Written from the warehouse batch by batch, so neither side ever holds the data set.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medcode_assets.writing import refusing_unwritable
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

BATCH = 1024
"""Rows that are written, and mapped, together."""
EXAMPLE = "example_id"


def write_tokens(con: "duckdb.DuckDBPyConnection", query: str, file: Path, parameters: Sequence[object] = ()) -> int:
    """Write a query's rows (`example_id` and columns of token ids) to an Arrow file; returns their number.

    The file is written aside and renamed.

    Raises:
        MedcodeError: the disk is full or the folder cannot be written.
    """
    reader = con.sql(query, params=list(parameters)).to_arrow_reader(BATCH)
    return write_batches(reader, reader.schema, file)


def write_batches(batches: "Iterable[pa.RecordBatch]", schema: "pa.Schema", file: Path) -> int:
    """Write batches of `example_id` and columns of token ids to an Arrow file, aside and renamed; returns the rows.

    Raises:
        MedcodeError: the disk is full or the folder cannot be written.
    """
    import pyarrow as pa

    aside = file.with_suffix(".part")
    rows = 0
    with refusing_unwritable(file), pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    aside.replace(file)
    return rows


class TokenFile:
    """Rows of an Arrow file in the order of their example ids, each read when it is asked for.

    Only ids and lengths are in memory: 20 bytes an example.
    """

    def __init__(self, file: Path) -> None:
        """Map the file. Raises MedcodeError if it is not there or cut off."""
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(file)))
        except (OSError, pa.ArrowInvalid) as error:
            raise MedcodeError(f"{file}: no token file ({type(error).__name__}); train with --drop-existing") from None
        self.columns = [name for name in self._reader.schema.names if name != EXAMPLE]
        ids: list[np.ndarray] = []
        lengths: dict[str, list[np.ndarray]] = {name: [] for name in self.columns}
        starts = [0]
        for index in range(self._reader.num_record_batches):
            batch = self._reader.get_batch(index)
            ids.append(batch.column(EXAMPLE).to_numpy(zero_copy_only=False))
            for name in self.columns:
                lengths[name].append(pc.list_value_length(batch.column(name)).to_numpy(zero_copy_only=False))
            starts.append(starts[-1] + batch.num_rows)
        self._starts = np.array(starts)
        all_ids = np.concatenate(ids) if ids else np.array([], dtype=np.int64)
        self._order = np.argsort(all_ids, kind="stable")
        self.example_ids = all_ids[self._order]
        self.lengths: dict[str, np.ndarray] = {
            name: (np.concatenate(parts).astype(np.int32) if parts else np.array([], np.int32))[self._order]
            for name, parts in lengths.items()
        }
        self.reference: np.ndarray | None = None
        """Log-probabilities under the untrained model, by place, for an objective that needs them."""
        self._batch: tuple[int, pa.RecordBatch] | None = None

    def __len__(self) -> int:
        return len(self.example_ids)

    def __getitem__(self, place: int) -> dict[str, np.ndarray]:
        """Return the token ids of an example, by column."""
        row = int(self._order[place])
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        if self._batch is None or self._batch[0] != index:
            self._batch = index, self._reader.get_batch(index)
        inside = row - int(self._starts[index])
        return {name: self._batch[1].column(name)[inside].values.to_numpy() for name in self.columns}
