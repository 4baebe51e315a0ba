"""Which codes a model is taught: of each system the most frequent ones of training."""

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from medcode_assets.recipes.reasoning.settings import ReasoningSettings

Code = tuple[str, str]
"""System and code, with its dot."""
COLUMNS = ("system", "code", "description", "frequency_train")
SCOPE_STAGES = (1, 2)
"""Their training lines decide; preferences are drawn from codes that the model knows by then."""


def wanted_codes(settings: ReasoningSettings) -> dict[str, int]:
    """Return how many codes of each system are wanted."""
    return {"icd10cm": settings.top_icd10, "cpt": settings.top_cpt, "hcpcs": settings.top_hcpcs}


def code_scope(frequencies: Mapping[Code, int], wanted: Mapping[str, int]) -> dict[Code, int]:
    """Return the codes in scope with their frequencies, by system, the most frequent first, then in their order.

    Args:
        frequencies: Training lines by code.
        wanted: Codes by system.
    """
    kept: dict[Code, int] = {}
    for system, number in wanted.items():
        of_system = [(-count, code) for (own, code), count in frequencies.items() if own == system and count > 0]
        kept |= {(system, code): -count for count, code in sorted(of_system)[:number]}
    return kept


def write_scope(file: Path, scope: Mapping[Code, int], describe: Callable[[str, str], str | None]) -> None:
    """Write scope.csv: system, code, description (empty if none may be shown), frequency_train."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for (system, code), count in scope.items():
            writer.writerow((system, code, describe(system, code) or "", count))


def read_scope(file: Path) -> Iterator[tuple[str, str, str | None, int]]:
    """Yield (system, code, description, frequency in training) of scope.csv."""
    with file.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            yield row["system"], row["code"], row["description"] or None, int(row["frequency_train"])
