"""A row of MedMCQA's shape: question, opa to opd, cop, exp, subject_name; and from where cop counts."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medcode_serving.errors import MedcodeError

OPTIONS = ("opa", "opb", "opc", "opd")
LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
UNKNOWN = "Unknown"
"""Subject of a question that names none, as MedMCQA has it."""
NOT_TOLD = -1
"""The hub's test split has this in the place of the right option."""

_BLANK = re.compile(r"\s+")
_UNSEEN = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b-\u200f\u2060\ufeff]")


@dataclass(frozen=True, slots=True)
class ExamRow:
    """One question, as a source has it; texts without superfluous blanks."""

    question: str
    options: tuple[str, ...]
    """Four, empty where one is missing; none of an open question."""
    cop: int | None
    """The right option as the source counts; once `numbered`, from 0. None: not told."""
    answer: str
    """Of an open question."""
    explanation: str
    subject: str
    split: str | None
    """The source's own split."""
    part: str
    """File or split of the hub that it stands in."""
    place: str
    """There, from 1: `row 7`, or `line 7` of a file of lines."""
    withheld: bool = False
    """The source does not tell the right option, and says so."""


def exam_row(record: Any, part: str, place: str, split: str | None) -> ExamRow:
    """Return a row as it was read.

    Args:
        record: What stands there.
        part: File or split of the hub.
        place: `row 7` or `line 7`.
        split: The source's own split.

    Raises:
        MedcodeError: a column is missing, or a value has another type; names file, row and column, never the text.
    """
    if not isinstance(record, Mapping):
        raise MedcodeError(f"{part}, {place}: a {type(record).__name__} where an object with columns is expected")
    where = f"{part}, {place}"
    if "question" not in record:
        raise MedcodeError(f"{where}: no column question; the file needs question, {', '.join(OPTIONS)} and cop")
    given = [name for name in OPTIONS if name in record]
    if given and ("cop" not in record and split != "test"):
        raise MedcodeError(f"{where}: no column cop, which says the right option; take a file with answers")
    if given and len(given) < len(OPTIONS):
        missing = next(name for name in OPTIONS if name not in record)
        raise MedcodeError(f"{where}: no column {missing}; the file needs {', '.join(OPTIONS)}, or none for open ones")
    if not given and not {"answer", "exp"} & set(record):
        raise MedcodeError(
            f"{where}: no columns {', '.join(OPTIONS)}, and no column answer; open questions need an answer"
        )
    options = tuple(_text(record, name, where) for name in OPTIONS) if given else ()
    explanation = _text(record, "exp", where, paragraphs=True)
    return ExamRow(
        question=_text(record, "question", where),
        options=unlabelled(options) if any(options) else (),
        cop=_cop(record.get("cop"), where),
        answer=_text(record, "answer", where) or ("" if any(options) else explanation),
        explanation=explanation,
        subject=_text(record, "subject_name", where) or UNKNOWN,
        split=split,
        part=part,
        place=place,
        withheld=record.get("cop") == NOT_TOLD or "cop" not in record,
    )


def _text(record: Mapping[str, Any], column: str, where: str, *, paragraphs: bool = False) -> str:
    value = record.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise MedcodeError(f"{where}: column {column} is a {type(value).__name__}; expected text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MedcodeError(f"{where}: column {column} has half a character (a lone surrogate); mend it") from None
    seen = _UNSEEN.sub("", value)
    if not paragraphs:
        return _BLANK.sub(" ", seen).strip()
    return "\n".join(line for line in (_BLANK.sub(" ", line).strip() for line in seen.splitlines()) if line)


def _cop(value: Any, where: str) -> int | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        raise MedcodeError(
            f'{where}: column cop is text; expected the number of the right option: 2 and not "2", and not its letter'
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value % 1:  # infinity % 1 is no number
        raise MedcodeError(
            f"{where}: column cop is a {type(value).__name__}; expected the number of the right option, or nothing"
        )
    if not NOT_TOLD <= value <= len(OPTIONS):
        raise MedcodeError(f"{where}: column cop is {int(value)}; expected a number from 0 or 1 to {len(OPTIONS)}")
    return None if value == NOT_TOLD else int(value)


def unlabelled(options: Sequence[str]) -> tuple[str, ...]:
    """Return options without letters of their own, where each begins with its own (`a) …`, `B. …`)."""
    found = [
        re.match(rf"\(?{letter}\s*[.)]\s*(?=\S)", option, re.IGNORECASE)
        for letter, option in zip(LABELS, options, strict=False)
    ]
    if options and all(found):
        return tuple(option[match.end() :] for option, match in zip(options, found, strict=True) if match)
    return tuple(options)


def cop_base(rows: Sequence[ExamRow], wanted: str, told: int | None) -> tuple[int, str]:
    """Return from which number a source counts its options, and why.

    Args:
        rows: All rows of the source.
        wanted: Setting `medqa.cop_base`.
        told: What the source itself says, as where its column is one of names (a ClassLabel); None: nothing.

    Raises:
        MedcodeError: nothing tells, or rows contradict each other or the setting.
    """
    from_zero = next((row for row in rows if row.options and row.cop == 0), None)
    from_one = next((row for row in rows if row.options and row.cop == len(OPTIONS)), None)
    if from_zero and from_one:
        raise MedcodeError(
            f"column cop is 0 in {_place(from_zero)} and {len(OPTIONS)} in {_place(from_one)}; correct one of them, "
            "for options are counted from 0 or from 1"
        )
    seen = 0 if from_zero else 1 if from_one else None
    if wanted != "auto":
        contradicting = from_zero or from_one
        if contradicting and seen != int(wanted):
            raise MedcodeError(
                f"medqa.cop_base is {wanted}, and column cop is {contradicting.cop} in {_place(contradicting)}; "
                f"set {seen} or auto"
            )
        return int(wanted), "as medqa.cop_base says"
    if told is not None:
        if seen not in (None, told):
            raise MedcodeError(
                f"{rows[0].part}: says that column cop counts from {told}, and it is "
                f"{0 if from_zero else len(OPTIONS)} in {_place(from_zero or from_one or rows[0])}; set medqa.cop_base"
            )
        return told, "as the source says"
    if seen is not None:
        return seen, f"column cop is {0 if seen == 0 else len(OPTIONS)} in {_place(from_zero or from_one or rows[0])}"
    if not any(row.options and row.cop is not None for row in rows):
        return 0, "no question with options has an answer"
    part = next(row.part for row in rows if row.options and row.cop is not None)
    raise MedcodeError(
        f"{part}: column cop is never 0 and never {len(OPTIONS)}, so nothing tells whether it counts from 0 or 1; "
        "set medqa.cop_base (the authors' JSON files: 1, the hub: 0)"
    )


def numbered(rows: Iterable[ExamRow], base: int) -> list[ExamRow]:
    """Return rows whose right option is counted from 0."""
    return [row if row.cop is None or not row.options else replace(row, cop=row.cop - base) for row in rows]


def _place(row: ExamRow) -> str:
    return f"{row.part}, {row.place}"
