"""Reading the stages' JSONL files line by line: a line that cannot be read is a named problem, never skipped."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from medcode_assets.recipes.reasoning.formats import LINE_OF, STAGES, Line
from medcode_serving.errors import MedcodeError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FIELD_NAME = re.compile(r"\w[\w.-]{0,39}", re.ASCII)


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
    for number, raw in _numbered(path):
        record = _record(raw, number)
        stage = None if isinstance(record, Problem) else _stage_of(record)
        if stage is not None:
            return stage
    raise MedcodeError(
        f"{path}: no line tells of which stage it is, by _metadata or by chosen and rejected; correct its lines, or "
        "name the stage of the file that is checked with --stage"
    )


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
        value = json.loads(text)
    except json.JSONDecodeError as error:
        return Problem("not_json", number, f"column {error.colno}: {error.msg}")
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets a thousand deep
        return Problem("not_json", number, "a number too long or brackets too deep")
    if not isinstance(value, dict):
        return Problem("not_json", number, f"a {type(value).__name__} where an object is expected")
    return value


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
    field = ".".join(str(part) if _FIELD_NAME.fullmatch(str(part)) else "(a field)" for part in error["loc"])
    said = error["msg"].removeprefix("Value error, ")
    return f"{field}: {said}" if field else said


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
