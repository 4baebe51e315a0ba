"""What a report says in words: its outcome, and how to read each picture. Every sentence is computed."""

import math
from collections.abc import Mapping, Sequence

from medcode_assets.evaluation.html.terms import (
    bucket_title,
    chapter_title,
    engine_title,
    groups_of,
    metric_if_measured,
)
from medcode_assets.evaluation.report import CodeGroup, Difference, EngineEvaluation, EvaluationReport
from medcode_serving.bundle import Metric

DASH = "–"
ENOUGH_PAIRS = 20
"""Gold codes from which a chapter is named as best or worst; with fewer, its F1 is chance."""


def number(value: float | None, digits: int = 3) -> str:
    """Return a number in the table's precision; a dash if there is none."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def signed(value: float) -> str:
    """Return a difference in the table's precision, with its sign."""
    return f"{value:+.3f}".replace("-", "−")


def share(value: float) -> str:
    """Return a share of one in whole percents, never broken before its sign."""
    return f"{100 * value:.0f}\u00a0%"


def interval(measured: Metric | Difference | None) -> str:
    """Return a 95 % interval as `0.498–0.525`, a difference's as `+0.050 to +0.066`; empty if there is none."""
    if measured is None or measured.low is None or measured.high is None:
        return ""
    if isinstance(measured, Difference):
        return f"{signed(measured.low)} to {signed(measured.high)}"
    return f"{number(measured.low)}–{number(measured.high)}"


def best_baseline(report: EvaluationReport) -> EngineEvaluation | None:
    """Return the engine, other than the first, with the highest micro F1 (open label space)."""
    return max(report.engines[1:], key=lambda one: one.metric("micro_f1", "open"), default=None)


def outcome(report: EvaluationReport) -> str:
    """Say how the first engine stands to the best baseline, by the paired difference of micro F1 (open)."""
    name, best = engine_title(report.engines[0].engine), best_baseline(report)
    if best is None:
        return f"No baseline was evaluated beside the {name}."
    other = f"the best baseline ({engine_title(best.engine)}, {best.metric('micro_f1', 'open'):.3f})"
    paired = [
        row
        for row in report.differences
        if (row.second, row.name, row.label_space) == (best.engine, "micro_f1", "open")
    ]
    if not paired:
        return f"No paired difference to {other} was taken."
    row = paired[0]
    bounds = f"paired difference of micro F1 (open) {signed(row.value)}, 95 % interval {interval(row)}"
    if row.low > 0:
        return f"The {name} is better than {other}: {bounds}."
    if row.high < 0:
        return f"The {name} is worse than {other}: {bounds}."
    return f"These {report.documents:,} test documents do not tell the {name} from {other}: {bounds}."


def reading_help(
    report: EvaluationReport,
    losses: Sequence[tuple[int, float]],
    validation: Sequence[tuple[int, Mapping[str, float]]],
) -> dict[str, str]:
    """Return a sentence for each picture that shows something, by the picture's name."""
    first = report.engines[0]
    found = {
        "engines": _engines(report),
        "precision_recall": _precision_recall(first),
        "frequency_buckets": _frequency_buckets(report),
        "chapters": _chapters(report),
        "codes_per_note": _codes_per_note(report),
        "calibration": _calibration(first),
        "learning_curve": _learning_curve(losses, validation),
    }
    return {name: sentence for name, sentence in found.items() if sentence}


def _engines(report: EvaluationReport) -> str:
    first = report.engines[0]
    lift = first.metric("micro_f1", "closed") - first.metric("micro_f1", "open")
    return ("Whiskers are 95 % intervals. " if report.resamples else "") + (
        "Discarding predictions of codes that the test split does not ask for (closed) "
        f"changes the {engine_title(first.engine)}'s micro F1 by {signed(lift)}."
    )


