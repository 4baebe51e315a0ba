"""The report of an evaluation as one HTML file: no scripts, nothing from elsewhere, no note text."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from medcode_assets.evaluation.html.sentences import outcome, reading_help
from medcode_assets.evaluation.html.tables import (
    KINDS,
    MAIN,
    Cell,
    Row,
    Table,
    behaviour_table,
    calibration_table,
    cell,
    complete_table,
    difference_table,
    group_table,
    level_table,
    main_rows,
)
from medcode_assets.evaluation.html.terms import (
    ENGINES,
    LABEL_SPACES,
    METRICS,
    engine_title,
    groups_of,
    metric_if_measured,
    metric_title,
)
from medcode_assets.evaluation.report import EvaluationReport
from medcode_serving.bundle import Metric

TEMPLATE = "report.html.j2"
PICTURES = {
    "engines": "Engines",
    "precision_recall": "Precision and recall",
    "frequency_buckets": "Rare and frequent codes",
    "chapters": "Chapters",
    "codes_per_note": "Codes per note",
    "calibration": "Calibration",
    "learning_curve": "Learning curve",
}


@dataclass(frozen=True)
class PageFacts:
    """Where an evaluated adapter comes from."""

    title: str
    recipe: str
    partition: str
    split_hash: str
    base_model: str
    code_version: str
    made: datetime
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How it was trained; sections may hold sections."""
    losses: Sequence[tuple[int, float]] = ()
    """(step, training loss in nats a token)."""
    validation: Sequence[tuple[int, Mapping[str, float]]] = ()
    """(step, metrics on validation) during training."""


@dataclass(frozen=True)
class EarlierEvaluation:
    """Another adapter that was asked the same questions."""

    version: str
    base_model: str
    made: datetime
    micro_f1: Metric
    macro_f1: Metric
    map: Metric | None
    served: bool
    """Whether LATEST names it."""


def report_page(
    report: EvaluationReport,
    facts: PageFacts,
    pictures: Mapping[str, bytes],
    earlier: Sequence[EarlierEvaluation] = (),
    findings: Sequence[tuple[str, str, str]] = (),
) -> str:
    """Return the page.

    Args:
        report: What was measured; the first engine is the one that the page is about.
        facts: Where it comes from.
        pictures: PNGs by name, from `pictures.report_pictures`.
        earlier: Other adapters of the same split, in the order in which they are shown.
        findings: Of the error analysis: (pattern, what was found, suggestion).

    Returns:
        HTML, complete and self-contained.

    Raises:
        ValueError: earlier evaluations report metrics of different label spaces.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template(TEMPLATE).render(
        report=report,
        facts=facts,
        first=engine_title(report.engines[0].engine),
        headline=[(space, cell(report.engines[0].measured("micro_f1", space))) for space in ("open", "closed")],
        outcome=outcome(report),
        engines=[(engine_title(one.engine), _definition(one.engine)) for one in report.engines],
        main_columns=[(space, list(map(metric_title, names))) for space, names in MAIN.items()],
        main_rows=main_rows(report),
        spaces=LABEL_SPACES,
        metrics=[METRICS[name] for name in _names_measured(report)],
        differences=difference_table(report),
        earlier=_earlier(report, facts, earlier),
        figures=_figures(report, facts, pictures),
        levels=level_table(report),
        groups=[group_table(report, kind) for kind in KINDS if groups_of(report, kind)],
        calibration=calibration_table(report),
        behaviour=behaviour_table(report),
        findings=findings,
        settings=list(_flat(facts.settings)),
        everything=complete_table(report),
    )


def _earlier(report: EvaluationReport, facts: PageFacts, earlier: Sequence[EarlierEvaluation]) -> Table | None:
    """Return this adapter and earlier ones, in the label spaces that those report."""
    if not earlier:
        return None
    spaces = {(one.micro_f1.label_space, one.macro_f1.label_space) for one in earlier}
    if len(spaces) > 1:
        raise ValueError("earlier evaluations report metrics of different label spaces")
    micro, macro = spaces.pop()
    ranked = next((one.map.label_space for one in earlier if one.map), "open")
    columns = (("micro_f1", micro), ("macro_f1", macro), ("map", ranked))
    this = [cell(metric_if_measured(report.engines[0], name, space)) for name, space in columns]
    return Table(
        "This adapter and others that were asked the same questions",
        ["base model", "evaluated", *(f"{metric_title(name)} ({space})" for name, space in columns)],
        [
            Row("this one", [Cell(facts.base_model), Cell(_day(facts.made)), *this], note=facts.title),
            *(
                Row(
                    one.version,
                    [
                        Cell(one.base_model),
                        Cell(_day(one.made)),
                        cell(one.micro_f1),
                        cell(one.macro_f1),
                        cell(one.map),
                    ],
                    note="served" if one.served else "",
                )
                for one in earlier
            ),
        ],
    )


def _figures(report: EvaluationReport, facts: PageFacts, pictures: Mapping[str, bytes]) -> list[tuple[str, str, str]]:
    """Return (title, reading help, data URI) of every picture that shows something."""
    helps = reading_help(report, facts.losses, facts.validation)
    return [
        (title, helps[name], f"data:image/png;base64,{base64.b64encode(pictures[name]).decode()}")
        for name, title in PICTURES.items()
        if name in pictures and name in helps
    ]


def _names_measured(report: EvaluationReport) -> Iterator[str]:
    measured = {metric.name for metric in report.metrics}
    return (name for name in METRICS if name in measured)


def _definition(engine: str) -> str:
    return ENGINES[engine].definition if engine in ENGINES else ""


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield settings as (lora.r, 8)."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
