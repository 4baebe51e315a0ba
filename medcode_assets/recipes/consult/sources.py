"""Rows of conversations from wherever they are: a hub data set, a local file or folder, or made ones.

Whatever the source, a row becomes a `Conversation`, and what is wrong with one is told with its place. Rows without a
doctor's answer are left out and counted, as are repeated ones.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.recipes.consult.files import Row, file_rows, refuse_missing
from medcode_assets.recipes.consult.settings import SYNTHETIC, ConsultSection
from medcode_assets.warehouse import fingerprint
from medcode_serving.bundle import file_sha256
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("Description", "Patient", "Doctor", "Status")
ORIGINAL, SUCCESS = "_original_doctor", "_conversion_success"
"""Columns of a data set that is converted already."""
_NOTHING = frozenset({"", "null", "none", "nan", "n/a", "na"})
"""What CSV files have in the place of nothing."""
_QUESTION_MARK = re.compile(r"^q(?:uestion)?\s*[.:]\s*", re.IGNORECASE)
_SAVED = ("state.json", "dataset_dict.json")
"""Files of a folder that `save_to_disk` wrote."""


@dataclass(frozen=True)
class Conversation:
    """One patient's question and the doctor's answer."""

    row: int
    """Its number in the source, from 1."""
    description: str
    patient: str
    doctor: str
    """The answer; of a data set that is converted already, the converted one."""
    status: str
    original: str | None = None
    """The answer before it was converted; None: it is not."""
    success: bool = False
    """Whether the conversion gave a hierarchical list."""

    @property
    def question(self) -> str:
        """What the model is asked: the title, unless the patient's words have it, and the patient's words."""
        title = _QUESTION_MARK.sub("", self.description)
        if not title or _plain(title) in _plain(self.patient):
            return self.patient
        return f"{title}\n\n{self.patient}" if self.patient else title

    @property
    def group(self) -> str:
        """What conversations share that must stay in one split: the patient's words, or the title without any."""
        return _plain(self.patient or self.description)


@dataclass(frozen=True)
class Conversations:
    """What a source holds."""

    rows: tuple[Conversation, ...]
    read: int
    no_answer: int
    """Rows without a doctor's answer; left out."""
    no_question: int
    """Rows without the patient's words and a title; left out."""
    repeated: int
    """Rows whose question and answer were there already; left out."""

    @property
    def converted(self) -> bool:
        """Whether the source is converted already."""
        return any(row.original is not None for row in self.rows)


def read_conversations(section: ConsultSection, cache: Path) -> Conversations:
    """Read a source.

    Args:
        section: Names it.
        cache: Folder of downloaded data sets.

    Raises:
        MedcodeError: the source is not to be had, a column is missing, or a row is wrong; the message names the row.
    """
    kept: list[Conversation] = []
    known: set[tuple[str, str]] = set()
    read = no_answer = no_question = repeated = 0
    for number, (place, row) in enumerate(source_rows(section, cache), start=1):
        read += 1
        found = _conversation(number, place, row)
        key = (_plain(found.question), _plain(found.doctor))
        if not key[1]:
            no_answer += 1
        elif not key[0]:
            no_question += 1
        elif key in known:
            repeated += 1
        else:
            known.add(key)
            kept.append(found)
    if not kept:
        raise MedcodeError(
            f"consult.source {section.source}: none of {read} rows has a question and a doctor's answer; give more"
        )
    return Conversations(tuple(kept), read, no_answer, no_question, repeated)


def source_fingerprint(section: ConsultSection) -> str:
    """Return what tells whether a source has changed; a hub data set is as its revision was when it was read.

    Raises:
        MedcodeError: a file is not there.
    """
    from medcode_assets.corpora import synthetic_conversations

    if section.source == SYNTHETIC:
        made_by = Path(synthetic_conversations.__file__)
        facts = sorted(file for file in made_by.parent.glob("*conversation*") if file.is_file())
        return fingerprint(
            count=section.count, seed=section.seed, made_by={file.name: file_sha256(file) for file in facts}
        )
    local = local_source(section.source)
    if local is None:
        return fingerprint(hub=section.source, revision=section.revision)
    return fingerprint(files=file_hashes(local))


def file_hashes(local: Path) -> dict[str, str]:
    """Return the sha256 of a file, or of each file of a folder, by its name there."""
    if local.is_file():
        return {local.name: file_sha256(local)}
    return {str(file.relative_to(local)): file_sha256(file) for file in sorted(local.rglob("*")) if file.is_file()}


