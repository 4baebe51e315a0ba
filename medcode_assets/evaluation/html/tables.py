"""The tables of an evaluation's report. What was not measured is a dash."""

from collections.abc import Sequence
from typing import NamedTuple

from medcode_assets.evaluation.html.sentences import DASH, interval, number, signed
from medcode_assets.evaluation.html.terms import (
    chapter_title,
    engine_title,
    groups_of,
    metric_if_measured,
    metric_title,
)
from medcode_assets.evaluation.report import CodeGroup, Difference, EvaluationReport
from medcode_serving.bundle import Metric

MAIN = {
    "open": ("micro_f1", "micro_precision", "micro_recall", "macro_f1", "map", "precision_at_8", "recall_at_15")
    + ("exact_match_ratio",),
    "closed": ("micro_f1", "macro_f1"),
    "caml": ("macro_f1",),
}
"""Metrics of the first table, by label space."""

KINDS = {"system": "Code systems", "frequency": "Training frequency", "chapter": "Chapters"}


class Cell(NamedTuple):
    """A number and its 95 % interval, both as shown."""

    value: str = DASH
    interval: str = ""


class Row(NamedTuple):
    """A line of a table."""

    heading: str
    cells: list[Cell]
    note: str = ""


class Table(NamedTuple):
    """A table whose first column is a heading."""

    caption: str
    headings: list[str]
    rows: list[Row]
    long: bool = False
    """Folded until it is asked for."""


def cell(metric: Metric | None) -> Cell:
    """Return a metric with its interval as shown."""
    return Cell(number(metric.value), interval(metric)) if metric else Cell()


def main_rows(report: EvaluationReport) -> list[Row]:
    """Return every engine's metrics of `MAIN`, in its order."""
    return [
        Row(
            engine_title(one.engine),
            [cell(metric_if_measured(one, name, space)) for space, names in MAIN.items() for name in names],
        )
        for one in report.engines
    ]


def difference_table(report: EvaluationReport) -> Table | None:
    """Return the paired differences of the first engine and each other one."""
    if not report.differences:
        return None
    found = {(row.second, row.name, row.label_space): row for row in report.differences}
    others = list(dict.fromkeys(row.second for row in report.differences))
    measured = list(dict.fromkeys((row.name, row.label_space) for row in report.differences))
    return Table(
        f"The {engine_title(report.engines[0].engine)} minus each baseline, on the same documents (paired bootstrap)",
        [f"minus {engine_title(other)}" for other in others],
        [
            Row(f"{metric_title(name)} ({space})", [_difference(found.get((other, name, space))) for other in others])
            for name, space in measured
        ],
    )


def level_table(report: EvaluationReport) -> Table:
    """Return micro F1 over codes, categories and chapters."""
    titles = {"code": "whole code", "category": "category (E11 of E11.9)", "chapter": "chapter (E00-E89 of E11.9)"}
    return Table(
        "Micro F1 (open label space) by what counts as the same code",
        [engine_title(one.engine) for one in report.engines],
        [
            Row(title, [cell(metric_if_measured(one, "micro_f1", "open", level=level)) for one in report.engines])
            for level, title in titles.items()
        ],
    )


def group_table(report: EvaluationReport, kind: str) -> Table:
    """Return micro F1 of every engine, and what else is known of the first one, in each group of a kind."""
    first = report.engines[0]
    more = ("micro_precision", "micro_recall", "macro_f1")
    name = engine_title(first.engine)
    rows = [
        Row(
            chapter_title(group) if kind == "chapter" else group.title,
            [
                Cell(f"{group.codes:,}"),
                Cell(f"{group.pairs:,}"),
                *(cell(metric_if_measured(one, "micro_f1", "open", group=group.name)) for one in report.engines),
                *(cell(metric_if_measured(first, metric, "open", group=group.name)) for metric in more),
            ],
        )
        for group in groups_of(report, kind)
    ]
    return Table(
        f"{KINDS[kind]} (open label space)",
        [
            "codes",
            "times asked for",
            *(f"micro F1, {engine_title(one.engine)}" for one in report.engines),
            *(f"{metric_title(metric)}, {name}" for metric in more),
        ],
        rows,
        long=kind == "chapter",
    )


def calibration_table(report: EvaluationReport) -> Table:
    """Return what was chosen on validation, and what came of it."""

    def on_validation(metrics: Sequence[Metric]) -> Metric | None:
        wanted = ("micro_f1", "open", "code", "all")
        return next((one for one in metrics if (one.name, one.label_space, one.level, one.group) == wanted), None)

    return Table(
        "Threshold and calibration, both from validation",
        ["threshold", "calibration", "error before", "error after", "micro F1 on validation", "micro F1 on test"],
        [
            Row(
                engine_title(one.engine),
                [
                    Cell(number(one.threshold)),
                    Cell(one.calibration.method),
                    Cell(number(one.raw_calibration_error)),
                    Cell(number(one.calibration_error)),
                    cell(on_validation(one.validation_metrics)),
                    cell(one.measured("micro_f1", "open")),
                ],
            )
            for one in report.engines
        ],
    )


def behaviour_table(report: EvaluationReport) -> Table:
    """Return what the engines' answers were like, right or wrong."""
    return Table(
        "How the engines answered on test",
        [
            "codes a document",
            "documents without codes",
            "different answers",
            "documents cut",
            "fragments that are no codes",
            "ms a document",
        ],
        [
            Row(
                engine_title(one.engine),
                [
                    Cell(number(one.mean_predicted_codes, 1)),
                    Cell(f"{one.documents_without_codes:,}"),
                    Cell(f"{one.distinct_answers:,}"),
                    Cell(f"{one.truncated:,}"),
                    Cell(f"{one.dropped:,}"),
                    Cell(number(1000 * one.seconds / report.documents, 1)),
                ],
            )
            for one in report.engines
        ],
    )


def complete_table(report: EvaluationReport) -> Table:
    """Return every test metric of every engine."""
    found = {one.engine: {_key(metric): metric for metric in one.metrics} for one in report.engines}
    titles = {group.name: _group_title(group) for group in report.groups}
    return Table(
        "Every metric on test, with 95 % intervals",
        [engine_title(one.engine) for one in report.engines],
        [
            Row(
                f"{metric_title(name)} ({space})",
                [cell(found[one.engine].get((level, group, name, space))) for one in report.engines],
                note=" ".join(
                    part for part in (f"{level} level" if level != "code" else "", titles.get(group, "")) if part
                ),
            )
            for level, group, name, space in dict.fromkeys(_key(metric) for metric in report.metrics)
        ],
        long=True,
    )


def _difference(difference: Difference | None) -> Cell:
    if difference is None:
        return Cell()
    return Cell(signed(difference.value), f"{interval(difference)}, p {difference.p_value:.3g}")


def _key(metric: Metric) -> tuple[str, str, str, str]:
    return metric.level, metric.group, metric.name, metric.label_space


def _group_title(group: CodeGroup) -> str:
    return chapter_title(group) if group.name.startswith("chapter:") else group.title
