"""The journal of a run: append-only lines of JSON, on the disk before the run goes on, so that a kill loses nothing.

The output is written from it at the end and not appended to directly: answers come in any order, an output in the order
of requests would have to hold back, and lose at a kill, answers that were paid for.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from medcode_assets.locks import try_lock
from medcode_assets.writing import refusing_unwritable
from medcode_serving.errors import MedcodeError

ARGUMENTS = "arguments"
_BEGINNING = f'{{"{ARGUMENTS}":'.encode()
"""Of a journal's first line: what begins otherwise is somebody else's file, and never cut."""
GROWING = "count"
"""The one argument that a later run may raise: the requests before stay what they were."""

Record = Mapping[str, Any]


class Journal:
    """An open journal, locked against other processes."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file

    def records(self) -> Iterator[tuple[int, Record]]:
        """Yield (offset in bytes, record) of all records that are whole, without the arguments.

        Raises:
            MedcodeError: a line that is not the last is broken.
        """
        return ((offset, record) for offset, record in self._lines() if ARGUMENTS not in record)

    def replay(self, add: Callable[[int, Record], None]) -> None:
        """Give each whole record with its offset to `add`, which may raise of one that no run has written.

        Raises:
            MedcodeError: a record or a line that is not the last is broken.
        """
        for offset, record in self.records():
            try:
                add(offset, record)
            except (LookupError, TypeError, ValueError, AttributeError):
                raise self.refuse_record(offset) from None

    def at(self, offset: int) -> Record:
        """Return the record at an offset that `records` or `append` told."""
        self._file.seek(offset)
        record = _record(self._file.readline())
        if record is None:
            raise MedcodeError(f"{self._path}: changed while it was read; start anew with --drop-existing")
        return record

    def refuse_record(self, offset: int) -> MedcodeError:
        """Return what is raised for a record that no run has written."""
        return MedcodeError(
            f"{self._path}, byte {offset + 1}: a record that medcode has not written; take the line out, or "
            "start anew with --drop-existing"
        )

    def append(self, records: Sequence[Record]) -> list[int]:
        """Write records and wait until the disk has them; return their offsets.

        Raises:
            MedcodeError: the disk is full, say.
        """
        lines = [json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for record in records]
        with refusing_unwritable(self._path, "--output"):
            end = self._file.seek(0, os.SEEK_END)
            self._file.write(b"".join(lines))
            self._file.flush()
            os.fsync(self._file.fileno())
        return [end + sum(map(len, lines[:place])) for place in range(len(lines))]

    def begin(self, arguments: Mapping[str, Any]) -> None:
        """Hold the arguments of this run against those of the runs before, and keep them.

        Raises:
            MedcodeError: they differ, and something was answered already.
        """
        before: Record = {}
        answered = False
        for _, record in self._lines():
            before = record.get(ARGUMENTS, before)
            answered = answered or ARGUMENTS not in record
        if answered:
            self._refuse_other(before, arguments)
        if before != arguments:
            self.append([{ARGUMENTS: dict(arguments)}])
            self._sync_folder()

    def refuse_foreign(self) -> None:
        """Refuse a file that is no journal.

        Raises:
            MedcodeError: it begins otherwise.
        """
        self._file.seek(0)
        first = self._file.read(len(_BEGINNING))
        if not _BEGINNING.startswith(first):
            raise MedcodeError(f"{self._path}: is no journal of medcode; name another --output")

    def _refuse_other(self, before: Record, now: Mapping[str, Any]) -> None:
        for name in sorted({*before, *now}):
            was, is_ = before.get(name), now.get(name)
            if was == is_ or (name == GROWING and was is not None and is_ is not None and was < is_):
                continue
            raise MedcodeError(
                f"{self._path} was begun with {name} {_shown(was)}, and this run has {_shown(is_)}: ask as before, "
                "name another --output, or start anew with --drop-existing"
            )

    def _lines(self) -> Iterator[tuple[int, Record]]:
        """Yield the whole lines; a torn last one, of a run that was killed as it wrote, is cut off."""
        self._file.seek(0)
        offset = 0
        for number, line in enumerate(iter(self._file.readline, b""), start=1):
            record = _record(line)
            if record is None:
                if self._file.read(1):
                    raise MedcodeError(
                        f"{self._path}, line {number}: broken; take the line out, or start anew with --drop-existing"
                    )
                self._file.truncate(offset)
                return
            yield offset, record
            offset += len(line)
            self._file.seek(offset)  # whoever takes the lines may read others between them

    def _sync_folder(self) -> None:
        """Wait until the disk has the file's name, too."""
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def open_journal(path: Path, arguments: Mapping[str, Any], *, anew: bool) -> Iterator[Journal]:
    """Open a journal for a run with these arguments, or begin it.

    Args:
        path: The file.
        arguments: What decides what is asked; JSON values.
        anew: Throw away what is there.

    Raises:
        MedcodeError: another process has it, it was begun with other arguments, is broken, or cannot be written.
    """
    with refusing_unwritable(path, "--output"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        file = path.open("r+b")
    with file:
        if not try_lock(file.fileno()):
            raise MedcodeError(f"{path}: another medcode is writing it; wait for it, or name another --output")
        journal = Journal(path, file)
        journal.refuse_foreign()
        if anew:
            file.truncate(0)
        journal.begin(arguments)
        yield journal


def _record(line: bytes) -> Record | None:
    """Return what a line holds; None if it is torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
