"""What a bundle must pass before LATEST names it."""

from collections.abc import Sequence

from medcode_assets.config import GateSettings
from medcode_assets.evaluation.report import Difference, EvaluationReport, collapse_problems
from medcode_serving.bundle import Gate

DECIDING = ("micro_f1", "open")
"""The metric that gates compare: what the threshold was chosen by, and no prediction is discarded."""


def check_gates(
    report: EvaluationReport, settings: GateSettings, against_served: Sequence[Difference] | str
) -> tuple[Gate, ...]:
    """Hold an evaluated adapter against every gate.

    Args:
        report: Its evaluation.
        settings: What is relaxed.
        against_served: Paired differences of this adapter (first) and the one that LATEST names; or why there are
            none, in words.
    """
    gates = (
        _outputs_parse(report, settings.most_dropped),
        _not_collapsed(report),
        _above(report, "frequency_prior"),
        _above(report, "untuned_base"),
        _no_regression(against_served),
    )
    return tuple(gate.model_copy(update={"relaxed": gate.name in settings.relax and not gate.passed}) for gate in gates)


def _outputs_parse(report: EvaluationReport, most_dropped: float) -> Gate:
    adapter = report.engine("adapter")
    answered = adapter.dropped + adapter.told
    share = adapter.dropped / max(answered, 1)
    return Gate(
        name="outputs_parse",
        passed=share <= most_dropped,
        reason=f"{adapter.dropped} of {answered} fragments of the test answers are no codes "
        f"({share:.1%}; at most {most_dropped:.1%})",
    )


def _not_collapsed(report: EvaluationReport) -> Gate:
    problems = collapse_problems(report, "adapter")
    return Gate(
        name="not_collapsed",
        passed=not problems,
        reason="; ".join(problems) or "metrics are finite, and documents get different codes",
    )


def _above(report: EvaluationReport, baseline: str) -> Gate:
    name = f"above_{baseline}"
    if baseline not in {evaluation.engine for evaluation in report.engines}:
        return Gate(name=name, passed=True, reason=f"{baseline} was not evaluated")
    ours, theirs = (report.engine(engine).metric(*DECIDING) for engine in ("adapter", baseline))
    return Gate(
        name=name,
        passed=ours > theirs,
        reason=f"micro F1 (open) on test: adapter {ours:.4f}, {baseline} {theirs:.4f}",
    )


def _no_regression(against_served: Sequence[Difference] | str) -> Gate:
    if isinstance(against_served, str):
        return Gate(name="no_regression", passed=True, reason=against_served)
    change = next(row for row in against_served if (row.name, row.label_space) == DECIDING)
    return Gate(
        name="no_regression",
        passed=change.high >= 0,
        reason=f"micro F1 (open) on test, this adapter minus the served one ({change.second}): {change.value:+.4f}, "
        f"95 % interval {change.low:+.4f} to {change.high:+.4f} (paired bootstrap)",
    )
