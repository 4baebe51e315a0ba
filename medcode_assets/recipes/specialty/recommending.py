"""Which specialties are weak, and by how much their training samples should grow: `training_recommendations.json`.

A specialty is weak for one or more of these reasons, all of the tuned model on the holdout:

    below_mean   its measure is under `below_mean` times the mean of all specialties
    below        its measure is under `below`
    regressed    it is surely worse than the untuned base: the interval of the difference ends below 0

A weak specialty is recommended `increase`, or as much as its pool can give; one without a pool is told as exhausted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.recipes.specialty.measuring import Compared, Group, SpecialtyResults
from medcode_assets.recipes.specialty.sampling import Counts
from medcode_assets.recipes.specialty.settings import MOST, SpecialtySection
from medcode_assets.warehouse import fingerprint
from medcode_serving.errors import MedcodeError

RECOMMENDATIONS = "recommendations"
FILE = "training_recommendations.json"
VERSION = 1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_Frozen):
    """How weak specialties were found."""

    measure: str
    below_mean: float
    below: float
    increase: float
    mean: float = Field(description="Of the specialties' own values, each counting the same.")
    limit: float = Field(description="A specialty below this is weak: the higher of the two limits.")


class Weak(_Frozen):
    """A specialty that is weak."""

    reasons: tuple[str, ...]
    value: float
    low: float
    high: float
    certain: bool = Field(description="Its whole interval is below the limit, or it surely got worse.")
    train: int = Field(description="Training samples that it had.")
    pool: int = Field(description="Samples left in its pool.")
    exhausted: bool = Field(description="Its pool cannot give what `increase` asks for.")


class Recommendations(_Frozen):
    """What the next iteration should train on more of."""

    low_performance_specialties: tuple[str, ...] = Field(description="The weakest first.")
    recommended_sample_increases: dict[str, Annotated[float, Field(ge=1, le=MOST)]] = Field(
        description="Factor of training samples, by specialty."
    )
    overall_improvement: float = Field(description="Tuned minus untuned, of the rule's measure over all answers.")
    improvement: dict[str, Compared] = Field(description="The same of every metric, with intervals.")
    weak: dict[str, Weak]
    rule: Rule


def recommendations_fingerprint(results_seal: str, samples: str, section: SpecialtySection) -> str:
    """Return the fingerprint of all that recommendations come from: results, samples by their hash, and the rule."""
    rule = section.model_dump(include={"measure", "below_mean", "below", "increase"})
    return fingerprint(version=VERSION, results=results_seal, samples=samples, rule=rule)


def recommend(results: SpecialtyResults, counts: Mapping[str, Counts], section: SpecialtySection) -> Recommendations:
    """Return what results recommend.

    Args:
        results: Of the tuned model against the untuned base.
        counts: Each specialty's questions by part.
        section: With the rule.

    Raises:
        KeyError: the rule's measure was not measured (`results.skipped` says why).
    """
    rule = _rule(results, section)
    found = {group.name: weak for group in results.specialties if (weak := _weak(group, rule, counts[group.name]))}
    ordered = sorted(found, key=lambda name: (found[name].value, name))
    increases = {
        name: round(factor, 6)
        for name in ordered
        if (factor := min(rule.increase, (found[name].train + found[name].pool) / found[name].train)) > 1
    }
    return Recommendations(
        low_performance_specialties=tuple(ordered),
        recommended_sample_increases=increases,
        overall_improvement=results.overall.metric(rule.measure).difference.value,
        improvement={metric.name: metric for metric in results.overall.metrics},
        weak=found,
        rule=rule,
    )


def write_recommendations(folder: Path, found: Recommendations) -> None:
    """Write recommendations into an artifact's folder."""
    (folder / FILE).write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_recommendations(folder: Path) -> Recommendations:
    """Return the recommendations of an artifact's folder. Raises MedcodeError if the file is gone or was changed."""
    try:
        return Recommendations.model_validate_json((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MedcodeError(
            f"{folder / FILE}: unreadable ({type(error).__name__}); factors of one's own are specialty.adjustments, "
            "and specialty/recommendations with drop_existing writes the file again"
        ) from None


def recommended_rows(found: Recommendations) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return column names and a row a weak specialty, for people."""
    columns = ["specialty", found.rule.measure, "why", "certain", "train", "pool", "recommended factor"]
    rows = [
        (
            name,
            f"{weak.value:.3f} [{weak.low:.3f}, {weak.high:.3f}]",
            ", ".join(weak.reasons),
            "yes" if weak.certain else "no",
            weak.train,
            weak.pool,
            found.recommended_sample_increases.get(name, "none: its pool is empty"),
        )
        for name, weak in ((name, found.weak[name]) for name in found.low_performance_specialties)
    ]
    return columns, rows


def _rule(results: SpecialtyResults, section: SpecialtySection) -> Rule:
    values = [group.metric(section.measure).finetuned.value for group in results.specialties]
    mean = sum(values) / len(values)
    return Rule(
        measure=section.measure,
        below_mean=section.below_mean,
        below=section.below,
        increase=section.increase,
        mean=mean,
        limit=max(section.below_mean * mean, section.below),
    )


def _weak(group: Group, rule: Rule, counts: Counts) -> Weak | None:
    """Return why a specialty is weak; None if it is not."""
    measured = group.metric(rule.measure)
    value, regressed = measured.finetuned, measured.difference.high < 0
    holds = {
        "below_mean": value.value < rule.below_mean * rule.mean,
        "below": value.value < rule.below,
        "regressed": regressed,
    }
    reasons = tuple(name for name, true in holds.items() if true)
    if not reasons:
        return None
    return Weak(
        reasons=reasons,
        value=value.value,
        low=value.low,
        high=value.high,
        certain=value.high < rule.limit or regressed,
        train=counts.train,
        pool=counts.pool,
        exhausted=counts.train + counts.pool < counts.train * rule.increase,
    )
