"""What a model's answers are worth: codes, format and reasoning, each rate with its interval. No narrative text."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.evaluation.columns import Code
from medcode_assets.evaluation.groups import FREQUENCIES
from medcode_assets.recipes.reasoning.rates import Rate, rates
from medcode_assets.recipes.reasoning.support import supported_share
from medcode_serving.codes.hierarchy import category
from medcode_serving.codes.systems import SYSTEMS, dotted
from medcode_serving.codes.tables import CodeTables
from medcode_serving.codes.validation import CodeCheck, Status, check_code
from medcode_serving.errors import MedcodeError
from medcode_serving.reasoned import END_THINK, MARKERS, THINK, ReasonedAnswer, read_answer

CONFUSIONS = 20
"""Pairs of asked and written codes in a report, the most frequent ones."""
LEAST_SUPPORT = 0.5
"""Share of the points that the narrative must support for reasoning to be valid."""

ErrorKind = Literal["no_code", "malformed", "invalid_code", "wrong_code", "wrong_category", "wrong_system"]
ERROR_KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)
"""Of a wrong answer, the first that holds: no code in it; a code, but the answer is out of the format; a code that may
not be billed (unknown, header, retired); a wrong one of the right category; of the right system only; of another."""


@dataclass(frozen=True)
class Asked:
    """One narrative of the test split, and its code."""

    narrative: str
    system: str
    code: str
    description: str | None


@dataclass(frozen=True)
class ReasoningLimits:
    """From where on reasoning is too long to be valid."""

    points: int = 6
    words: int = 120


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Lengths(_Frozen):
    """How long the reasoning is, over the answers that have some, well-formed or not."""

    mean: float
    p50: float
    p95: float


class AccuracyGroup(_Frozen):
    """Exact accuracy over some of the narratives."""

    name: str = Field(description="kind:which, as system:cpt, frequency:11-50.")
    title: str = Field(description="For people.")
    exact: Rate


class Confusion(_Frozen):
    """A code that was asked for, what was written instead, and how often."""

    system: str
    code: str
    written_system: str | None = Field(description="None: no code was written.")
    written_code: str | None = Field(description="None: none, or a word that does not look like a code of its system.")
    count: int


class CodeAccuracy(_Frozen):
    """How often one code was right."""

    system: str
    code: str
    support: int = Field(description="Narratives that ask for it.")
    right: int

    @property
    def accuracy(self) -> float:
        """Share of its narratives that got it."""
        return self.right / self.support


class AnswerMeasures(_Frozen):
    """One model's answers to the narratives of the test split."""

    narratives: int
    asked_hash: str = Field(description="sha256 over narratives and codes in turn: the same questions.")
    resamples: int = Field(description="Bootstrap samples of the narratives behind every interval.")
    exact_accuracy: Rate = Field(description="Code and system are the asked ones.")
    category_accuracy: Rate = Field(
        description="The code's category (medcode_serving.codes.hierarchy) is the asked one."
    )
    system_accuracy: Rate = Field(description="The marker is the asked one.")
    valid_code_rate: Rate | None = Field(description="Has a code that may be billed. None: nothing to check it with.")
    code_statuses: dict[Status, int] = Field(
        description="Written codes by what their check says (medcode_serving.codes.validation); empty without tables."
    )
    right_description_rate: Rate | None = Field(
        description="The description is that of the code written; over codes whose description is known."
    )
    format_compliance: Rate = Field(description="The whole answer is in the format.")
    reasoning_rate: Rate = Field(description="In the format, with reasoning.")
    valid_reasoning_rate: Rate = Field(description="So, neither too long nor unsupported by the narrative.")
    mean_support: Rate | None = Field(description="Share of points that the narrative supports; answers with points.")
    unclosed: int = Field(description="Answers whose reasoning never ends.")
    reasoning_words: Lengths | None
    reasoning_points: Lengths | None
    groups: tuple[AccuracyGroup, ...] = Field(description="By system, and by frequency in training if it is known.")
    errors: dict[ErrorKind, int] = Field(description="Wrong answers by kind; each has one.")
    confusions: tuple[Confusion, ...]
    codes: tuple[CodeAccuracy, ...] = Field(description="Most asked first.")
    exact: str = Field(pattern="^[01]*$", description="Of each narrative in turn: 1, its code is right.")
    valid_reasoning: str = Field(pattern="^[01]*$", description="Of each narrative in turn: 1, its reasoning is valid.")


@dataclass(frozen=True)
class _Judged:
    """An answer beside what was asked; floats are values of its narrative, NaN where it does not count."""

    answer: ReasonedAnswer
    written: Code | None
    """None: no code, or a word that does not look like one: what a model writes there may be the narrative's."""
    error: ErrorKind | None
    values: dict[str, float]
    status: Status | None
    unclosed: bool


