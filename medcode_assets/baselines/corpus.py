"""Training notes as word ids on disk: read once from their source, then as often as the fit needs them."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medcode_serving.linear.text import NoteFeatures, WordTable

if TYPE_CHECKING:
    from medcode_assets.baselines.linear import Chunks

_REMEMBERED = 1_000
"""Notes: about 100 MB at MIMIC's length."""


@dataclass(frozen=True)
class Corpus:
    """Encoded notes with their gold codes."""

    table: WordTable
    words: np.ndarray
    """Word ids of all notes, one after the other; int32, on disk."""
    note_starts: np.ndarray
    """Bounds of each note in `words`, int64 [notes + 1]."""
    gold: np.ndarray
    """Code numbers of all notes, one note after the other, ascending in each; int32."""
    gold_starts: np.ndarray
    """Bounds of each note in `gold`, int64 [notes + 1]."""

    def __len__(self) -> int:
        return len(self.note_starts) - 1

    def ids(self, note: int) -> np.ndarray:
        """Return a note's word ids, int32."""
        return np.asarray(self.words[self.note_starts[note] : self.note_starts[note + 1]])

    def features(self, note: int) -> NoteFeatures:
        """Return what the scorers read of a note; the last thousand are remembered, for the folds of few notes."""
        return self._remembered(note)

    @cached_property
    def _remembered(self) -> Callable[[int], NoteFeatures]:
        return lru_cache(maxsize=_REMEMBERED)(lambda note: self.table.features(self.ids(note)))

    def phrases(self, note: int) -> np.ndarray:
        """Return a note's phrases, uint64, ascending."""
        return self.table.phrases(self.ids(note))

    def codes(self, note: int) -> np.ndarray:
        """Return a note's code numbers, int32, ascending."""
        return self.gold[self.gold_starts[note] : self.gold_starts[note + 1]]

    def pairs(self, notes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (place in `notes`, code number) of every gold code of the notes, in order."""
        gold = [self.codes(note) for note in notes.tolist()]
        places = np.repeat(np.arange(len(notes)), [len(codes) for codes in gold])
        return places, np.concatenate([np.zeros(0, np.int32), *gold])


@contextmanager
def spooled_corpus(chunks: "Chunks", codes: Sequence[tuple[str, str]], folder: Path) -> Iterator[Corpus]:
    """Read the notes once and keep their word ids in a nameless temporary file.

    Args:
        chunks: Gives notes with their gold codes.
        codes: (system, code) by number; gold codes that are not among them are left out.
        folder: Where the file is; it is gone when the fit ends, however it ends.
    """
    numbers = {code: number for number, code in enumerate(codes)}
    table = WordTable(limit=None)
    note_starts, gold_starts, gold = [0], [0], []
    with tempfile.TemporaryFile(dir=folder) as spool:
        for notes, answers in chunks():
            for note, answer in zip(notes, answers, strict=True):
                ids = table.encode(note)
                spool.write(ids.tobytes())
                note_starts.append(note_starts[-1] + len(ids))
                gold.extend(sorted({numbers[code] for code in map(tuple, answer) if code in numbers}))
                gold_starts.append(len(gold))
        spool.flush()
        words = np.memmap(spool, np.int32, "r") if note_starts[-1] else np.zeros(0, np.int32)
        yield Corpus(table, words, np.array(note_starts), np.array(gold, np.int32), np.array(gold_starts))
