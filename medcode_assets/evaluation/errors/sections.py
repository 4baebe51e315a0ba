"""Which section of a note names a code. Notes are read here and go no further: only words of titles leave."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from medcode_serving.sections import split_note

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

NOTES = 512
"""Notes held in memory at once."""

# fmt: off
NOT_WRITTEN = frozenset({
    "a", "an", "and", "as", "at", "by", "classified", "due", "elsewhere", "encounter", "for", "from", "in", "initial",
    "nec", "nonspecific", "nos", "not", "of", "on", "or", "other", "specified", "stated", "the", "to", "type",
    "unspecified", "use", "with", "without",
})
# fmt: on
"""Words of titles that say how a code system is ordered; no note is searched for them."""

_PLAIN = bytes(
    byte if byte > 127 else ord(chr(byte).lower()) if chr(byte).isalnum() else ord(" ") for byte in range(256)
)
"""What becomes of each byte of a text: ASCII letters in lower case, punctuation a space."""


def words(text: str) -> list[str]:
    """Return a text's words in lower case, without punctuation."""
    return [word.decode() for word in _plain(text).split()]


def title_words(title: str | None) -> list[str]:
    """Return the different words of a title that a note may have, in order."""
    return [word for word in dict.fromkeys(words(title or "")) if word not in NOT_WRITTEN]


def words_by_section(
    reader: "duckdb.DuckDBPyConnection", recipe: str, documents: "pa.Table", vocabulary: Sequence[str]
) -> "Iterator[tuple[pa.Table, pa.Table]]":
    """Read the notes of some documents, `NOTES` at a time.

    Args:
        reader: A cursor of its own (`second_cursor`).
        recipe: Its view `notes` has the text.
        documents: Column example_id.
        vocabulary: The words to look for.

    Yields:
        Which of the words each section has (example_id, place of the section in its note, section, word), and the
        notes' lengths (example_id, characters).
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    known = pa.array(vocabulary, pa.string())
    reader.register("analysed_ids", documents.select(["example_id"]))
    query = f"SELECT example_id, note FROM {recipe}.notes SEMI JOIN analysed_ids USING (example_id)"
    for batch in reader.sql(query).to_arrow_reader(NOTES):
        if not batch.num_rows:
            continue
        lengths = pa.table({"example_id": batch["example_id"], "characters": pc.utf8_length(batch["note"])})
        yield _found(batch, known), lengths


def _found(batch: "pa.RecordBatch", known: "pa.Array") -> "pa.Table":
    """Return the known words of each section of some notes; one that a section has twice comes twice."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = [
        (example_id, place, part.name, _plain(note[part.start : part.end]))
        for example_id, note in zip(batch["example_id"].to_pylist(), batch["note"].to_pylist(), strict=True)
        for place, part in enumerate(split_note(note))
    ]
    types = (pa.int64(), pa.int32(), pa.string(), pa.string())
    example_id, place, section, text = map(pa.array, zip(*parts, strict=True), types)
    # Arrow splits three times as fast as Python, and most words go at once.
    split = pc.ascii_split_whitespace(text)
    chosen = pc.is_in(split.flatten(), known)
    row = pc.list_parent_indices(split).filter(chosen)
    columns = [example_id.take(row), place.take(row), section.take(row), split.flatten().filter(chosen)]
    return pa.table(columns, names=["example_id", "place", "section", "word"])


def _plain(text: str) -> bytes:
    return text.encode().translate(_PLAIN)
