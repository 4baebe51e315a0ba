"""Pictures of one evaluation. An engine has the same colour in all of them; what was not measured stays empty."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medcode_assets.evaluation.html.terms import (
    bucket_title,
    chapter_title,
    engine_title,
    groups_of,
    metric_if_measured,
)
from medcode_assets.evaluation.plots import COLOURS, draw_bars, engine_bars, engine_colours, figure, loss_curve, png
from medcode_assets.evaluation.report import CodesPerNote, EngineEvaluation, EvaluationReport

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHAPTERS_SHOWN = 30
"""Rows of the heat map: those with most gold codes."""
CELLS = 40
"""Squares along each axis of codes per note, at most."""
EMPTY = "#f2f2f2"
"""Cells of the heat map without a number."""


def report_pictures(
    report: EvaluationReport,
    losses: Sequence[tuple[int, float]],
    validation: Sequence[tuple[int, Mapping[str, float]]],
) -> dict[str, bytes]:
    """Draw every picture of a report.

    Args:
        report: What is drawn.
        losses: (step, training loss in nats a token).
        validation: (step, metrics on validation during training): `loss`, and `micro_f1` where it was measured.

    Returns:
        PNGs by name, in the order in which they are shown.
    """
    return {
        "engines": engine_bars(report),
        "precision_recall": precision_recall(report),
        "frequency_buckets": frequency_buckets(report),
        "chapters": chapters(report),
        "codes_per_note": codes_per_note(report),
        "calibration": calibration(report),
        "learning_curve": loss_curve(losses, validation),
    }


def precision_recall(report: EvaluationReport) -> bytes:
    """Draw micro precision over micro recall (open label space) of every engine, with a dot at its threshold."""
    colours = engine_colours(report)
    with figure(width=6.4, height=4.4) as (drawing, axes):
        axis = axes[0]
        _equal_f1(axis)
        for one in report.engines:
            colour = colours[one.engine]
            points = [(point.recall, point.precision) for point in one.curve]
            if len(points) > 1:
                axis.plot(*zip(*points, strict=True), color=colour, linewidth=1.6)
            place = [metric_if_measured(one, name, "open") for name in ("micro_recall", "micro_precision")]
            if place[0] and place[1]:
                label = f"{engine_title(one.engine)}, threshold {one.threshold:.3f}"
                axis.plot(
                    place[0].value,
                    place[1].value,
                    "o",
                    color=colour,
                    markeredgecolor="white",
                    markersize=8,
                    label=label,
                )
        axis.set(xlabel="micro recall", ylabel="micro precision", xlim=(0, 1), ylim=(0, 1.02))
        axis.set_title("Precision and recall over every threshold (open label space, test)")
        _legend_below(drawing, axis, columns=2)
        return png(drawing)


def frequency_buckets(report: EvaluationReport) -> bytes:
    """Draw micro F1 (open label space) by how many training documents a code has, with intervals."""
    import numpy as np

    buckets = groups_of(report, "frequency")
    measured = {
        one.engine: [metric_if_measured(one, "micro_f1", "open", group=bucket.name) for bucket in buckets]
        for one in report.engines
    }
    with figure(width=8.4, height=3.4) as (drawing, axes):
        axis = axes[0]
        if not buckets:
            _say_empty(axis)
        draw_bars(axis, np.arange(len(buckets)), measured, engine_colours(report), digits=2)
        names = [f"{bucket_title(bucket.name)}\n{bucket.codes:,} codes\n{bucket.pairs:,} times" for bucket in buckets]
        axis.set_xticks(range(len(buckets)), names)
        axis.set(xlabel="training documents of a code; codes asked for on test, and how often", ylabel="micro F1")
        axis.set_title("Micro F1 by training frequency of the codes (open label space, test)")
        axis.grid(visible=False, axis="x")
        axis.set_ylim(0, axis.get_ylim()[1] * 1.08)  # room for the number above the highest bar
        _legend_below(drawing, axis, columns=4)
        return png(drawing)


def chapters(report: EvaluationReport) -> bytes:
    """Draw a heat map of micro F1 (open label space), chapters by engines, those most asked for."""
    import numpy as np

    most = sorted(groups_of(report, "chapter"), key=lambda group: -group.pairs)[:CHAPTERS_SHOWN]
    shown = [group for group in report.groups if group in most]
    found = [
        [metric_if_measured(one, "micro_f1", "open", group=group.name) for one in report.engines] for group in shown
    ]
    values = np.array([[cell.value if cell else np.nan for cell in row] for row in found], dtype=float)
    values = values.reshape(len(shown), len(report.engines))
    with figure(width=8.4, height=1.0 + 0.24 * max(len(shown), 1)) as (drawing, axes):
        axis = axes[0]
        _heat_map(axis, values)
        axis.set_yticks(
            range(len(shown)),
            [f"{textwrap.shorten(chapter_title(one), 60, placeholder=' …')}  {one.pairs:,}" for one in shown],
        )
        axis.set_xticks(
            range(len(report.engines)), [engine_title(one.engine).replace(" ", "\n") for one in report.engines]
        )
        axis.tick_params(length=0, labeltop=True, labelbottom=False)
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        drawing.suptitle(
            "Micro F1 by chapter, with its number of gold codes (open label space, test)",
            fontweight="bold",
            fontsize=10,
        )
        return png(drawing)


def codes_per_note(report: EvaluationReport) -> bytes:
    """Draw how many codes are predicted over how many are gold, one panel an engine; darker is more documents."""
    columns = max(len(report.engines), 1)
    cells = [cell for one in report.engines for cell in one.codes_per_note]
    largest = max((max(cell.gold, cell.predicted) for cell in cells), default=1)
    width = -(-(largest + 1) // CELLS)
    with figure(width=max(2.1 * columns, 4.4), height=2.85, columns=columns) as (drawing, axes):
        for axis, one in zip(axes, report.engines, strict=False):
            _codes_panel(axis, one, width, largest, engine_colours(report)[one.engine])
        axes[0].set_ylabel("predicted codes")
        for axis in axes[1:]:
            axis.tick_params(labelleft=False)
        drawing.suptitle("Codes per note, predicted over gold (test)", fontweight="bold", fontsize=10)
        return png(drawing)


def calibration(report: EvaluationReport) -> bytes:
    """Draw the share of right codes over their probability after calibration, and how many codes each bin holds."""
    colours = engine_colours(report)
    with figure(width=8.4, height=3.6, columns=2) as (drawing, axes):
        diagram, counts = axes
        diagram.plot([0, 1], [0, 1], color="#999999", linestyle=":", linewidth=1)
        for one in report.engines:
            bins = one.reliability
            label = f"{engine_title(one.engine)}, error {one.calibration_error:.3f}"
            style: dict[str, Any] = {"color": colours[one.engine], "marker": "o", "markersize": 4, "linewidth": 1.2}
            diagram.plot([b.probability for b in bins], [b.right for b in bins], **style)
            counts.plot([b.probability for b in bins], [b.codes for b in bins], **style, label=label)
        diagram.set(xlabel="calibrated probability", ylabel="share of right codes", xlim=(0, 1), ylim=(0, 1))
        diagram.set_title("Reliability of told codes (test)")
        counts.set(xlabel="calibrated probability", ylabel="told codes", xlim=(0, 1))
        counts.set_title("Codes in each bin")
        if any(one.reliability for one in report.engines):
            counts.set_yscale("log")
            counts.grid(visible=True, which="major")
        _legend_below(drawing, counts, columns=2)
        return png(drawing)


def _equal_f1(axis: "Axes") -> None:
    """Draw thin lines on which F1 is the same."""
    import numpy as np

    for f1 in (0.2, 0.4, 0.6, 0.8):
        recall = np.geomspace(f1 / (2 - f1), 1, 100)
        precision = f1 * recall / (2 * recall - f1)
        axis.plot(recall, precision, color="#bbbbbb", linewidth=0.7, linestyle="--", zorder=1)
        axis.annotate(f"F1 {f1}", (0.995, precision[-1]), color="#777777", fontsize=7, ha="right", va="top")


def _heat_map(axis: "Axes", values: "np.ndarray") -> None:
    """Draw a matrix [rows, columns] with its numbers; NaN is a dash."""
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    highest = float(np.nanmax(values)) if values.size and not np.isnan(values).all() else 1.0
    blues = LinearSegmentedColormap.from_list("blues", ["#ffffff", COLOURS[0]]).with_extremes(bad=EMPTY)
    if not values.size:
        _say_empty(axis)
    else:
        axis.imshow(values, blues, aspect="auto", vmin=0, vmax=highest)
    for (row, column), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{value:.3f}"
        colour = "white" if value > 0.6 * highest else "#222222"
        axis.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)


def _codes_panel(axis: "Axes", one: EngineEvaluation, width: int, largest: int, colour: str) -> None:
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgb
    from matplotlib.ticker import MaxNLocator

    squares = _squares(one.codes_per_note, width, largest)
    shades = LinearSegmentedColormap.from_list("shades", [to_rgb("#e8e8e8"), to_rgb(colour), _darker(colour)])
    end = len(squares) * width - 0.5
    most = max(squares.max(), 2) if squares.count() else 2
    axis.imshow(squares, shades, LogNorm(1, most), origin="lower", extent=(-0.5, end, -0.5, end))
    axis.plot([0, largest], [0, largest], color="#444444", linestyle=":", linewidth=1)
    axis.grid(visible=False)
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.set_title(engine_title(one.engine), fontsize=9, fontweight="normal")
    axis.set_xlabel("gold codes")


def _darker(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    return 0.3 * red, 0.3 * green, 0.3 * blue


def _squares(cells: Sequence[CodesPerNote], width: int, largest: int) -> "np.ma.MaskedArray":
    """Return documents by [predicted, gold], both in bins of `width` codes; empty bins are masked."""
    import numpy as np

    documents = np.zeros((largest // width + 1,) * 2)
    for cell in cells:
        documents[cell.predicted // width, cell.gold // width] += cell.documents
    return np.ma.masked_equal(documents, 0)


def _legend_below(drawing: "Figure", axis: "Axes", columns: int) -> None:
    """Put the axes' legend below the figure, if it has one."""
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        drawing.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))


def _say_empty(axis: "Axes") -> None:
    axis.text(0.5, 0.5, "nothing was measured", transform=axis.transAxes, ha="center", va="center", color="#777777")