def measure_answers(
    texts: Sequence[str],
    asked: Sequence[Asked],
    tables: CodeTables | None,
    *,
    limits: ReasoningLimits | None = None,
    frequencies: Mapping[Code, int] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> AnswerMeasures:
    """Measure what a model wrote.

    Codes are compared with their system's dot, so that E119 is E11.9.

    Args:
        texts: The answer to each narrative, without its prompt.
        asked: The narratives.
        tables: What codes are checked with; None measures no validity.
        limits: Of valid reasoning; none: the usual ones.
        frequencies: Training examples with each (system, code); what is not in it was never seen.
        resamples: Bootstrap samples behind the intervals.
        seed: Of the samples.

    Raises:
        MedcodeError: there are no narratives, or one asks for a system that has no marker.
        ValueError: there are not as many texts as narratives.
    """
    if len(texts) != len(asked):
        raise ValueError(f"{len(texts)} texts for {len(asked)} narratives")
    _refuse_unmeasurable(asked)
    checker, limits = _Checker(tables), limits or ReasoningLimits()
    judged = [_judge(text, one, checker, limits) for text, one in zip(texts, asked, strict=True)]
    means: dict[str, Any] = rates(
        {name: [one.values[name] for one in judged] for name in judged[0].values}, resamples=resamples, seed=seed
    )
    reasoned = [one.answer.points for one in judged if one.answer.points]
    return AnswerMeasures(
        narratives=len(asked),
        asked_hash=_asked_hash(asked),
        resamples=resamples,
        **({"valid_code_rate": None} | means),
        code_statuses=Counter(one.status for one in judged if one.status),
        unclosed=sum(one.unclosed for one in judged),
        reasoning_words=_lengths([_words(points) for points in reasoned]),
        reasoning_points=_lengths([len(points) for points in reasoned]),
        groups=_groups(judged, asked, frequencies, resamples, seed),
        errors={kind: sum(one.error == kind for one in judged) for kind in ERROR_KINDS},
        confusions=_confusions(judged, asked),
        codes=_codes(judged, asked),
        exact=_bits(one.values["exact_accuracy"] for one in judged),
        valid_reasoning=_bits(one.values["valid_reasoning_rate"] for one in judged),
    )


class _Checker:
    """Checks codes, each once: what stands behind may look for near misses in tens of thousands of codes."""

    def __init__(self, tables: CodeTables | None) -> None:
        self.knows_codes = tables is not None
        self._tables = tables
        self._found: dict[Code, CodeCheck] = {}

    def __call__(self, written: Code) -> CodeCheck | None:
        """Return what is known of a code; None without tables."""
        if self._tables is None:
            return None
        if written not in self._found:
            system, code = written
            self._found[written] = check_code(code, system, self._tables)
        return self._found[written]


def _judge(text: str, asked: Asked, checker: _Checker, limits: ReasoningLimits) -> _Judged:
    answer = read_answer(text)
    written, gold = _written(answer), (asked.system, dotted(asked.system, asked.code))
    # As it was written: with ICD's dot, E0130 would no longer be seen to be of HCPCS.
    check = checker((answer.system, answer.code)) if written and answer.system and answer.code else None
    support = supported_share(answer.points, asked.narrative)
    reasoned = answer.well_formed and bool(answer.points)
    fitting = len(answer.points) <= limits.points and _words(answer.points) <= limits.words
    values = {
        "exact_accuracy": written == gold,
        "category_accuracy": written is not None and _category(written) == _category(gold),
        "system_accuracy": answer.system == asked.system,
        "right_description_rate": _description_is_right(answer, asked, check, exact=written == gold),
        "format_compliance": answer.well_formed,
        "reasoning_rate": reasoned,
        "valid_reasoning_rate": reasoned and fitting and support >= LEAST_SUPPORT,
        "mean_support": support if answer.points else math.nan,
    }
    if checker.knows_codes:
        values["valid_code_rate"] = check is not None and check.valid
    return _Judged(
        answer=answer,
        written=written,
        error=_error(answer, written, gold, check),
        values={name: float(value) for name, value in values.items()},
        status=check.status if check else "malformed" if checker.knows_codes and answer.code else None,
        unclosed=THINK in text.rpartition(END_THINK)[2],
    )


def _written(answer: ReasonedAnswer) -> Code | None:
    """Return the code of an answer; None if it has none, or a word that does not look like one."""
    if answer.system is None or answer.code is None:
        return None
    code = dotted(answer.system, answer.code)
    misplaced = "." in answer.code and answer.code != code  # another code, if any
    return None if misplaced or not SYSTEMS[answer.system].pattern.fullmatch(code) else (answer.system, code)


def _error(answer: ReasonedAnswer, written: Code | None, gold: Code, check: CodeCheck | None) -> ErrorKind | None:
    """Return the first of `ERROR_KINDS` that holds of a wrong answer, None of a right one."""
    if written == gold:
        return None
    if answer.code is None:
        return "no_code"
    if not answer.well_formed:
        return "malformed"
    if written is None or (check is not None and not check.valid):
        return "invalid_code"
    if written[0] != gold[0]:
        return "wrong_system"
    return "wrong_code" if _category(written) == _category(gold) else "wrong_category"


def _category(code: Code) -> Code:
    """Return a code's category with its system; of CPT and HCPCS, its block of 100 codes."""
    system, text = code
    return system, category(system, text)


def _description_is_right(answer: ReasonedAnswer, asked: Asked, check: CodeCheck | None, *, exact: bool) -> float:
    """Return 1 or 0; NaN where the written code's description is not known."""
    of_table = check.description if check and check.status != "wrong_system" else None
    known = {of_table, asked.description if exact else None} - {None, ""}
    if not known:
        return math.nan
    return float(_flat(answer.description or "") in {_flat(text) for text in known if text})


def _flat(text: str) -> str:
    return " ".join(text.casefold().split())


def _words(points: Sequence[str]) -> int:
    return sum(len(point.split()) for point in points)


def _lengths(lengths: Sequence[int]) -> Lengths | None:
    import numpy as np

    if not lengths:
        return None
    p50, p95 = np.percentile(lengths, [50, 95])
    return Lengths(mean=sum(lengths) / len(lengths), p50=float(p50), p95=float(p95))


def _groups(
    judged: Sequence[_Judged],
    asked: Sequence[Asked],
    frequencies: Mapping[Code, int] | None,
    resamples: int,
    seed: int,
) -> tuple[AccuracyGroup, ...]:
    """Return exact accuracy by system and by frequency in training; no group is empty."""
    exact = [one.values["exact_accuracy"] for one in judged]
    titles = {f"system:{name}": system.title for name, system in SYSTEMS.items()}
    member = {name: [f"system:{one.system}" == name for one in asked] for name in titles}
    if frequencies is not None:
        seen = [frequencies.get((one.system, dotted(one.system, one.code)), 0) for one in asked]
        for bucket, title, least, most in FREQUENCIES:
            titles[f"frequency:{bucket}"] = title.replace("documents", "examples")
            member[f"frequency:{bucket}"] = [least <= count <= most for count in seen]
    masked = {
        name: [value if held else math.nan for value, held in zip(exact, members, strict=True)]
        for name, members in member.items()
    }
    found = rates(masked, resamples=resamples, seed=seed)
    return tuple(AccuracyGroup(name=name, title=titles[name], exact=rate) for name, rate in found.items() if rate)


def _confusions(judged: Sequence[_Judged], asked: Sequence[Asked]) -> tuple[Confusion, ...]:
    """Return the most frequent pairs of asked and written codes, equally frequent ones by code."""
    counts = Counter(
        (want.system, dotted(want.system, want.code), one.answer.system or "", one.written[1] if one.written else "")
        for one, want in zip(judged, asked, strict=True)
        if one.error
    )
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:CONFUSIONS]
    return tuple(
        Confusion(
            system=system, code=code, written_system=other_system or None, written_code=other or None, count=count
        )
        for (system, code, other_system, other), count in most
    )


