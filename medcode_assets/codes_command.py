"""`medcode codes check`: codes are looked up, a line each."""

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from medcode_serving.codes.tables import code_tables
from medcode_serving.codes.validation import CodeCheck, check_code, systems_of

_SHOWN = 40
"""Characters of a code, as it was given, that a line repeats."""


def check_codes(
    codes: Sequence[str], code_type: str, *, cpt_descriptions: Path | None, hcpcs: Path | None, as_json: bool
) -> bool:
    """Print what is found of each code, and return whether all are valid.

    Args:
        codes: As a person wrote them.
        code_type: One of `medcode_serving.codes.validation.CODE_TYPES`.
        cpt_descriptions: A user's list of CPT codes.
        hcpcs: A user's list of HCPCS Level II codes.
        as_json: A JSON object a line.

    Raises:
        MedcodeError: the type is unknown, or a list is missing or broken.
    """
    systems_of(code_type)
    tables = code_tables(cpt_descriptions, hcpcs)
    all_valid = True
    for code in codes:
        found = check_code(code, code_type, tables)
        typer.echo(json.dumps(as_object(found)) if as_json else as_line(found))
        all_valid = all_valid and found.valid
    return all_valid


def as_line(check: CodeCheck) -> str:
    """Return a check on one line: the code, what it is, its description or the reason, and what may have been meant."""
    given = "".join(character if character.isprintable() else "·" for character in check.given.strip())
    code = check.code if check.valid else f"{given[:_SHOWN]}…" if len(given) > _SHOWN else given
    told = f"{check.description} ({check.reason})" if check.description and check.valid else check.reason
    if check.description and not check.valid:
        told += f" ({check.description})"
    if check.suggestions:
        told += f"; did you mean {', '.join(suggestion.code for suggestion in check.suggestions)}?"
    return f"{code}  {check.status.replace('_', ' ')}  {told}"


def as_object(check: CodeCheck) -> dict[str, object]:
    """Return a check as what `--json` prints."""
    return {
        "given": check.given,
        "system": check.system,
        "code": check.code,
        "status": check.status,
        "valid": check.valid,
        "description": check.description,
        "reason": check.reason,
        "suggestions": [
            {"system": suggestion.system, "code": suggestion.code, "description": suggestion.title}
            for suggestion in check.suggestions
        ],
    }
