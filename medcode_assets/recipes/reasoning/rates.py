"""Shares and means with their bootstrap intervals."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.evaluation.bootstrap import estimate, interval, resample
from medcode_assets.evaluation.ranking import document_means

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Rate(BaseModel):
    """A share or a mean with its 95 % bootstrap interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float
    of: int = Field(description="How many it is taken over.")


def rates(
    values: "Mapping[str, Sequence[float] | NDArray[np.float64]]", *, resamples: int, seed: int
) -> dict[str, Rate | None]:
    """Return the mean of each kind of value with its 95 % interval; None where nothing counts.

    Args:
        values: Of each narrative (or pair) in turn, by name; NaN where it does not count.
        resamples: Bootstrap samples of the narratives, the same ones for every name; 0: intervals are the values.
        seed: Of the samples.
    """
    import numpy as np

    arrays = {name: np.asarray(row, dtype=np.float64) for name, row in values.items()}
    counted = {name: int((~np.isnan(row)).sum()) for name, row in arrays.items()}
    if not any(counted.values()):
        return dict.fromkeys(values)
    means, documents = document_means(arrays), len(next(iter(arrays.values())))
    found = estimate(means, documents)
    samples = resample(means, documents, resamples=resamples, seed=seed)
    measured: dict[str, Rate | None] = dict.fromkeys(values)
    for name, of in counted.items():
        if of:
            low, high = interval(found[name], samples.get(name, np.zeros(0)))
            # Taking off the bias may push an end beyond what any mean of these values can be.
            least, most = float(np.nanmin(arrays[name])), float(np.nanmax(arrays[name]))
            ends = {"low": min(max(low, least), found[name]), "high": max(min(high, most), found[name])}
            measured[name] = Rate(value=found[name], of=of, **ends)
    return measured