def _codes(judged: Sequence[_Judged], asked: Sequence[Asked]) -> tuple[CodeAccuracy, ...]:
    support: Counter[Code] = Counter()
    right: Counter[Code] = Counter()
    for one, want in zip(judged, asked, strict=True):
        gold = (want.system, dotted(want.system, want.code))
        support[gold] += 1
        right[gold] += one.error is None
    return tuple(
        CodeAccuracy(system=system, code=code, support=count, right=right[system, code])
        for (system, code), count in sorted(support.items(), key=lambda item: (-item[1], item[0]))
    )


def _refuse_unmeasurable(asked: Sequence[Asked]) -> None:
    if not asked:
        raise MedcodeError("the test split has no narratives to measure; ask for more examples: reasoning.examples")
    for number, one in enumerate(asked, start=1):
        if one.system not in MARKERS:
            raise MedcodeError(
                f"narrative {number} of the test split asks for system {one.system!r}, which answers cannot name; "
                f"leave it out or use one of {', '.join(MARKERS)}"
            )


def _asked_hash(asked: Sequence[Asked]) -> str:
    digest = hashlib.sha256()
    for one in asked:
        narrative = hashlib.sha256(one.narrative.encode("utf-8", "surrogatepass")).hexdigest()
        digest.update(f"{narrative}:{one.system}:{dotted(one.system, one.code)}\n".encode())
    return digest.hexdigest()


def _bits(values: Iterable[float]) -> str:
    return "".join("1" if value else "0" for value in values)
