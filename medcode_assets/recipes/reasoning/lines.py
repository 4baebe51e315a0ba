"""Reading the stages' JSONL files line by line: a line that cannot be read is a named problem, never skipped."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from stat import S_ISREG
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from medcode_assets.recipes.reasoning.formats import LINE_OF, STAGES, Line, Message
from medcode_serving.errors import MedcodeError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ESCAPED_HALF = b"\\ud"
"""Begins the escape of half a character beyond the first 65,536; alone it is no text, and no file can hold it."""


class _TwiceError(ValueError):
    """An object has a field twice."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a line, or with a file as a whole."""

    kind: str
    """A key of rules.yaml."""
    line: int
    """From 1; 0: not of a line."""
    detail: str
    """Codes, counts and field names; never text of a narrative."""


def read_lines(path: Path, stage: int) -> Iterator[tuple[int, Line | Problem]]:
    """Read a file of a stage, one line at a time; blank lines count for nothing.

    Args:
        path: A JSONL file in UTF-8.
        stage: 1, 2 or 3.

    Yields:
        (line number from 1, what the line holds or why it cannot be read).

    Raises:
        MedcodeError: the file cannot be opened, or there is no such stage.
    """
    if stage not in LINE_OF:
        raise MedcodeError(f"{path}: stage {stage} is unknown; stages are {', '.join(map(str, STAGES))}")
    for number, raw in _numbered(path):
        record = _record(raw, number)
        yield number, record if isinstance(record, Problem) else _validated(record, number, stage)


def detect_stage(path: Path) -> int:
    """Return the stage whose lines a file holds, by its first line that tells.

    Raises:
        MedcodeError: the file cannot be opened, or no line tells.
    """
    refuse_no_file(path)
    unreadable, lines = None, 0
    for number, raw in _numbered(path):
        record = _record(raw, number)
        lines += 1
        if isinstance(record, Problem):
            unreadable = unreadable or record
        elif (stage := _stage_of(record)) is not None:
            return stage
    if not lines:
        raise MedcodeError(f"{path}: has no lines; look whether what made the file ended well")
    first = f" (line {unreadable.line}: {unreadable.detail})" if unreadable else ""
    raise MedcodeError(
        f"{path}: no line tells of which stage it is, by _metadata or by chosen and rejected{first}; correct its "
        "lines, or name the stage of the file that is checked with --stage"
    )


def refuse_no_file(path: Path) -> None:
    """Refuse what is not there, and what can be read once only: files are read twice.

    Raises:
        MedcodeError: it is no file.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise MedcodeError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise MedcodeError(f"{str(path)!r}: no name of a file") from None
    if not S_ISREG(mode):
        raise MedcodeError(f"{path}: no file; name a JSONL file (a pipe cannot be read twice)")


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, without a byte order mark."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if number == 1:
                    raw = raw.removeprefix(_BYTE_ORDER_MARK)
                if raw.strip():
                    yield number, raw
    except OSError as error:
        raise MedcodeError(f"{path}: cannot be read ({error.strerror})") from None


def _record(raw: bytes, number: int) -> dict[str, Any] | Problem:
    """Return a line's JSON object."""
    try:
        text = raw.rstrip().decode()  # a line break would make the next line's column 1 of a missing end
    except UnicodeDecodeError as error:
        return Problem("not_utf8", number, f"byte {error.start + 1} of the line is not UTF-8")
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        return Problem("not_json", number, f"column {error.colno}: {error.msg}")
    except _TwiceError:
        return Problem("not_json", number, "a field stands twice in one object")
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets a thousand deep
        return Problem("not_json", number, "a number too long or brackets too deep")
    if not isinstance(value, dict):
        return Problem("not_json", number, f"a {type(value).__name__} where an object is expected")
    if _ESCAPED_HALF in raw.lower() and not _is_text(value):
        return Problem("not_json", number, "half of a character (\\ud800 to \\udfff without its other half)")
    return value


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _TwiceError
    return value


def _is_text(value: object) -> bool:
    """Whether UTF-8 can hold all strings of a JSON value."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def _validated(record: dict[str, Any], number: int, stage: int) -> Line | Problem:
    try:
        return LINE_OF[stage].model_validate(record)
    except ValidationError as error:
        # Without the input: it is narrative text.
        errors = error.errors(include_input=False, include_url=False, include_context=False)
        for one in errors:
            if one["type"] == "literal_error" and one["loc"][-1] == "code_type":
                return Problem("unknown_code_type", number, "_metadata.code_type: expected ICD10, CPT or HCPCS")
        other = _stage_of(record)
        hint = f"; it looks like a line of stage {other}" if other not in (None, stage) else ""
        more = f"; {len(errors) - 1} more" if len(errors) > 1 else ""
        return Problem("schema", number, f"{_said(errors[0])}{more}{hint}")


def _said(error: ErrorDetails) -> str:
    """Return which field is wrong, and how."""
    field = ".".join(map(_named, error["loc"]))
    said = error["msg"].removeprefix("Value error, ")
    return f"{field}: {said}" if field else said


def _named(part: int | str) -> str:
    """Return a place in a line; an unknown field only if it looks misspelt, as its name may be of the text."""
    known = isinstance(part, int) or get_close_matches(part, _field_names(), n=1, cutoff=0.8)
    return str(part) if known else "(another field)"


@cache
def _field_names() -> tuple[str, ...]:
    models: list[type[BaseModel]] = [Message, *LINE_OF.values()]
    models += [model.model_fields["metadata"].annotation for model in LINE_OF.values()]  # type: ignore[misc]
    return tuple(sorted({field.alias or name for model in models for name, field in model.model_fields.items()}))


def _stage_of(record: Mapping[str, Any]) -> int | None:
    """Return the stage that a line's fields are of, None if they do not tell."""
    if "chosen" in record or "rejected" in record:
        return 3
    metadata = record.get("_metadata")
    if not isinstance(metadata, Mapping):
        return None
    if "reasoning_present" in metadata or "reasoning_quality" in metadata:
        return 2
    return 1 if "code_valid" in metadata else None
