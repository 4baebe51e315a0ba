"""Pictures of answers in words for the Dagster UI: PNGs' bytes."""

from medcode_assets.evaluation.plots import COLOURS, draw_bars, figure, png
from medcode_assets.recipes.words.answers import TUNED, UNTUNED
from medcode_assets.recipes.words.measuring import SHOWN, WordMeasures, WordReport
from medcode_serving.bundle import Metric

MODEL_COLOURS = {TUNED: COLOURS[0], UNTUNED: COLOURS[2]}
MOST_SUBJECTS = 24
"""Rows that are drawn; more could not be read."""


def word_metric(measured: WordMeasures, name: str, engine: str) -> Metric | None:
    """Return one metric as bundles and pictures have it; None if it was not computed."""
    for metric in measured.metrics:
        if metric.name == name:
            return Metric(
                name=name,
                value=metric.value,
                engine=engine,
                split="test",
                label_space="words",
                level="answer",
                low=metric.low,
                high=metric.high,
            )
    return None


def word_bars(report: WordReport) -> bytes:
    """Draw the models' measures side by side with their 95 % intervals."""
    import numpy as np

    names = [
        name
        for name in (*report.measures, *SHOWN)
        if any(one.value(name) is not None for one in report.models.values())
    ]
    with figure(width=max(6.4, 1.3 * len(names)), height=3.4) as (drawing, axes):
        axis = axes[0]
        measured = {
            engine: [word_metric(found, name, engine) for name in names] for engine, found in report.models.items()
        }
        draw_bars(axis, np.arange(len(names)), measured, _colours(report), digits=2)
        axis.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
        axis.set_ylim(0, 1.08)
        axis.set_yticks(np.linspace(0, 1, 6))
        axis.grid(visible=False, axis="x")
        answers = next(iter(report.models.values())).answers
        axis.set_title(f"{answers:,} questions of the test split")
        drawing.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=len(report.models))
        return png(drawing)


def subject_bars(report: WordReport) -> bytes | None:
    """Draw the headline measure by subject, the largest ones; None where questions have no subject."""
    import numpy as np

    subjects = sorted(report.models[TUNED].subjects, key=lambda one: -one.answers)[:MOST_SUBJECTS]
    shown = [one.subject for one in subjects if report.headline in one.means][::-1]
    if not shown:
        return None
    with figure(width=6.8, height=1.2 + 0.34 * len(shown)) as (drawing, axes):
        axis, width = axes[0], 0.84 / len(report.models)
        for index, (engine, found) in enumerate(report.models.items()):
            means = {one.subject: one.means.get(report.headline, 0.0) for one in found.subjects}
            offset = (index - (len(report.models) - 1) / 2) * width
            axis.barh(
                np.arange(len(shown)) - offset,
                [means.get(subject, 0.0) for subject in shown],
                width * 0.92,
                color=_colours(report)[engine],
                label=engine.replace("_", " "),
            )
        counts = {one.subject: one.answers for one in subjects}
        axis.set_yticks(range(len(shown)), [f"{subject} ({counts[subject]})" for subject in shown])
        axis.grid(visible=False, axis="y")
        axis.set_title(f"{report.headline.replace('_', ' ')} by subject")
        drawing.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=len(report.models))
        return png(drawing)


def _colours(report: WordReport) -> dict[str, str]:
    spare = iter([COLOURS[1], *COLOURS[3:]] * (1 + len(report.models)))
    return {name: MODEL_COLOURS.get(name) or next(spare) for name in report.models}
