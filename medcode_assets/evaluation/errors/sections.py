"""Which section of a note names a code. Notes are read here and go no further: only words of titles leave."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from medcode_serving.sections import split_note

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

NOTES = 512
"""Notes held in memory at once."""

NOT_WRITTEN = frozenset(
    [
        "a",
        "an",
        "and",
        "as",
        "at",
        "by",
        "classified",
        "due",
        "elsewhere",
        "encounter",
        "for",
        "from",
        "in",
        "initial",
        "nec",
        "nonspecific",
        "nos",
        "not",
        "of",
        "on",
        "or",
        "other",
        "specified",
        "stated",
        "the",
        "to",
        "type",
        "unspecified",
        "use",
        "with",
        "without",
    ]
)
"""Words of titles that say how a code system is ordered; no note is searched for them."""

_SPACES = str.maketrans({character: " " for character in map(chr, range(128)) if not character.isalnum()})


def words(text: str) -> list[str]:
    """Return a text's words in lower case, without punctuation."""
    return text.lower().translate(_SPACES).split()


def title_words(title: str | None) -> list[str]:
    """Return the different words of a title that a note may have, in order."""
    return [word for word in dict.fromkeys(words(title or "")) if word not in NOT_WRITTEN]


def words_by_section(
    reader: "duckdb.DuckDBPyConnection", recipe: str, documents: "pa.Table", vocabulary: Iterable[str]
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

    known = frozenset(vocabulary)
    reader.register("analysed_ids", documents.select(["example_id"]))
    query = f"SELECT example_id, note FROM {recipe}.notes SEMI JOIN analysed_ids USING (example_id)"
    for batch in reader.sql(query).to_arrow_reader(NOTES):
        found = [
            (example_id, place, part.name, word)
            for example_id, note in zip(batch["example_id"].to_pylist(), batch["note"].to_pylist(), strict=True)
            for place, part in enumerate(split_note(note))
            for word in known.intersection(words(note[part.start : part.end]))
        ]
        columns = zip(*found, strict=True) if found else ([], [], [], [])
        types = (pa.int64(), pa.int32(), pa.string(), pa.string())
        arrays = [pa.array(column, type_) for column, type_ in zip(columns, types, strict=True)]
        lengths = pa.table({"example_id": batch["example_id"], "characters": pc.utf8_length(batch["note"])})
        yield pa.table(arrays, names=["example_id", "place", "section", "word"]), lengths
