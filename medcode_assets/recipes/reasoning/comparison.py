"""The stages side by side: what each came to, and whether each is better than the one before on its own measure."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medcode_assets.evaluation.bootstrap import estimate, interval, p_value, resample
from medcode_assets.evaluation.ranking import document_means
from medcode_assets.evaluation.report import aligned_table
from medcode_assets.recipes.reasoning.measuring import AnswerMeasures
from medcode_assets.recipes.reasoning.preferences import PreferenceChange, PreferenceMeasures, compare_preferences
from medcode_assets.recipes.reasoning.rates import Rate
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np

StageName = Literal["untuned_base", "frequency_prior", "stage_1", "stage_2", "stage_3"]
MeasureName = Literal["exact_accuracy", "valid_reasoning_rate"]
"""Measures whose differences are taken."""
STAGE_TITLES: dict[StageName, str] = {
    "untuned_base": "untuned base",
    "frequency_prior": "frequency prior",
    "stage_1": "stage 1: code",
    "stage_2": "stage 2: reasoning",
    "stage_3": "stage 3: preference",
}
"""What is compared, in the order in which it is shown."""


class Measure(NamedTuple):
    """A column of the comparison."""

    title: str
    definition: str


MEASURES = {
    "exact_accuracy": Measure("exact code", "Share of narratives whose code and system are the asked ones."),
    "category_accuracy": Measure(
        "category",
        "The same for the code's category: E11 of E11.9. CPT and HCPCS have none; the block of 100 codes counts, the "
        "first three characters.",
    ),
    "system_accuracy": Measure("system", "Share of answers with the right marker: ICD10, CPT or HCPCS."),
    "valid_code_rate": Measure(
        "valid code",
        "Share of answers with a code that may be billed. Where there is no whole list (CPT, HCPCS Level II, unless "
        "you give yours) a code that is well-formed counts.",
    ),
    "right_description_rate": Measure(
        "description", "Share of codes, of those whose description is known, that were written with it."
    ),
    "format_compliance": Measure("format", "Share of answers that are in the format from beginning to end."),
    "reasoning_rate": Measure("reasoning", "Share of answers in the format that give reasoning."),
    "valid_reasoning_rate": Measure(
        "valid reasoning",
        "The same with reasoning that is not too long, and of whose points the narrative supports half or more.",
    ),
    "mean_support": Measure("support", "Mean share of points that the narrative supports, over answers with points."),
    "win_rate": Measure(
        "win rate", "Share of preference pairs whose chosen answer is the more likely one; ties count half."
    ),
    "win_rate_per_token": Measure("win rate a token", "The same by mean log-probability a token."),
}
"""Columns of the comparison by name of the measure."""
DRAWN: tuple[str, ...] = (
    "exact_accuracy",
    "category_accuracy",
    "valid_code_rate",
    "format_compliance",
    "valid_reasoning_rate",
    "win_rate",
)
"""Measures of which pictures are drawn."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StageResult(_Frozen):
    """What one stage's model, or a baseline, came to."""

    name: StageName
    answers: AnswerMeasures
    preferences: PreferenceMeasures | None = None

    def rate(self, measure: str) -> Rate | None:
        """Return one of `MEASURES`; None where it was not measured."""
        source = self.answers if measure in AnswerMeasures.model_fields else self.preferences
        return getattr(source, measure) if source else None


class StageDifference(_Frozen):
    """One stage's measure minus another's on the same narratives, by paired bootstrap."""

    measure: MeasureName
    first: StageName
    second: StageName
    value: float = Field(description="The first's minus the second's.")
    low: float = Field(description="Lower end of its 95 % interval.")
    high: float = Field(description="Upper end.")
    p_value: float = Field(description="Two-sided, not corrected for the number of comparisons.")


class StageGate(_Frozen):
    """One condition that a stage must meet."""

    name: str
    passed: bool
    reason: str = Field(description="What was compared, with its numbers.")


class Comparison(_Frozen):
    """All stages on the same narratives."""

    narratives: int
    resamples: int
    stages: tuple[StageResult, ...]
    differences: tuple[StageDifference, ...]
    preferences: PreferenceChange | None = Field(description="Stage 3 after stage 2, on the same pairs.")
    gates: tuple[StageGate, ...]

    @property
    def passed(self) -> bool:
        """Whether every gate is passed."""
        return all(gate.passed for gate in self.gates)

    def stage(self, name: StageName) -> StageResult | None:
        """Return a stage's results; None if it was not measured."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def difference(self, measure: MeasureName, first: StageName, second: StageName) -> StageDifference | None:
        """Return a paired difference; None if one of the two was not measured."""
        wanted = (measure, first, second)
        return next((row for row in self.differences if (row.measure, row.first, row.second) == wanted), None)


@dataclass(frozen=True)
class GateLimits:
    """From where on a stage is good enough."""

    least_valid_reasoning: float = 0.9
    """Stage 2's valid reasoning rate must be above this."""
    most_lost: float = 0.05
    """Stages 2 and 3 may lose this much of a rate against the stage before."""


