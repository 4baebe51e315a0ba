"""Units of doses: how they are written, and how one is turned into another, by pint over units of our own."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medcode_serving.safety.tables import UnitRow


@dataclass(frozen=True)
class Units:
    """Known units."""

    factors: Mapping[str, tuple[str, float]]
    """Dimension of each unit, and how many of the dimension's base units it is."""
    spelled: Mapping[str, str]
    """Unit of each spelling."""
    pattern: str
    """Matches a spelling."""

    def convert(self, amount: float, unit: str, to: str) -> float | None:
        """Return an amount in another unit; None where the two measure different things.

        Args:
            amount: How much.
            unit: Of what.
            to: The unit wanted.
        """
        dimension, factor = self.factors[unit]
        wanted, divisor = self.factors[to]
        return amount * factor / divisor if dimension == wanted else None


def read_units(definitions: str, rows: Sequence[UnitRow]) -> Units:
    """Return the units that are defined and spelled.

    pint reads no spelling from a text: its own list takes "units" for a millionth of a unit of light. It turns units
    into each other, once, here.

    Args:
        definitions: In pint's format.
        rows: The units that are used, with their spellings.
    """
    import pint

    registry: pint.UnitRegistry = pint.UnitRegistry(None)
    for line in definitions.splitlines():
        if line and not line.startswith("#"):
            registry.define(line)
    factors: dict[str, tuple[str, float]] = {}
    for row in rows:
        base = registry.Quantity(1, row.unit).to_base_units()
        factors[row.unit] = (str(base.dimensionality), float(base.magnitude))
    spelled = {spelling: row.unit for row in rows for spelling in row.spellings}
    longest_first = sorted(spelled, key=lambda spelling: -len(spelling))
    return Units(factors, spelled, "|".join(re.escape(spelling) for spelling in longest_first))
