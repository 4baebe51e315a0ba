"""`dataset_with_answers_{specialty}.json`: question-answer files of one specialty each, read and checked row by row.

A file is a JSON list of objects, or one object a line. An object has a question (`question` or `input`), an answer
(`answer`, `output` or `generated_answer`), and perhaps `id` and `options` (a list of texts, or texts by their label).
A row whose answer is null or blank is left out and counted. Everything else that is wrong ends the reading.
"""

import hashlib
import json
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medcode_serving.bundle import file_sha256
from medcode_serving.errors import MedcodeError

FILE = re.compile(r"dataset_with_answers_(?P<specialty>.+)\.jsonl?")
NAME = re.compile(r"[^\W_][\w .,&'()+-]*")
"""Of a specialty: it stands in tables, pictures, spreadsheets and settings, which give other characters a meaning."""
ALL = "all"
"""What tables call all specialties together."""
QUESTION = ("question", "input")
ANSWER = ("answer", "output", "generated_answer")
SYNTHETIC = "synthetic"
"""The source that is made from templates."""
LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Item:
    """A question of a specialty with what answers it."""

    id: str
    """`<specialty>:<its id>`; of a row without one, a hash of its question."""
    specialty: str
    question: str
    """As it is asked, with its options."""
    answers: tuple[str, ...]
    """The first is taught; all are right."""
    options: tuple[str, ...] = ()
    """Completions to choose from, if the first answer is one of them."""
    correct: int | None = None
    key: str = ""
    """Hash of the question as identical ones are found."""


@dataclass(frozen=True)
class Read:
    """What was read of a specialty."""

    rows: int
    unanswered: int
    """Rows left out because their answer is null or blank."""
    duplicates: int = 0
    """Rows whose question was there already, in this file or an earlier one; their answers count as right there."""


@dataclass(frozen=True)
class Specialties:
    """Every question of a source."""

    items: list[Item]
    """No question twice."""
    read: dict[str, Read]
    """By specialty."""
    files: dict[str, str]
    """sha256 of each file by name."""

    def contents(self) -> dict[str, str]:
        """Return a sha256 by specialty over the sorted ids and contents of its questions."""
        return {name: contents_hash(item for item in self.items if item.specialty == name) for name in self.read}