COMPARED: tuple[tuple[MeasureName, StageName, StageName], ...] = (
    ("exact_accuracy", "stage_1", "untuned_base"),
    ("exact_accuracy", "stage_1", "frequency_prior"),
    ("exact_accuracy", "stage_2", "stage_1"),
    ("valid_reasoning_rate", "stage_2", "stage_1"),
    ("exact_accuracy", "stage_3", "stage_2"),
    ("valid_reasoning_rate", "stage_3", "stage_2"),
)
"""Differences that are taken: of a measure, of a stage, and what it is held against."""
EACH: dict[MeasureName, str] = {"exact_accuracy": "exact", "valid_reasoning_rate": "valid_reasoning"}
"""Where the narratives' own values of a measure are."""


def compare(
    stages: Sequence[StageResult], *, limits: GateLimits | None = None, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Compare stages and hold each against its gates. A stage that is not given has no gates.

    Args:
        stages: Any of `STAGE_TITLES`, measured on the same narratives, in any order.
        limits: From where on a gate is passed; none: the usual ones.
        resamples: Bootstrap samples behind the differences' intervals; at least 1.
        seed: Of the samples.

    Raises:
        MedcodeError: there are no stages, one is there twice, or they were measured on other narratives or pairs.
        ValueError: there are no bootstrap samples.
    """
    if resamples < 1:
        raise ValueError(f"{resamples} bootstrap samples; differences need at least 1")
    _refuse_mixture(stages)
    order = list(STAGE_TITLES)
    stages = sorted(stages, key=lambda stage: order.index(stage.name))
    by_name = {stage.name: stage for stage in stages}
    before, after = (by_name[name].preferences if name in by_name else None for name in ("stage_2", "stage_3"))
    comparison = Comparison(
        narratives=stages[0].answers.narratives,
        resamples=resamples,
        stages=tuple(stages),
        differences=_differences(by_name, resamples, seed),
        preferences=compare_preferences(before, after, resamples=resamples, seed=seed) if before and after else None,
        gates=(),
    )
    return comparison.model_copy(update={"gates": tuple(_gates(comparison, limits or GateLimits()))})


def comparison_table(comparison: Comparison) -> str:
    """Return the stages' measures with their 95 % intervals as a markdown table, and the gates below it."""
    rows = [["", *(STAGE_TITLES[stage.name] for stage in comparison.stages)]]
    rows += [
        [measure.title, *(_shown(stage.rate(name)) for stage in comparison.stages)]
        for name, measure in MEASURES.items()
        if any(stage.rate(name) for stage in comparison.stages)
    ]
    gates = [["gate", "", "why"]]
    gates += [[gate.name, "passed" if gate.passed else "NOT passed", gate.reason] for gate in comparison.gates]
    introduction = (
        f"{comparison.narratives:,} narratives of the test split. In brackets: 95 % intervals, bootstrap over "
        "narratives (over pairs for win rates)."
    )
    return "\n\n".join([introduction, aligned_table(rows), *([aligned_table(gates)] if comparison.gates else [])])


Report = TypeVar("Report", StageResult, Comparison)


def write_result(result: StageResult | Comparison, file: Path) -> None:
    """Write a stage's results or a comparison as JSON, aside and renamed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    aside.write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    aside.replace(file)


def read_stage(file: Path) -> StageResult:
    """Read a stage's results.

    Raises:
        MedcodeError: missing, or of another version of medcode.
    """
    return _read(StageResult, file)


def read_comparison(file: Path) -> Comparison:
    """Read a comparison.

    Raises:
        MedcodeError: missing, or of another version of medcode.
    """
    return _read(Comparison, file)


def _read(model: type[Report], file: Path) -> Report:
    try:
        return model.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise MedcodeError(f"{file}: nothing was measured there; materialize the stage's evaluation") from None
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) or "the file" for problem in error.errors())
        raise MedcodeError(f"{file}: missing or wrong: {fields}; materialize the stage's evaluation again") from None


def _differences(by_name: Mapping[StageName, StageResult], resamples: int, seed: int) -> tuple[StageDifference, ...]:
    """Return those of `COMPARED` whose stages were measured."""
    import numpy as np

    def each(measure: MeasureName, name: StageName) -> "np.ndarray":
        return np.array([float(bit) for bit in getattr(by_name[name].answers, EACH[measure])])

    taken = [row for row in COMPARED if row[1] in by_name and row[2] in by_name]
    if not taken:
        return ()
    changes = {str(row): each(row[0], row[1]) - each(row[0], row[2]) for row in taken}
    means, narratives = document_means(changes), len(changes[str(taken[0])])
    values, samples = estimate(means, narratives), resample(means, narratives, resamples=resamples, seed=seed)
    return tuple(_difference(row, values[str(row)], samples[str(row)]) for row in taken)


def _difference(row: tuple[MeasureName, StageName, StageName], value: float, samples: "np.ndarray") -> StageDifference:
    low, high = interval(value, samples)
    return StageDifference(
        measure=row[0], first=row[1], second=row[2], value=value, low=low, high=high, p_value=p_value(value, samples)
    )


def _gates(comparison: Comparison, limits: GateLimits) -> Iterator[StageGate]:
    if comparison.stage("stage_1"):
        yield _above(comparison, "exact_accuracy", "stage_1", "untuned_base")
        if comparison.stage("frequency_prior"):
            yield _above(comparison, "exact_accuracy", "stage_1", "frequency_prior")
    if stage_2 := comparison.stage("stage_2"):
        rate = stage_2.answers.valid_reasoning_rate
        yield StageGate(
            name="stage_2_reasons",
            passed=rate.value > limits.least_valid_reasoning,
            reason=f"valid reasoning: {_shown(rate)} of the answers, above {limits.least_valid_reasoning:.3f} is asked",
        )
        yield _above(comparison, "valid_reasoning_rate", "stage_2", "stage_1")
        yield _keeps(comparison, "exact_accuracy", "stage_2", "stage_1", limits.most_lost)
    if comparison.stage("stage_3"):
        yield _prefers(comparison)
        yield _keeps(comparison, "exact_accuracy", "stage_3", "stage_2", limits.most_lost)
        yield _keeps(comparison, "valid_reasoning_rate", "stage_3", "stage_2", limits.most_lost)


def _above(comparison: Comparison, measure: MeasureName, first: StageName, second: StageName) -> StageGate:
    name, change = f"{first}_above_{second}", comparison.difference(measure, first, second)
    if change is None:
        return _not_measured(name, second)
    return StageGate(name=name, passed=change.value > 0, reason=_said(comparison, change))


def _keeps(
    comparison: Comparison, measure: MeasureName, first: StageName, second: StageName, most_lost: float
) -> StageGate:
    name = f"{first}_keeps_{'accuracy' if measure == 'exact_accuracy' else 'reasoning'}"
    change = comparison.difference(measure, first, second)
    if change is None:
        return _not_measured(name, second)
    return StageGate(
        name=name,
        passed=change.value >= -most_lost,
        reason=f"{_said(comparison, change)}; {most_lost:g} may be lost",
    )


def _prefers(comparison: Comparison) -> StageGate:
    name, change = "stage_3_prefers", comparison.preferences
    if change is None:
        return StageGate(
            name=name, passed=False, reason="no win rate of stages 2 and 3 on the same pairs: measure both models"
        )
    return StageGate(
        name=name,
        passed=change.change.value > 0,
        reason=f"win rate on {change.pairs} pairs: stage_3 {change.after:.4f}, stage_2 {change.before:.4f}; "
        f"{change.turned_right} turned right, {change.turned_wrong} wrong (McNemar p {change.p_value:.3g})",
    )


def _not_measured(name: str, second: StageName) -> StageGate:
    return StageGate(name=name, passed=False, reason=f"{second} was not measured: measure it on the same narratives")


def _said(comparison: Comparison, change: StageDifference) -> str:
    """Say what a difference is of, and whether it may be chance."""
    ours, theirs = (_value(comparison, name, change.measure) for name in (change.first, change.second))
    chance = ", which holds 0" if change.low <= 0 <= change.high else ""
    return (
        f"{MEASURES[change.measure].title}: {change.first} {ours}, {change.second} {theirs}; difference "
        f"{change.value:+.4f}, 95 % interval {change.low:+.4f} to {change.high:+.4f}{chance} (paired bootstrap)"
    )


def _value(comparison: Comparison, name: StageName, measure: str) -> str:
    stage = comparison.stage(name)
    rate = stage.rate(measure) if stage else None
    return f"{rate.value:.4f}" if rate else "–"


def _shown(rate: Rate | None) -> str:
    return f"{rate.value:.3f} ({rate.low:.3f}–{rate.high:.3f})" if rate else "–"


def _refuse_mixture(stages: Sequence[StageResult]) -> None:
    if not stages:
        raise MedcodeError("no stage was measured; materialize the evaluation of one")
    seen: set[StageName] = set()
    for stage in stages:
        if stage.name in seen:
            raise MedcodeError(f"{stage.name} is there twice; compare each stage once")
        seen.add(stage.name)
        if stage.answers.asked_hash != stages[0].answers.asked_hash:
            raise MedcodeError(
                f"{stage.name} ({stage.answers.narratives}) and {stages[0].name} ({stages[0].answers.narratives}) were "
                "measured on other narratives, or in another order; measure them on the same test split"
            )
