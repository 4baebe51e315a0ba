"""Files that are damaged on purpose."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa


def write_damaged_stream(file: Path, columns: Sequence[str], row: int) -> None:
    """Write an Arrow stream of 30 rows; the first column's offset of one row leads far beyond the file."""
    table = pa.table({name: [f"{name} text {n}" for n in range(30)] for name in columns})
    target = pa.BufferOutputStream()
    with pa.ipc.new_stream(target, table.schema) as writer:
        writer.write_table(table)
    contents = bytearray(target.getvalue().to_pybytes())
    place = contents.index(table.column(0).chunk(0).buffers()[1].to_pybytes()[:124])  # its offsets
    contents[place + 4 * row + 3] = 127
    file.write_bytes(contents)
