"""What a safety check found: warnings, each with the words it stands on and where its rule comes from."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Kind = Literal["interaction", "emergency", "dose", "age"]
Severity = Literal["low", "moderate", "high", "emergency"]
RiskLevel = Literal["none", "low", "moderate", "high", "emergency"]
Where = Literal["question", "answer"]

LEVELS: tuple[RiskLevel, ...] = ("none", "low", "moderate", "high", "emergency")
"""From harmless to urgent."""

DISCLAIMER = (
    "Found by rules over the words, which miss much and know nobody's history. Not for clinical use: a clinician or "
    "pharmacist decides."
)


class MatchedSpan(BaseModel):
    """Words that a rule matched; `text` is the text from `start` to `end`, in code points."""

    model_config = ConfigDict(frozen=True)

    where: Where
    start: int
    end: int
    text: str


class SafetyWarning(BaseModel):
    """One thing to look at."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    severity: Severity
    message: str
    spans: tuple[MatchedSpan, ...]
    rule: str
    """Id of the rule: a row or an entry of the rule files."""
    source: str
    """Where the rule's fact comes from."""
    addressed: bool = False
    """The answer says so itself: it advises against the drugs, or sends to urgent care."""


class SafetyReport(BaseModel):
    """What a check found, the most severe first."""

    model_config = ConfigDict(frozen=True)

    risk_level: RiskLevel
    warnings: tuple[SafetyWarning, ...]
    rules: str
    """Hash of the rule files."""
    disclaimer: str = DISCLAIMER


def make_report(warnings: list[SafetyWarning], rules: str) -> SafetyReport:
    """Return the report of some warnings.

    Args:
        warnings: In any order.
        rules: Hash of the rule files.
    """
    warnings = sorted(warnings, key=lambda one: (-LEVELS.index(one.severity), one.addressed, one.kind, one.rule))
    return SafetyReport(risk_level=warnings[0].severity if warnings else "none", warnings=tuple(warnings), rules=rules)
