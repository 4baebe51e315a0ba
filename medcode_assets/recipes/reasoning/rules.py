"""What makes one line unfit to train on. What a problem means and what to do is data: rules.yaml."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from math import ceil
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from medcode_assets.recipes.reasoning.corpus.duplicates import normalised
from medcode_assets.recipes.reasoning.formats import (
    Line,
    Stage1Line,
    Stage1Metadata,
    Stage2Line,
    Stage2Metadata,
    Stage3Line,
)
from medcode_assets.recipes.reasoning.lines import Problem
from medcode_assets.recipes.reasoning.prompts import SYSTEM
from medcode_assets.recipes.reasoning.support import supported_share
from medcode_serving.codes.systems import undotted
from medcode_serving.codes.tables import CodeTables
from medcode_serving.codes.validation import CodeCheck, check_code
from medcode_serving.reasoned import SPECIAL_TOKENS, THINK, ReasonedAnswer, read_answer

QUALITY_OFF = 0.25
"""How far `reasoning_quality` may be from the share of points that the narrative supports."""
_TOKEN = re.compile(r"[A-Z0-9]+(?:\.[A-Z0-9]+)*")
_LIKE_A_CODE = re.compile(r"(?=.*\d)(?:[A-Z0-9]{2,7}|[A-Z0-9]{2,4}\.[A-Z0-9]{1,4})")
"""No longer than the longest code: telephone and record numbers are longer."""
_WORD_LENGTH = 25
"""Characters that count as a word: without white space a reasoning of any length would be one."""


class Rule(BaseModel):
    """One kind of problem, as rules.yaml lists it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    group: str
    severity: Literal["error", "warning"]
    what: str
    way_out: str


class Group(BaseModel):
    """Rules that are one check of the asset graph."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    fails_on: Literal["error", "warning"]


class RuleBook(BaseModel):
    """All that rules.yaml lists."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: Mapping[str, Group]
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Limits:
    """From where on a line is unfit."""

    max_reasoning_words: int = 120
    least_narrative_words: int = 5
    least_support: float = 0.5
    """Share of the reasoning's points that speak of the narrative."""
    least_reasoning_words: int = 3
    near_duplicate: float = 0.8
    """Jaccard similarity of five-word shingles."""
    largest_code_share: float = 0.3
    """Of a file's lines that have a code."""
    least_examples: int = 2
    """Lines of a code."""


@cache
def rule_book() -> RuleBook:
    """Return what rules.yaml lists."""
    text = resources.files(__package__).joinpath("rules.yaml").read_text(encoding="utf-8")
    return RuleBook.model_validate(yaml.safe_load(text))


@cache
def rules() -> dict[str, Rule]:
    """Return the rules by kind, in the order of rules.yaml."""
    return {rule.kind: rule for rule in rule_book().rules}


def severity(kind: str) -> Literal["error", "warning"]:
    """Return how bad a kind of problem is.

    Raises:
        KeyError: rules.yaml does not list it.
    """
    return rules()[kind].severity


@dataclass(frozen=True)
class _Seen:
    """A line, and what is found out once for all rules."""

    line: Line
    stage: int
    answer: ReasonedAnswer
    check: CodeCheck | None
    """Of the answer's code; None: no code can be read."""
    support: float
    """Share of the points that the narrative supports."""


_Found = Iterator[tuple[str, str]]
"""Pairs of kind and detail."""


def line_problems(line: Line, number: int, stage: int, limits: Limits, tables: CodeTables) -> list[Problem]:
    """Return what is wrong with one line alone; duplicates and leakage are of files (quality.py).

    Args:
        line: A line of the stage.
        number: Its number, from 1.
        stage: 1, 2 or 3.
        limits: From where on it is unfit.
        tables: The code systems' codes.
    """
    answer = line.answer
    check = _checked(answer.code, answer.system, tables) if answer.code and answer.system else None
    seen = _Seen(line, stage, answer, check, supported_share(answer.points, line.narrative))
    found = [*_narrative_problems(seen, limits), *_code_problems(seen), *_reasoning_problems(seen, limits)]
    match line:
        case Stage1Line():
            found += [*_metadata_problems(seen, line.metadata), *_mark_problems(seen, line.metadata)]
        case Stage2Line():
            found += [*_metadata_problems(seen, line.metadata), *_told_problems(seen, line.metadata)]
        case Stage3Line():
            found += _preference_problems(seen, line, tables)
    return [Problem(kind, number, detail) for kind, detail in found]


@lru_cache(maxsize=10_000)
def _checked(code: str, system: str, tables: CodeTables) -> CodeCheck:
    # A file has a code many times, and finding out what an invalid one may have meant takes milliseconds.
    return check_code(code, system, tables)


def reasoning_words(points: Sequence[str]) -> int:
    """Return how long reasoning is, in words; a run of characters without white space is one for each 25."""
    return sum(ceil(len(word) / _WORD_LENGTH) for point in points for word in point.split())


def shown(code: str | None) -> str:
    """Return a code to be named in a report; what does not look like one might be a word of the text."""
    return code if code and _LIKE_A_CODE.fullmatch(code) else "(no code)"


