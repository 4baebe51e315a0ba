"""Arrow files and streams of unknown origin, read so that a damaged one ends in an error and not the process."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


@contextmanager
def arrow_batches(path: Path) -> Iterator[tuple[list[str], Iterator["pa.RecordBatch"]]]:
    """Give the columns and the batches of Arrow's stream, as `datasets` writes it, or its file, also feather's.

    Raises:
        pyarrow.ArrowException: it is neither, cut off, or broken; as it is opened, or by a batch.
        OSError: it cannot be read.
    """
    import pyarrow as pa

    # No memory map: a file that is cut off would end the process as it is read.
    with pa.OSFile(str(path)) as source:
        try:
            stream: Any = pa.ipc.open_stream(source)
        except pa.ArrowInvalid:
            source.seek(0)
            file = pa.ipc.open_file(source)
            yield file.schema.names, whole(map(file.get_batch, range(file.num_record_batches)))
        else:
            yield stream.schema.names, whole(stream)


def whole(batches: Iterable["pa.RecordBatch"]) -> Iterator["pa.RecordBatch"]:
    """Yield batches that were looked through. Raises ArrowInvalid at one that is damaged."""
    for batch in batches:
        batch.validate(full=True)  # else damaged offsets are read, wherever in memory they lead
        yield batch
