"""What an error analysis found: counts, codes and sentences; never note text, never the id of a patient."""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medcode_serving.errors import MedcodeError

NEAR_MISSES = (
    "laterality",
    "encounter",
    "unspecified_for_specified",
    "specified_for_unspecified",
    "sibling",
    "same_category",
)
"""Kinds of near misses; a pair of codes is of the first that fits (sql/candidates.sql)."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Totals(_Frozen):
    """Everything counted once. A pair is a (document, code); a code that is told twice counts once."""

    documents: int
    gold: int = Field(description="Pairs that the record has.")
    predicted: int = Field(description="Pairs that are told at or above the threshold.")
    right: int = Field(description="Pairs that are both.")
    missed: int
    spurious: int
    micro_f1: float = Field(description="Open label space.")
    over_coded: int = Field(description="Documents with more predicted codes than gold ones.")
    under_coded: int = Field(description="Documents with fewer.")
    mean_surplus: float = Field(description="Predicted less gold codes, mean over the documents.")
    verbosity: float = Field(description="Predicted codes for each gold code.")
    twice_as_many: float = Field(description="Share of the documents with more than twice as many codes as gold.")
    without_codes: int = Field(description="Documents for which nothing is predicted.")
    gold_without_codes: int = Field(description="Gold pairs of these.")
    with_dropped: int = Field(description="Documents whose answer has a fragment that is no code.")
    dropped: int = Field(description="Such fragments.")
    outside_vocabulary: int = Field(description="Predicted pairs whose code is none of the task's.")
    malformed: int = Field(description="Predicted pairs whose code does not look like one of its system.")
    below_threshold: int = Field(description="Missed pairs that were told, with too low a probability.")
    silent_codes: int = Field(description="Trained codes that the documents ask for and that are never predicted.")
    silent_pairs: int = Field(description="Gold pairs of these.")


class CodeErrors(_Frozen):
    """One code that is often missed, or often invented."""

    system: str
    code: str
    description: str | None
    count: int = Field(description="How often it is missed, or spurious.")
    gold: int = Field(description="Documents that have it.")
    predicted: int = Field(description="Documents for which it is predicted.")
    frequency: int = Field(description="Training documents that have it.")
    counterpart: str | None = Field(description="The code most often paired with it as a near miss.")
    counterpart_count: int


class NearMissExample(_Frozen):
    """A gold code and what was predicted in its place."""

    system: str
    gold: str
    predicted: str
    count: int


class NearMiss(_Frozen):
    """One kind of near miss. Each missed code is paired with at most one spurious code of its document."""

    pattern: str
    pairs: int
    micro_f1: float = Field(description="Micro F1 if these pairs were right.")
    examples: tuple[NearMissExample, ...] = Field(description="Most frequent first.")


class Slice(_Frozen):
    """The pairs of some documents, or of some codes."""

    kind: str = Field(description="tokens, cut, codes or frequency.")
    name: str = Field(description="As frequency:1-10.")
    title: str = Field(description="For people.")
    documents: int = Field(description="Documents with a pair of it.")
    gold: int
    predicted: int
    right: int
    precision: float
    recall: float
    f1: float


class SectionRecall(_Frozen):
    """Gold codes by the section of the note that names them."""

    section: str | None = Field(description="As sections.yaml has it; None: no section names them.")
    gold: int
    right: int
    recall: float
    cut_gold: int = Field(description="Of the gold pairs, those of notes whose section was shortened or dropped.")
    cut_right: int


class Finding(_Frozen):
    """One pattern that is large enough to be told."""

    pattern: str
    count: int
    share: float = Field(description="Of what the sentence names.")
    gain: float = Field(description="By how much micro F1 would rise without these errors: an upper bound.")
    sentence: str
    suggestion: str


class ErrorAnalysis(_Frozen):
    """One engine's errors on the test split."""

    totals: Totals
    missed: tuple[CodeErrors, ...] = Field(description="Most missed first.")
    spurious: tuple[CodeErrors, ...] = Field(description="Most often invented first.")
    near_misses: tuple[NearMiss, ...] = Field(description="Every kind, in the order in which they are tried.")
    slices: tuple[Slice, ...] = Field(description="Those that hold a pair.")
    sections: tuple[SectionRecall, ...] = Field(description="Most gold pairs first.")
    findings: tuple[Finding, ...] = Field(description="Largest gain first.")


def micro_f1(right: int, gold: int, predicted: int) -> float:
    """Return 2 · right / (gold + predicted), which is micro F1; 0 if there is neither."""
    return 2 * right / (gold + predicted) if gold + predicted else 0.0


def write_analysis(analysis: ErrorAnalysis, file: Path) -> None:
    """Write an analysis as JSON, aside and renamed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    aside.write_text(analysis.model_dump_json(indent=2) + "\n", encoding="utf-8")
    aside.replace(file)


def read_analysis(file: Path) -> ErrorAnalysis:
    """Read an analysis.

    Raises:
        MedcodeError: missing, or of another version of medcode.
    """
    try:
        return ErrorAnalysis.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise MedcodeError(f"{file}: no error analysis there; make one: medcode evaluate") from None
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise MedcodeError(f"{file}: fields missing or wrong: {fields}; evaluate again: medcode evaluate") from None
