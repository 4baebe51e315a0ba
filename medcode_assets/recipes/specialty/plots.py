"""Pictures of results and of progress over iterations: each function returns a PNG's bytes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medcode_assets.evaluation.plots import COLOURS, ENGINE_COLOURS, draw_bars, figure, png
from medcode_assets.recipes.specialty.measuring import Group, SpecialtyResults, Value
from medcode_serving.bundle import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from medcode_assets.recipes.specialty.progress import Progress

SIDES = {"untuned_base": "base", "adapter": "finetuned"}
"""Engines as every picture of the project names and colours them."""
LINES = (*COLOURS, *("#882255", "#44AA99", "#999933", "#332288", "#661100", "#777777"))
MARKERS = "osD^v<>PX*"


def overall_bars(results: SpecialtyResults) -> bytes:
    """Draw every metric of both models over all answers, with 95 % intervals."""
    groups = [(metric.name, results.overall) for metric in results.overall.metrics]
    title = f"{results.overall.answers:,} answers of the holdout"
    return _bars(title, [name for name, _ in groups], groups)


def specialty_bars(results: SpecialtyResults, measure: str) -> bytes:
    """Draw a measure of both models by specialty, with 95 % intervals."""
    groups = [(measure, group) for group in (*results.specialties, results.overall)]
    return _bars(f"{measure} by specialty, holdout", [f"{group.name} ({group.answers})" for _, group in groups], groups)


def progress_lines(progress: "Progress") -> bytes:
    """Draw the tuned model's measure over iterations, a line a specialty, and beside it the training samples."""
    from matplotlib.ticker import MaxNLocator

    names = sorted({name for step in progress.steps for name in step.specialties})
    with figure(width=10.4, height=max(3.6, 0.2 * len(names) + 1.5), columns=2) as (drawing, axes):
        for place, name in enumerate(names):
            steps = [step for step in progress.steps if name in step.specialties]
            numbers = [step.iteration for step in steps]
            style: dict[str, Any] = {
                "color": LINES[place % len(LINES)],
                "marker": MARKERS[place % len(MARKERS)],
                "markersize": 4,
                "linewidth": 1,
            }
            axes[0].plot(numbers, [step.specialties[name].value for step in steps], **style)
            axes[1].plot(numbers, [step.specialties[name].train for step in steps], **style, label=name)
        _draw_overall(axes[0], [(step.iteration, step.finetuned) for step in progress.steps])
        axes[0].set(title=f"{progress.measure} of the tuned model", xlabel="iteration")
        axes[0].set_ylim(bottom=0)
        axes[1].set(title="training samples", xlabel="iteration")
        axes[1].set_ylim(bottom=0)
        for axis in axes:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles, labels = axes[1].get_legend_handles_labels()
        overall, named = axes[0].get_legend_handles_labels()
        drawing.legend([*overall, *handles], [*named, *labels], loc="outside right center")
        return png(drawing)


def _draw_overall(axis: "Axes", points: Sequence[tuple[int, Value]]) -> None:
    numbers = [number for number, _ in points]
    ends = [[v.value - v.low for _, v in points], [v.high - v.value for _, v in points]]
    axis.errorbar(
        numbers, [v.value for _, v in points], yerr=ends, color="#000000", linewidth=2, capsize=3, label="all"
    )


def _bars(title: str, labels: Sequence[str], groups: Sequence[tuple[str, Group]]) -> bytes:
    import numpy as np

    with figure(width=max(6.4, 0.8 * len(groups) + 1), height=3.6) as (drawing, axes):
        axis = axes[0]
        measured = {
            engine: [_metric(engine, name, getattr(group.metric(name), side)) for name, group in groups]
            for engine, side in SIDES.items()
        }
        draw_bars(axis, np.arange(len(groups)), measured, ENGINE_COLOURS, digits=2)
        slanted: dict[str, Any] = {"rotation": 30, "ha": "right"} if len(groups) > 6 else {}
        axis.set_xticks(range(len(groups)), labels, **slanted)
        axis.set_ylim(0, 1.08)
        axis.grid(visible=False, axis="x")
        axis.set_title(title)
        drawing.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return png(drawing)


def _metric(engine: str, name: str, value: Value) -> Metric:
    return Metric(
        name=name,
        value=value.value,
        engine=engine,
        split="test",
        label_space="words",
        low=value.low,
        high=value.high,
    )
