"""The checks of checks.yaml: what must hold of the MIMIC tables, counted in DuckDB."""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import yaml

from medcode_assets.config import DataSettings
from medcode_serving.codes.systems import SYSTEMS

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Check:
    """One check of one asset."""

    name: str
    description: str
    query: str
    warn_above: float
    """Share of wrong things above which the check fails."""
    block_above: float | None
    """Share above which nothing is made from the asset; None: never."""


@dataclass(frozen=True)
class Outcome:
    """What a check found."""

    check: Check
    wrong: int
    of: int

    @property
    def share(self) -> float:
        """Share of wrong things, 0 to 1."""
        return self.wrong / self.of if self.of else 0.0

    @property
    def passed(self) -> bool:
        """Whether there are few enough wrong things."""
        return self.share <= self.check.warn_above and not self.blocks

    @property
    def blocks(self) -> bool:
        """Whether training on this would be wrong."""
        return self.check.block_above is not None and self.share > self.check.block_above


@cache
def checks_of(asset: str) -> tuple[Check, ...]:
    """Return the checks of an asset, as `mimic/facts`; none if checks.yaml has none for it."""
    known = yaml.safe_load(resources.files(__package__).joinpath("checks.yaml").read_text())
    return tuple(
        Check(
            name=name,
            description=check["description"],
            query=check["query"],
            warn_above=check.get("warn_above", 0.0),
            block_above=check.get("block_above"),
        )
        for name, check in known.get(asset, {}).items()
    )


def run_checks(con: "duckdb.DuckDBPyConnection", asset: str, settings: DataSettings) -> list[Outcome]:
    """Run the checks of an asset on its warehouse."""
    offered: dict[str, Any] = {
        "split_method": settings.split_method,
        "systems": list(SYSTEMS),
        "patterns": [system.pattern.pattern for system in SYSTEMS.values()],
    }
    outcomes = []
    for check in checks_of(asset):
        parameters = {name: value for name, value in offered.items() if f"${name}" in check.query}
        wrong, of = con.execute(check.query, parameters).fetchall()[0]
        outcomes.append(Outcome(check, int(wrong or 0), int(of or 0)))
    return outcomes
