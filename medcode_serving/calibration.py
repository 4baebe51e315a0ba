"""From an engine's probability of a code to a calibrated one: fitted on validation, carried by the bundle."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

LEAST = 1e-9
"""Probabilities are kept this far from 0 and 1 before their log odds are taken."""


class Calibration(BaseModel):
    """A map of the unit interval onto itself that never turns the order of two probabilities around."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["none", "temperature", "isotonic"] = "none"
    slope: float = Field(
        default=1.0, ge=0, description="temperature: log odds are multiplied by this (1 / temperature)."
    )
    shift: float = Field(default=0.0, description="temperature: then this is added to them.")
    told: tuple[float, ...] = Field(default=(), description="isotonic: probabilities as told, rising.")
    right: tuple[float, ...] = Field(default=(), description="isotonic: calibrated ones at these; straight in between.")

    def apply(self, probabilities: "Sequence[float] | NDArray[np.float64]") -> NDArray[np.float64]:
        """Return the calibrated probabilities, float64 of the same length, in [0, 1]."""
        told = np.asarray(probabilities, dtype=np.float64)
        if self.method == "temperature":
            inside = told.clip(LEAST, 1 - LEAST)
            log_odds = self.slope * np.log(inside / (1 - inside)) + self.shift
            return np.asarray(1 / (1 + np.exp(-log_odds.clip(-700, 700))), dtype=np.float64)
        if self.method == "isotonic":
            return np.interp(told, self.told, self.right)
        return told
