"""From what a model wrote to a line of the stage, or to the reasons why it is none."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from medcode_assets.recipes.reasoning.formats import Line, stage_1_line, stage_2_line, stage_3_line
from medcode_assets.recipes.reasoning.rules import Limits, line_problems
from medcode_assets.recipes.reasoning.support import supported_share
from medcode_assets.synthesis.requests import Request
from medcode_serving.codes.systems import SYSTEMS, dotted, undotted
from medcode_serving.codes.tables import CodeTables
from medcode_serving.codes.validation import check_code
from medcode_serving.reasoned import END_THINK, SYSTEM_OF, answer_text, code_line

REJECTIONS = {
    "no_json": "the answer holds no JSON object",
    "cut": "the answer was cut off at its largest length",
    "oversized": "the answer is many times as long as asked for",
    "too_long": "the server reads less at once than the request has",
    "refused": "the server refuses to answer this request",
    "fields_missing": "a field is missing or of another type",
    "other_code": "the answer is about another code than the one asked for",
    "no_code": "the answer's code is not in the form of its system",
    "duplicate": "the narrative is one before it, or almost",
}
"""Why an answer is no line, besides the kinds of recipes/reasoning/rules.yaml."""

_FENCE = re.compile(r"```[a-zA-Z]*")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+")
_TYPED = re.compile(r"\s*(ICD-?10(?:-?CM)?|CPT|HCPCS)\s*:\s*", re.IGNORECASE)
_DESCRIBED = re.compile(r"\s*\(.*\)\s*$", re.DOTALL)


class _RejectedError(Exception):
    """An answer is no line; the argument is the kind."""


@dataclass(frozen=True)
class Standard:
    """What an answer is held against."""

    stage: int
    limits: Limits
    tables: CodeTables
    source: str = "synthetic"


def line_of(text: str, request: Request, standard: Standard) -> Line | list[str]:
    """Return the line that an answer is for, or the kinds of what is wrong with it."""
    try:
        line = _line(text, request, standard)
    except _RejectedError as rejected:
        return [str(rejected)]
    except ValidationError:
        return ["fields_missing"]
    problems = line_problems(line, request.number + 1, standard.stage, standard.limits, standard.tables)
    return sorted({problem.kind for problem in problems}) or line


def read_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object of an answer, whatever stands around it: thoughts, prose, a code fence.

    Of several objects it is the one with the most fields, of equals the last; None if there is none.
    """
    text = _FENCE.sub("", text.rpartition(END_THINK)[2])
    return max(reversed(list(_objects(text))), key=len, default=None)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder(strict=False)  # models write line breaks into strings
    place = text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
            yield value
        except (ValueError, RecursionError):
            end = place + 1
        place = text.find("{", end)


def _line(text: str, request: Request, standard: Standard) -> Line:
    reply = read_object(text)
    if reply is None:
        raise _RejectedError("no_json")
    narrative = request.narrative or _text(reply, "narrative")
    system, code = _code(reply, request)
    checked = check_code(code, system, standard.tables)
    listed = request.code.description if request.code else None
    # The AMA's descriptions are not handed on into training data.
    description = None if system == "cpt" else checked.description or listed
    if standard.stage == 1:
        return stage_1_line(narrative, system, code, description, source=standard.source)
    points = _points(reply, "reasoning")
    if standard.stage == 2:
        quality = round(supported_share(points, narrative), 3)
        return stage_2_line(narrative, points, system, code, description, quality=quality, source=standard.source)
    chosen = answer_text(points, code_line(system, code, description))
    return stage_3_line(narrative, chosen, _rejected(reply, system, standard), source=standard.source)


def _code(reply: Mapping[str, Any], request: Request) -> tuple[str, str]:
    """Return the system and the code of an answer."""
    written = _text(reply, "code")
    typed = _TYPED.match(written)
    named = typed[1] if typed else str(reply.get("code_type", ""))
    bare = _bare(written)
    if request.code is not None:
        if undotted(bare) != undotted(request.code.code):
            raise _RejectedError("other_code")
        return request.code.system, request.code.code
    system = SYSTEM_OF.get(re.sub(r"[^A-Z0-9]", "", named.upper()).removesuffix("CM"))
    if system is None:
        raise _RejectedError("fields_missing")
    return system, _in_form(system, bare)


def _rejected(reply: Mapping[str, Any], system: str, standard: Standard) -> str:
    """Return the whole answer that is not preferred."""
    code = _in_form(system, _bare(_text(reply, "rejected_code")))
    description = None if system == "cpt" else check_code(code, system, standard.tables).description
    return answer_text(_points(reply, "rejected_reasoning"), code_line(system, code, description))


def _bare(written: str) -> str:
    """Return a code without its type before it and its description behind it."""
    return _DESCRIBED.sub("", _TYPED.sub("", written, count=1)).strip()


def _in_form(system: str, code: str) -> str:
    code = dotted(system, code)
    if not SYSTEMS[system].pattern.fullmatch(code):
        raise _RejectedError("no_code")
    return code


def _text(reply: Mapping[str, Any], field: str) -> str:
    value = reply.get(field)
    if not isinstance(value, str) or not value.strip():
        raise _RejectedError("fields_missing")
    return value.strip()


def _points(reply: Mapping[str, Any], field: str) -> list[str]:
    """Return the points of a reasoning, which may have come as one text, each on one line without its bullet."""
    value = reply.get(field)
    written = value.splitlines() if isinstance(value, str) else value
    if not isinstance(written, list) or not all(isinstance(point, str) for point in written):
        raise _RejectedError("fields_missing")
    points = [" ".join(_BULLET.sub("", point).split()) for point in written]
    if not any(points):
        raise _RejectedError("fields_missing")
    return [point for point in points if point]
