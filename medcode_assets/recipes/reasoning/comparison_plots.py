"""The stages' comparison as a picture for the Dagster UI: a PNG's bytes."""

from medcode_assets.evaluation.plots import COLOURS, draw_bars, figure, png
from medcode_assets.recipes.reasoning.comparison import DRAWN, MEASURES, Comparison, StageResult
from medcode_serving.bundle import Metric

STAGE_COLOURS: dict[str, str] = {
    "untuned_base": COLOURS[2],
    "frequency_prior": "#777777",
    "stage_1": COLOURS[0],
    "stage_2": COLOURS[1],
    "stage_3": COLOURS[3],
}
"""A stage has the same colour in every picture; baselines have those that evaluations give them."""


def stage_bars(comparison: Comparison) -> bytes:
    """Draw every stage's main measures side by side with their 95 % intervals; what was not measured stays empty."""
    import numpy as np

    names = [name for name in DRAWN if any(stage.rate(name) for stage in comparison.stages)]
    with figure(width=9.6, height=3.6) as (drawing, axes):
        axis = axes[0]
        measured: dict[str, list[Metric | None]] = {
            stage.name: [_metric(stage, name) for name in names] for stage in comparison.stages
        }
        draw_bars(axis, np.arange(len(names)), measured, STAGE_COLOURS, digits=2)
        axis.set_xticks(range(len(names)), [MEASURES[name].title for name in names])
        axis.set_ylim(0, 1.08)
        axis.set_yticks(np.linspace(0, 1, 6))
        axis.grid(visible=False, axis="x")
        axis.set_title(f"{comparison.narratives:,} narratives of the test split")
        drawing.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=len(comparison.stages))
        return png(drawing)


def _metric(stage: StageResult, name: str) -> Metric | None:
    rate = stage.rate(name)
    if rate is None:
        return None
    ends = {"low": rate.low, "high": rate.high}
    return Metric(name=name, value=rate.value, engine=stage.name, split="test", label_space="open", **ends)
