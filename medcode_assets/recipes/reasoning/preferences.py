"""How often a model finds the better of two answers more likely, and whether training changed that."""

import hashlib
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.recipes.reasoning.rates import Rate, rates
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHOWS = {-1: "<", 0: "=", 1: ">"}
"""How a pair's chosen answer stands to its rejected one, by the sign of their difference."""
WORTH = {"<": 0.0, "=": 0.5, ">": 1.0}
"""What a pair counts in the win rate."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PreferenceMeasures(_Frozen):
    """One model on pairs of answers. Intervals are over pairs: those of one narrative count as independent."""

    pairs: int
    pairs_hash: str = Field(description="sha256 over the answers' token lengths in turn: the same pairs.")
    win_rate: Rate = Field(description="The chosen answer is more likely than the rejected one; ties count half.")
    win_rate_per_token: Rate = Field(description="The same by mean log-probability a token: length does not count.")
    margin: Rate = Field(description="Mean of log P(chosen) - log P(rejected), nats.")
    margin_per_token: Rate = Field(description="The same with each answer's mean a token.")
    each: str = Field(pattern="^[<=>]*$", description="Of each pair in turn: chosen > rejected in log-probability.")


class PreferenceChange(_Frozen):
    """The same pairs before and after training."""

    pairs: int
    before: float = Field(description="Win rate.")
    after: float = Field(description="Win rate.")
    change: Rate = Field(description="After minus before, paired bootstrap.")
    turned_right: int = Field(description="Pairs won after, and not before; a tie is not won.")
    turned_wrong: int = Field(description="Pairs won before, and not after.")
    p_value: float = Field(description="McNemar's exact test of the turned pairs, two-sided.")


def measure_preferences(
    log_probabilities: "NDArray[np.float64]", lengths: "NDArray[np.int64]", *, resamples: int = 1000, seed: int = 0
) -> PreferenceMeasures:
    """Measure how a model ranks pairs of answers.

    Args:
        log_probabilities: Of whole answers given their prompts, nats [pairs, 2]: chosen, rejected.
        lengths: Tokens of the answers [pairs, 2].
        resamples: Bootstrap samples of the pairs behind the intervals.
        seed: Of the samples.

    Raises:
        MedcodeError: there are no pairs, or a log-probability is not finite.
        ValueError: shapes differ, a length is below 1, or a log-probability is above 0.
    """
    import numpy as np

    found, tokens = np.asarray(log_probabilities, dtype=np.float64), np.asarray(lengths, dtype=np.int64)
    _refuse_unmeasurable(found, tokens)
    margins = found[:, 0] - found[:, 1]
    per_token = (found / tokens)[:, 0] - (found / tokens)[:, 1]
    measured = rates(
        {
            "win_rate": (np.sign(margins) + 1) / 2,
            "win_rate_per_token": (np.sign(per_token) + 1) / 2,
            "margin": margins,
            "margin_per_token": per_token,
        },
        resamples=resamples,
        seed=seed,
    )
    return PreferenceMeasures(
        pairs=len(found),
        pairs_hash=hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest(),
        each="".join(SHOWS[int(sign)] for sign in np.sign(margins)),
        **{name: rate for name, rate in measured.items() if rate},
    )


def compare_preferences(
    before: PreferenceMeasures, after: PreferenceMeasures, *, resamples: int = 1000, seed: int = 0
) -> PreferenceChange:
    """Say what training changed, on the same pairs.

    Raises:
        MedcodeError: they were measured on other pairs.
    """
    if before.pairs_hash != after.pairs_hash:
        raise MedcodeError(
            f"preferences were measured on other pairs before ({before.pairs}) and after training ({after.pairs}); "
            "measure both models on the same ones"
        )
    pairs = list(zip(before.each, after.each, strict=True))
    change = rates({"change": [WORTH[new] - WORTH[old] for old, new in pairs]}, resamples=resamples, seed=seed)
    turned_right = sum(old != ">" and new == ">" for old, new in pairs)
    turned_wrong = sum(old == ">" and new != ">" for old, new in pairs)
    assert change["change"]  # there is a pair
    return PreferenceChange(
        pairs=len(pairs),
        before=before.win_rate.value,
        after=after.win_rate.value,
        change=change["change"],
        turned_right=turned_right,
        turned_wrong=turned_wrong,
        p_value=mcnemar(turned_right, turned_wrong),
    )


def mcnemar(turned_right: int, turned_wrong: int) -> float:
    """Return the two-sided p-value of as many pairs turning one way as the other (exact; 1 without turned pairs)."""
    from scipy.special import bdtr  # scipy.stats takes seconds to load

    turned = turned_right + turned_wrong
    return min(1.0, 2 * float(bdtr(min(turned_right, turned_wrong), turned, 0.5))) if turned else 1.0


def _refuse_unmeasurable(log_probabilities: "NDArray[np.float64]", lengths: "NDArray[np.int64]") -> None:
    import numpy as np

    if not log_probabilities.size:
        raise MedcodeError("there are no preference pairs to measure; ask for more examples: reasoning.examples")
    if log_probabilities.shape[1:] != (2,) or lengths.shape != log_probabilities.shape:
        raise ValueError(f"log-probabilities {log_probabilities.shape}, lengths {lengths.shape}: expected [pairs, 2]")
    if lengths.min() < 1:
        raise ValueError("an answer has no tokens")
    broken = np.flatnonzero(~np.isfinite(log_probabilities).all(axis=1))
    if len(broken):
        raise MedcodeError(
            f"{len(broken)} of {len(log_probabilities)} preference pairs, the first is pair {broken[0] + 1}, have a "
            "log-probability that is not finite: the model collapsed; train again with a lower learning rate"
        )
    if log_probabilities.max() > 1e-6:
        raise ValueError("a log-probability is above 0: losses have the other sign")