def _precision_recall(first: EngineEvaluation) -> str:
    if not first.curve:
        return ""
    name = engine_title(first.engine)
    recall, precision = (first.metric(metric, "open") for metric in ("micro_recall", "micro_precision"))
    return (
        f"At its threshold (dot) the {name} finds {share(recall)} of the gold codes, and {share(precision)} of what it "
        f"predicts is right; all that it tells at any probability hold {share(first.curve[-1].recall)} of the gold "
        "codes. Dashed lines have equal F1."
    )


def _frequency_buckets(report: EvaluationReport) -> str:
    first = report.engines[0]
    recalls = [
        (bucket, recall.value)
        for bucket in groups_of(report, "frequency")
        if (recall := metric_if_measured(first, "micro_recall", "open", group=bucket.name))
    ]
    seen = [(bucket, recall) for bucket, recall in recalls if bucket.name != "frequency:unseen"]
    if not seen:
        return ""
    (rare, rare_recall), (common, common_recall) = seen[0], seen[-1]
    text = f"The {engine_title(first.engine)} finds {share(rare_recall)} of the codes that were in {_training(rare)}"
    text += f", {share(common_recall)} of those in {_training(common)}" if common != rare else ""
    unseen = [recall for bucket, recall in recalls if bucket.name == "frequency:unseen"]
    return text + (f", and {share(unseen[0])} of those never seen." if unseen else ".")


def _chapters(report: EvaluationReport) -> str:
    first = report.engines[0]
    chapters = groups_of(report, "chapter")
    found = [
        (f1.value, chapter)
        for chapter in chapters
        if chapter.pairs >= ENOUGH_PAIRS and (f1 := metric_if_measured(first, "micro_f1", "open", group=chapter.name))
    ]
    name = engine_title(first.engine)
    if len(found) < 2:
        return f"Micro F1 of the {name} and its baselines in each chapter." if chapters else ""
    (worst_f1, worst), (best_f1, best) = min(found, key=_first), max(found, key=_first)
    return (
        f"Of chapters with {ENOUGH_PAIRS} gold codes or more, the {name} is best in {chapter_title(best)} "
        f"({best_f1:.3f}) and worst in {chapter_title(worst)} ({worst_f1:.3f}). Darker is higher."
    )


def _codes_per_note(report: EvaluationReport) -> str:
    first = report.engines[0]
    fewer, more = (
        sum(cell.documents for cell in first.codes_per_note if (cell.predicted - cell.gold) * sign > 0)
        for sign in (-1, 1)
    )
    if not first.codes_per_note:
        return ""
    return (
        f"The {engine_title(first.engine)} predicts {first.mean_predicted_codes:.1f} codes a document where "
        f"{report.mean_gold_codes:.1f} are gold: too few in {share(fewer / report.documents)} of the "
        f"documents, too many in {share(more / report.documents)}. On the dotted line the numbers are equal."
    )


def _calibration(first: EngineEvaluation) -> str:
    if not first.reliability:
        return ""
    return (
        f"The {engine_title(first.engine)}'s probabilities are off by {first.calibration_error:.3f} on average "
        f"(expected calibration error; {first.raw_calibration_error:.3f} before calibration). Above the dotted line "
        "they are too low, below it too high."
    )


def _learning_curve(losses: Sequence[tuple[int, float]], validation: Sequence[tuple[int, Mapping[str, float]]]) -> str:
    looks = [(look["loss"], step) for step, look in validation if "loss" in look]
    if not looks:
        return f"The training loss ended at {losses[-1][1]:.3f}; validation was not looked at." if losses else ""
    loss, step = min(looks)
    last = max([*(step for step, _ in losses), *(step for _, step in looks)])
    return f"The validation loss was lowest, {loss:.3f}, at step {step:,} of {last:,}."


def _training(bucket: CodeGroup) -> str:
    return f"{bucket_title(bucket.name).replace('> ', 'over ')} training documents"


def _first(pair: tuple[float, CodeGroup]) -> float:
    return pair[0]