def contents_hash(items: Iterable[Item]) -> str:
    """Return a sha256 over the sorted ids and contents of questions."""
    lines = sorted(json.dumps([item.id, item.question, item.answers, item.options, item.correct]) for item in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_source(source: str, *, synthetic_per_specialty: int, seed: int) -> Specialties:
    """Return the questions of a folder, or those made from templates.

    Args:
        source: A folder, or `synthetic`.
        synthetic_per_specialty: Questions of each, from templates.
        seed: Of the templates.

    Raises:
        MedcodeError: as `read_folder` does.
    """
    if source != SYNTHETIC:
        return read_folder(Path(source))
    from medcode_assets.corpora.synthetic_specialties import write_synthetic_specialties

    with tempfile.TemporaryDirectory(prefix="medcode-specialties-") as folder:
        write_synthetic_specialties(Path(folder), per_specialty=synthetic_per_specialty, seed=seed)
        return read_folder(Path(folder))


def read_folder(folder: Path) -> Specialties:
    """Return the questions of all specialty files of a folder, identical ones merged.

    Raises:
        MedcodeError: there is no such folder or file, a file is empty, broken or not UTF-8, or a row is wrong.
    """
    if not folder.is_dir():
        raise MedcodeError(f"{folder}: no such folder; specialty.source names one of dataset_with_answers_*.json files")
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if match := FILE.fullmatch(file.name):
            if not NAME.fullmatch(match["specialty"]) or match["specialty"] == ALL:
                raise MedcodeError(
                    f"{folder}: {ascii(file.name)} names no specialty; use letters, digits, blanks, _.,&'()+- "
                    f"in the file's name, a letter or digit first, and not `{ALL}`"
                )
            earlier = found.setdefault(match["specialty"], file)
            if earlier != file:
                raise MedcodeError(f"{file}: {earlier.name} is of the same specialty; keep one of them")
    if not found:
        raise MedcodeError(f"{folder}: no file dataset_with_answers_{{specialty}}.json (or .jsonl) in it")
    read: dict[str, Read] = {}
    items: dict[str, Item] = {}
    for specialty, file in found.items():
        rows, own = _read_file(file, specialty)
        repeated = _merge(items, own)
        read[specialty] = Read(rows, rows - len(own), repeated)
    return Specialties(list(items.values()), read, {file.name: file_sha256(file) for file in found.values()})


def question_key(question: str, options: Iterable[str] = ()) -> str:
    """Return the hash by which identical questions are found.

    Case, white space, Unicode's forms, closing punctuation and the order of the options make no difference.
    """
    text = "\n".join([_plain(question), *sorted(map(_plain, options))])
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(text: str) -> str:
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.rstrip(" ?.:!…-–") or folded


def _merge(items: dict[str, Item], new: Iterable[Item]) -> int:
    """Add questions by their key; return how many were there already."""
    repeated = 0
    for item in new:
        earlier = items.setdefault(item.key, item)
        if earlier is not item:
            repeated += 1
            items[item.key] = replace(earlier, answers=tuple(dict.fromkeys((*earlier.answers, *item.answers))))
    return repeated


def _read_file(file: Path, specialty: str) -> tuple[int, list[Item]]:
    rows, items = 0, []
    ids: dict[str, str] = {}
    for place, row in _rows(file):
        rows += 1
        item = _item(f"{file}, {place}", specialty, row)
        if item is None:
            continue
        if row.get("id") is not None and (earlier := ids.setdefault(item.id, place)) != place:
            raise MedcodeError(f"{file}, {place}: its id is that of {earlier}; give each question one of its own")
        items.append(item)
    if not items:
        reason = f"none of its {rows} rows has an answer" if rows else "it has no rows"
        raise MedcodeError(f"{file}: {reason}; fill it, or take it out of the folder")
    return rows, items


def _rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give each row with what to call it: `row 3` of a list, `line 3` of a file of lines, both from 1."""
    text = _text(file)
    if text.lstrip().startswith("["):
        rows = _parsed(text, str(file), first_line=1)
        named = ((f"row {number}", row) for number, row in enumerate(rows, 1))
    else:
        lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
        named = ((f"line {number}", _parsed(line, str(file), number)) for number, line in lines)
    for place, row in named:
        if not isinstance(row, dict):
            raise MedcodeError(f"{file}, {place}: {_kind(row)}, not an object with question and answer")
        yield place, row


def _text(file: Path) -> str:
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise MedcodeError(f"{file}: {error.strerror}; specialty files are plain JSON files") from None
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise MedcodeError(f"{file}: it is UTF-16; save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise MedcodeError(
            f"{file}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8 (Windows-1252 in a UTF-8 file?); convert "
            "the file as a whole, as with `iconv -f WINDOWS-1252 -t UTF-8`, or mend that line"
        ) from None


def _parsed(text: str, file: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise MedcodeError(
            f"{file}, line {line}: broken JSON ({error.msg}, column {error.colno}); a file is a list of objects, or "
            "one object a line"
        ) from None
    except (ValueError, RecursionError):
        raise MedcodeError(f"{file}, line {first_line}: JSON with a number too long or nested too deep") from None


def _item(where: str, specialty: str, row: Mapping[str, Any]) -> Item | None:
    """Return a row's question; None if it has no answer."""
    question = _field(where, row, QUESTION)
    if question is None:
        raise MedcodeError(f"{where}: the question is null or blank; fill it, or take the row out")
    options = _options(where, row.get("options"))
    answer = _field(where, row, ANSWER)
    if answer is None:
        return None
    key = question_key(question, options.values())
    own = row.get("id")
    if own is not None and (isinstance(own, bool) or not isinstance(own, (str, int))):
        raise MedcodeError(f"{where}: id is {_kind(own)}; give a text or a whole number")
    choices, correct = _choices(options, answer)
    return Item(
        id=f"{specialty}:{key[:16] if own is None else _clean(where, str(own), 'id')}",
        specialty=specialty,
        question="\n".join([question, *(f"{label}. {text}" for label, text in options.items())]),
        answers=(answer,),
        options=choices,
        correct=correct,
        key=key,
    )


def _field(where: str, row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """Return the text of the first of some fields that a row has; None if it is null or blank."""
    name = next((name for name in names if name in row), None)
    if name is None:
        raise MedcodeError(f"{where}: no field {names[0]!r} (nor {', '.join(map(repr, names[1:]))})")
    value = row[name]
    if value is not None and not isinstance(value, str):
        raise MedcodeError(f"{where}: {name} is {_kind(value)}, not a text")
    return _clean(where, value, name) if value and value.strip() else None


def _clean(where: str, text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MedcodeError(f"{where}: {name} has half a character (a lone surrogate \\ud800-\\udfff)") from None
    return text.strip()


def _options(where: str, value: Any) -> dict[str, str]:
    """Return options by label."""
    if value is None:
        return {}
    if isinstance(value, list) and len(value) <= len(LABELS):
        value = dict(zip(LABELS, value, strict=False))
    if not isinstance(value, dict):
        raise MedcodeError(f"{where}: options is {_kind(value)}; give at most {len(LABELS)} texts, or texts by label")
    for label, text in value.items():
        if not isinstance(text, str) or not text.strip():
            raise MedcodeError(f"{where}: an option is {_kind(text)} or blank, not a text")
        _clean(where, label, "options")
    return {label: _clean(where, text, "options") for label, text in value.items()}


def _choices(options: Mapping[str, str], answer: str) -> tuple[tuple[str, ...], int | None]:
    """Return the completions to choose from, and which is right, if the answer is one option's text or label."""
    for choices in (list(options.values()), list(options)):
        plain = [_plain(choice) for choice in choices]
        if plain.count(_plain(answer)) == 1:
            correct = plain.index(_plain(answer))
            return tuple(answer if place == correct else choice for place, choice in enumerate(choices)), correct
    return (), None


def _kind(value: Any) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else names[type(value)]