def _narrative_problems(seen: _Seen, limits: Limits) -> _Found:
    narrative, code = seen.line.narrative, seen.answer.code
    words = len(narrative.split())
    if words < limits.least_narrative_words:
        yield "narrative_too_short", f"words: {words}, expected {limits.least_narrative_words} or more"
    # What has no digit is no code but a word, and may stand in the narrative. A code may be written without its dot.
    if (
        code
        and _LIKE_A_CODE.fullmatch(code)
        and not {code, undotted(code)}.isdisjoint(_TOKEN.findall(normalised(narrative).upper()))
    ):
        yield "code_in_narrative", code
    if markers := [token for token in SPECIAL_TOKENS if token in narrative]:
        yield "marker_in_narrative", " ".join(markers)
    messages = seen.line.prompt if isinstance(seen.line, Stage3Line) else seen.line.messages
    if messages[0].content != SYSTEM[seen.stage]:
        yield "other_system_prompt", f"characters: {len(messages[0].content)}"


def _code_problems(seen: _Seen) -> _Found:
    answer, check = seen.answer, seen.check
    if not answer.well_formed:
        yield "answer_format", f"read as {shown(answer.code)}" if answer.code else "no code can be read"
    if check is None:
        return
    if not check.valid:
        yield "code_invalid", _invalidity(seen)
        return
    if check.code != answer.code:
        yield "code_spelling", f"{shown(answer.code)} for {check.code}"
    if not answer.description:
        return
    if check.description:
        if normalised(answer.description) != normalised(check.description):
            yield "description_differs", shown(answer.code)
    elif answer.system == "cpt":
        yield "cpt_description_unlicensed", shown(answer.code)


def _metadata_problems(seen: _Seen, metadata: Stage1Metadata | Stage2Metadata) -> _Found:
    answer = seen.answer
    if answer.code and undotted(metadata.code) != undotted(answer.code):
        yield "metadata_code_differs", f"{shown(metadata.code)} for an answer of {shown(answer.code)}"
    if answer.code_type and metadata.code_type != answer.code_type:
        yield "metadata_type_differs", f"{metadata.code_type} for an answer of {answer.code_type}"


def _mark_problems(seen: _Seen, metadata: Stage1Metadata) -> _Found:
    if seen.check is None:
        return
    if metadata.code_valid and not seen.check.valid:
        yield "invalid_marked_valid", _invalidity(seen)
    # Of a code whose format alone is known nobody can say that the mark is wrong.
    if not metadata.code_valid and seen.check.status == "valid":
        yield "valid_marked_invalid", shown(seen.answer.code)


def _told_problems(seen: _Seen, metadata: Stage2Metadata) -> _Found:
    points = len(seen.answer.points)
    if metadata.reasoning_present != bool(points):
        yield "reasoning_flag_differs", f"{str(metadata.reasoning_present).lower()}, points: {points}"
    if points and abs(seen.support - metadata.reasoning_quality) > QUALITY_OFF:
        yield "reasoning_quality_differs", f"{metadata.reasoning_quality:.2f} told, {seen.support:.2f} found"


def _reasoning_problems(seen: _Seen, limits: Limits) -> _Found:
    points, tagged = seen.answer.points, THINK in seen.line.completion
    if seen.stage == 1:
        if points or tagged:
            yield "reasoning_in_stage_1", f"points: {len(points)}"
        return
    if not points:
        yield "reasoning_missing", "tags without points, or never closed" if tagged else "no tags"
        return
    words = reasoning_words(points)
    if words > limits.max_reasoning_words:
        yield "reasoning_too_long", f"words: {words}, allowed {limits.max_reasoning_words}"
    if words < limits.least_reasoning_words:
        yield "reasoning_too_short", f"words: {words}, expected {limits.least_reasoning_words} or more"
    if seen.support < limits.least_support:
        yield (
            "reasoning_unsupported",
            f"{seen.support:.2f} of {len(points)} points, expected {limits.least_support:g} or more",
        )


def _preference_problems(seen: _Seen, line: Stage3Line, tables: CodeTables) -> _Found:
    answer, check, rejected = seen.answer, seen.check, read_answer(line.rejected)
    if normalised(line.chosen) == normalised(line.rejected):
        yield "chosen_equals_rejected", shown(answer.code)
    elif answer.code and _says(answer) == _says(rejected):
        yield "same_answer", f"{shown(answer.code)}, points: {len(answer.points)}"
    elif check and not check.valid and _is_valid(rejected, tables):
        yield "rejected_better", f"chosen {shown(answer.code)} ({check.status}), rejected {shown(rejected.code)}"


def _is_valid(answer: ReasonedAnswer, tables: CodeTables) -> bool:
    return bool(answer.code and answer.system and _checked(answer.code, answer.system, tables).valid)


def _says(answer: ReasonedAnswer) -> tuple[object, ...]:
    return answer.system, undotted(answer.code or ""), tuple(map(normalised, answer.points))


def _invalidity(seen: _Seen) -> str:
    code, check = seen.answer.code, seen.check
    assert check is not None
    # A reason may quote what stands for the code, and that may be a word of the text.
    if code is None or shown(code) != code:
        return check.status
    near = f"; near ones: {', '.join(one.code for one in check.suggestions[:3])}" if check.suggestions else ""
    return f"{code} ({check.status}): {check.reason}{near}"
