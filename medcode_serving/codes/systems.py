"""The code systems: what they are called, what their codes look like, and where their dots go."""

import re
from dataclasses import dataclass

from medcode_serving.errors import MedcodeError


@dataclass(frozen=True)
class CodeSystem:
    """One code system."""

    title: str
    pattern: re.Pattern[str]
    """A whole code, upper case, with its dot."""
    dot_after: int | None
    """Characters before the dot; a code that is not longer has none."""


SYSTEMS: dict[str, CodeSystem] = {
    "icd9cm": CodeSystem(
        "ICD-9-CM diagnosis", re.compile(r"E\d{3}(\.\d)?|V\d\d(\.\d{1,2})?|\d{3}(\.\d{1,2})?"), dot_after=3
    ),
    "icd9pcs": CodeSystem("ICD-9-CM procedure", re.compile(r"\d\d(\.\d{1,2})?"), dot_after=2),
    "icd10cm": CodeSystem("ICD-10-CM diagnosis", re.compile(r"([A-Z]\d|QA)[0-9A-Z](\.[0-9A-Z]{1,4})?"), dot_after=3),
    "icd10pcs": CodeSystem("ICD-10-PCS procedure", re.compile(r"[0-9A-HJ-NP-Z]{7}"), dot_after=None),
    "hcpcs": CodeSystem("HCPCS Level II", re.compile(r"[A-Z]\d{4}"), dot_after=None),
    "cpt": CodeSystem("CPT", re.compile(r"\d{4}[0-9AFMTU]"), dot_after=None),
}


def dotted(system: str, code: str) -> str:
    """Return a code in upper case with its system's dot: `4019` → `401.9`, `i10` → `I10`, never `I10.`.

    A code that has its dot already, or one in the wrong place, comes out the same.

    Raises:
        MedcodeError: the system is unknown.
    """
    if system not in SYSTEMS:
        raise MedcodeError(f"unknown code system {system!r}; known are {', '.join(SYSTEMS)}")
    bare = undotted(code)
    position = SYSTEMS[system].dot_after
    if system == "icd9cm" and bare.startswith("E"):
        position = 4  # external causes: E812.0
    if position is None or len(bare) <= position:
        return bare
    return f"{bare[:position]}.{bare[position:]}"


def undotted(code: str) -> str:
    """Return a code in upper case without dots and outer white space: ` 401.9` → `4019`."""
    return code.strip().upper().replace(".", "")