def local_source(source: str) -> Path | None:
    """Return a source that is on this machine; None: it must be asked of the hub.

    Raises:
        MedcodeError: it can only be a path, and nothing is there.
    """
    try:
        path = Path(source).expanduser()
        if path.exists():
            return path
    except (OSError, RuntimeError) as error:  # a name that is too long, a home that nobody has
        raise MedcodeError(f"consult.source {source[:80]}: no usable path ({type(error).__name__})") from None
    if path.is_absolute() or source.startswith((".", "~")) or path.suffix or len(path.parts) != 2:
        raise MedcodeError(
            f"consult.source {source}: nothing there; give a file, a folder, a hub data set as owner/name, or "
            f"`{SYNTHETIC}`"
        )
    return None


def source_rows(section: ConsultSection, cache: Path) -> Iterator[tuple[str, Row]]:
    """Yield each row of a source with its place, for messages. Raises MedcodeError as `read_conversations` does."""
    if section.source == SYNTHETIC:
        from medcode_assets.corpora.synthetic_conversations import synthetic_conversations

        rows = synthetic_conversations(section.count, section.seed)
        yield from ((f"{SYNTHETIC}, row {number}", row) for number, row in enumerate(rows, start=1))
        return
    local = local_source(section.source)
    if local is None:
        yield from _rows_of(_dataset_on_hub(section, cache), section.source, COLUMNS)
    else:
        yield from file_rows(local, COLUMNS) if local.is_file() else dataset_rows(local, COLUMNS)


def dataset_rows(local: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Yield each row of a data set in a folder with its place. Raises MedcodeError if it is none, or lacks a column."""
    return _rows_of(_dataset_on_disk(local), str(local), columns)


def _rows_of(found: "Mapping[str, Dataset]", source: str, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    for name, split in found.items():
        place = f"{source}, split {name}"
        refuse_missing(place, columns, split.column_names)
        number = 0
        try:
            for number, row in enumerate(split, start=1):
                yield f"{place}, row {number}", row
        except (ValueError, OSError) as error:  # bytes that are no UTF-8 among them
            raise MedcodeError(
                f"{place}: broken behind row {number} ({type(error).__name__}); make or fetch it anew"
            ) from None


def _dataset_on_disk(local: Path) -> "Mapping[str, Dataset]":
    import datasets

    try:
        if any((local / name).is_file() for name in _SAVED):
            found = datasets.load_from_disk(str(local))
            return {"train": found} if isinstance(found, datasets.Dataset) else found
        with tempfile.TemporaryDirectory(prefix="medcode-datasets-") as cache:
            return datasets.load_dataset(str(local.resolve()), cache_dir=cache, keep_in_memory=True)
    except Exception as error:  # noqa: BLE001 - datasets raises from pyarrow's and fsspec's hierarchies
        reason = type(error).__name__
    raise MedcodeError(
        f"{local}: no data set that can be read ({reason}); give a folder of CSV, JSONL or parquet files, or one that "
        "save_to_disk wrote"
    )


def _dataset_on_hub(section: ConsultSection, cache: Path) -> "Mapping[str, Dataset]":
    import datasets

    try:
        return datasets.load_dataset(section.source, revision=section.revision, cache_dir=str(cache))
    except Exception as error:  # noqa: BLE001 - datasets raises from the hub client's and pyarrow's hierarchies
        reason = type(error).__name__
    raise MedcodeError(
        f"consult.source {section.source!r} is not in {cache} and the hub answered {reason}; download it on a machine "
        f"with access and name its folder or file, or use the data that medcode makes: consult.source={SYNTHETIC}"
    )


def _conversation(number: int, place: str, row: Mapping[str, Any]) -> Conversation:
    texts = {column: _text(place, column, row[column]) for column in COLUMNS}
    success = row.get(SUCCESS)
    original = None if success is None else _text(place, ORIGINAL, row.get(ORIGINAL))
    return Conversation(
        number,
        texts["Description"],
        texts["Patient"],
        texts["Doctor"],
        texts["Status"],
        original,
        _truth(place, success),
    )


def _text(place: str, column: str, value: object) -> str:
    """Return a cell's text; of a missing one, none."""
    if value is None or value != value:  # CSV readers have NaN for empty cells
        return ""
    if not isinstance(value, str):
        raise MedcodeError(f"{place}: column {column} holds a {type(value).__name__}; give text or nothing")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MedcodeError(f"{place}: column {column} has half a character (a lone surrogate); mend it") from None
    text = value.replace("\r\n", "\n").replace("\x00", "").strip()
    return "" if text.lower() in _NOTHING else text


def _truth(place: str, value: object) -> bool:
    if value is None:
        return False
    if isinstance(value, str) and value.strip().lower() in {"true", "false", "1", "0"}:
        return value.strip().lower() in {"true", "1"}
    if not isinstance(value, bool):
        raise MedcodeError(f"{place}: column {SUCCESS} holds a {type(value).__name__}; give true or false")
    return value


def _plain(text: str) -> str:
    """Return a text as repeated ones are found: lower case, words only."""
    return " ".join(re.findall(r"\w+", text.casefold()))
