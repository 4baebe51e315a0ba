"""Whether a code may be billed, looked up in its system's table; the reason if not, and what may have been meant."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Literal

from medcode_serving.codes.hierarchy import chapter
from medcode_serving.codes.systems import SYSTEMS, dotted, undotted
from medcode_serving.codes.tables import CodeTables, TableCode
from medcode_serving.errors import MedcodeError

Status = Literal["valid", "format_only", "header", "retired", "unknown", "malformed", "wrong_system"]

CODE_TYPES: dict[str, tuple[str, ...]] = {
    "icd10": ("icd10cm",),
    "icd10cm": ("icd10cm",),
    "icd10-cm": ("icd10cm",),
    "icd10pcs": ("icd10pcs",),
    "icd10-pcs": ("icd10pcs",),
    "icd9": ("icd9cm", "icd9pcs"),
    "icd9cm": ("icd9cm",),
    "icd9-cm": ("icd9cm",),
    "icd9pcs": ("icd9pcs",),
    "icd9-pcs": ("icd9pcs",),
    "hcpcs": ("hcpcs",),
    "cpt": ("cpt",),
}
"""Code systems by the names that people give them, in lower case. `icd9` is a diagnosis or a procedure."""

SUGGESTIONS = 5
"""Codes that are suggested at most."""

_BEST_FIRST: tuple[Status, ...] = ("valid", "format_only", "header", "retired", "unknown", "malformed", "wrong_system")
_SHAPES = {
    "icd9cm": "three digits (or V and two, or E and three), and up to two behind a dot, as in 250.00",
    "icd9pcs": "two digits, and up to two behind a dot, as in 00.66",
    "icd10cm": "a letter, a digit and a third character, and up to four behind a dot, as in E11.9 or S52.521A",
    "icd10pcs": "seven digits and letters without I and O, the first naming a section, as in 0DTJ4ZZ",
    "hcpcs": "a letter of its sections and four digits, as in E0130",
    "cpt": "five digits, or four and one of the letters A, F, M, T and U, as in 99213",
}
_NOT_WRITTEN = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
_MODIFIER = re.compile(r"([A-Z0-9]{5})[-\s][A-Z0-9]{2}")
_WORD = re.compile(r"[^\W\d_]{4,}")
_LONGEST_TEXT = 40
# Letters of other alphabets that look like these, and what is typed for a dot.
_TWINS = str.maketrans("АВСЕНІКМОРТХЅЈΑΒΕΗΙΚΜΝΟΡΤΧΥΖ,·．", "ABCEHIKMOPTXSJABEHIKMNOPTXYZ...")
_LOOK_ALIKES = {"O": "0", "Q": "0", "I": "1", "L": "1", "S": "5", "B": "8", "Z": "2", "G": "6"}
_LOOK_ALIKES |= {"0": "O", "1": "I", "5": "S", "8": "B", "2": "Z", "6": "G"}


@dataclass(frozen=True)
class CodeCheck:
    """What was found of one code."""

    given: str
    """As it was given."""
    system: str
    """What it was checked as; of `icd9`, the one that it fits better."""
    code: str
    """As its system writes it; as given, in upper case, if it is malformed."""
    status: Status
    """`format_only`: well-formed, and there is no list at hand to look it up in. `header`: not billable, as it is
    divided further. `retired`: was billable once. `wrong_system`: a code of another system."""
    description: str | None
    reason: str
    """One sentence; it does not quote what is no code."""
    suggestions: tuple[TableCode, ...] = ()
    """What may have been meant, the likeliest first; their titles are None where there is no list."""

    @property
    def valid(self) -> bool:
        """Whether nothing speaks against it: `valid` or `format_only`."""
        return self.status in ("valid", "format_only")


def check_code(text: str, system: str, tables: CodeTables) -> CodeCheck:
    """Check one code.

    Case, outer white space, a missing dot and one at the end do not matter.

    Args:
        text: The code as a person or a model wrote it; anything at all.
        system: One of `CODE_TYPES`, in any case.
        tables: Where codes are looked up (`medcode_serving.codes.tables.code_tables`).

    Raises:
        MedcodeError: the system is unknown, or a user's list is broken.
    """
    systems = systems_of(system)
    written = text.translate(_NOT_WRITTEN).strip().rstrip(".").rstrip()
    # Some letters of other alphabets have capitals in ASCII: what looks like a code is only suggested.
    written = written.upper() if written.isascii() else written
    checks = sorted((_looked_up(text, written, name, tables) for name in systems), key=_rank)
    best = checks[0]
    if best.valid:
        return _also_read_as(best, checks[1:])
    if best.status in ("unknown", "malformed"):
        elsewhere = _found_elsewhere(written, systems, best.status == "malformed", tables)
        if elsewhere:
            return _of_another_system(best, elsewhere, tables)
    if best.status == "malformed":
        return _with_what_was_meant(best, written, systems, tables)
    return replace(best, suggestions=tuple(_suggested(best, tables)))


def systems_of(name: str) -> tuple[str, ...]:
    """Return the code systems that a name of `CODE_TYPES` stands for. Raises MedcodeError if it is none."""
    try:
        return CODE_TYPES[name.strip().lower()]
    except KeyError:
        raise MedcodeError(f"unknown code type {name[:20]!r}; known are {', '.join(CODE_TYPES)}") from None


def _rank(check: CodeCheck) -> int:
    return _BEST_FIRST.index(check.status)


def _looked_up(given: str, written: str, system: str, tables: CodeTables) -> CodeCheck:
    """Check a code against its own system alone, without suggestions."""
    title = SYSTEMS[system].title

    def checked(status: Status, reason: str, description: str | None = None) -> CodeCheck:
        return CodeCheck(given, system, code if status != "malformed" else written, status, description, reason)

    code = dotted(system, written) if written.isascii() else written
    if not _well_formed(system, code):
        return checked("malformed", f"no {title} code: that is {_SHAPES[system]}")
    if "." in written and written != code:
        return checked("malformed", f"its dot is misplaced for {title}")
    found = tables.find(system, code)
    if found is not None and found.billable:
        return checked("valid", f"in {tables.list_name(system)}", found.title)
    if found is not None and found.retired:
        became = "divided further" if tables.below(system, code, limit=1) else "given up"
        return checked("retired", f"billable once, and {became} in {tables.list_name(system)}", found.title)
    if found is not None or tables.below(system, code, limit=1):
        return checked("header", "not billable: it is divided further", found.title if found else None)
    if tables.is_whole(system):
        return checked("unknown", f"not in {tables.list_name(system)}")
    return checked("format_only", _why_not_looked_up(system, code))


def _well_formed(system: str, code: str) -> bool:
    fits = code.isascii() and SYSTEMS[system].pattern.fullmatch(code) is not None
    # A first character without a section: there is no such HCPCS or PCS code.
    return fits and (system not in ("hcpcs", "icd10pcs") or chapter(system, code) is not None)


def _why_not_looked_up(system: str, code: str) -> str:
    if system == "hcpcs" and code.startswith("D"):
        return "well-formed, not looked up: dental codes (CDT) are the American Dental Association's, not shipped"
    return {
        "hcpcs": "well-formed, not looked up: medcode ships a selection of HCPCS Level II, which lacks it",
        "cpt": "well-formed, not looked up: CPT's list is the American Medical Association's, not shipped",
        "icd10pcs": "well-formed, not looked up: no list of ICD-10-PCS is shipped",
    }[system]


def _also_read_as(best: CodeCheck, others: list[CodeCheck]) -> CodeCheck:
    """Say what else an ICD-9 code without its dot may be: `0066` is 006.6 and 00.66."""
    for other in others:
        if other.valid and other.code != best.code:
            reason = f"{best.reason}; without its dot it may also be {SYSTEMS[other.system].title} {other.code}"
            also = TableCode(other.system, other.code, other.description, billable=True, retired=False)
            return replace(best, reason=reason, suggestions=(also,))
    return best


def _found_elsewhere(written: str, systems: tuple[str, ...], malformed: bool, tables: CodeTables) -> list[CodeCheck]:
    """Return what the code is in other systems, the likeliest first.

    What is well-formed here and only looks like a code there is a misspelt code of this system.
    """
    counts = ("valid", "retired", "header", "format_only") if malformed else ("valid", "retired")
    checks = (_looked_up(written, written, name, tables) for name in SYSTEMS if name not in systems)
    found = [check for check in checks if check.status in counts]
    # E0130 is HCPCS as it is, and the ICD-9 code E013.0 only with a dot.
    found.sort(key=lambda check: (_rank(check), check.code != written))
    # A code that a list has is that code, whatever else is shaped like it.
    return [check for check in found if check.status == "valid"] or found


def _of_another_system(best: CodeCheck, elsewhere: list[CodeCheck], tables: CodeTables) -> CodeCheck:
    names = " or ".join(f"{SYSTEMS[check.system].title} {check.code}" for check in elsewhere)
    meant: list[TableCode] = []
    for check in elsewhere:
        if check.valid:
            meant.append(TableCode(check.system, check.code, check.description, billable=True, retired=False))
        else:
            meant += _suggested(check, tables)
    described = elsewhere[0].description
    return replace(
        best,
        code=elsewhere[0].code,
        status="wrong_system",
        description=described,
        reason=f"no {SYSTEMS[best.system].title} code, but {names}",
        suggestions=tuple(meant[:SUGGESTIONS]),
    )


def _suggested(check: CodeCheck, tables: CodeTables) -> list[TableCode]:
    """Return what may have been meant by a well-formed code that is not valid."""
    below = tables.below(check.system, check.code, SUGGESTIONS)
    if check.status in ("header", "retired") and below:
        return below
    alike = _look_alikes(undotted(check.code), check.system, tables) if check.status == "unknown" else []
    near = tables.near(check.system, check.code, SUGGESTIONS)
    return list(dict.fromkeys([*alike, *near]))[:SUGGESTIONS]


def _with_what_was_meant(best: CodeCheck, written: str, systems: tuple[str, ...], tables: CodeTables) -> CodeCheck:
    """Add suggestions, and a better reason if there is one, to what is no code."""
    if not written:
        return replace(best, reason="empty")
    if len(written) > _LONGEST_TEXT:
        return replace(best, reason="too long for a code", code=f"{written[:_LONGEST_TEXT]}…")
    with_modifier = _MODIFIER.fullmatch(written)
    bare = with_modifier[1] if with_modifier else _plain(written)
    meant = [code for name in systems for code in _meant(bare, name, tables)]
    if meant:
        reason = "a modifier is no part of the code" if with_modifier else best.reason
        return replace(best, reason=reason, suggestions=tuple(dict.fromkeys(meant))[:SUGGESTIONS])
    words = _WORD.findall(written)
    if not words:
        return best
    named = [code for name in systems for code in tables.with_words(name, words, SUGGESTIONS)]
    reason = "words, not a code: search the titles for them (in the API, GET /codes?q=)"
    return replace(best, reason=reason, suggestions=tuple(named[:SUGGESTIONS]))


def _plain(written: str) -> str:
    """Return a text in ASCII without white space and dots, as far as its characters look like letters and digits."""
    alike = unicodedata.normalize("NFKC", written).upper().translate(_TWINS)
    return undotted("".join(alike.split()).replace("-", ""))


def _meant(bare: str, system: str, tables: CodeTables) -> list[TableCode]:
    """Return codes that a malformed text, freed of dots and white space, may have meant."""
    if not bare.isascii() or not bare.isalnum() or len(bare) > 8:
        return []
    code = dotted(system, bare)
    exact = tables.find(system, code)
    if exact is not None and exact.billable:
        return [exact]
    if _only_its_format(system, code, tables):
        return [TableCode(system, code, None, billable=True, retired=False)]
    below = tables.below(system, code, SUGGESTIONS) if _well_formed(system, code) else []
    return below or [*_look_alikes(bare, system, tables), *tables.near(system, bare, SUGGESTIONS)]


def _look_alikes(bare: str, system: str, tables: CodeTables) -> list[TableCode]:
    """Return codes that look like this one: O for 0, l for 1, one mistaken character before two."""
    spellings = sorted(islice(_respelt(bare), 4096), key=lambda other: sum(map(str.__ne__, other, bare)))
    listed = tables.among(system, spellings)
    found = [code for code in listed if code.billable]
    if not found:
        found = [below for code in listed[:1] for below in tables.below(system, code.code, SUGGESTIONS)]
    shaped = (dotted(system, other) for other in spellings if _only_its_format(system, dotted(system, other), tables))
    unlisted = [TableCode(system, code, None, billable=True, retired=False) for code in islice(shaped, 1)]
    return (found or unlisted)[:SUGGESTIONS]


def _respelt(bare: str) -> Iterator[str]:
    if len(bare) <= 8:
        for characters in product(*(character + _LOOK_ALIKES.get(character, "") for character in bare)):
            if (other := "".join(characters)) != bare:
                yield other


def _only_its_format(system: str, code: str, tables: CodeTables) -> bool:
    return not tables.is_whole(system) and _well_formed(system, code)
