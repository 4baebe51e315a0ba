"""Pictures for the Dagster UI and the report: each function returns a PNG's bytes."""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

from medcode_assets.evaluation.report import EvaluationReport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, readable with every kind of colour vision.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": True,
    "legend.framealpha": 1.0,
    "legend.edgecolor": "none",
}
BARS_TO_LIMIT = 25
"""Bars of the length histogram left of the limit, which is an edge of a bar."""


def engine_bars(report: EvaluationReport) -> bytes:
    """Draw micro and macro F1 of every engine side by side, one panel a label space, every bar with its value."""
    with _figure(width=7.6, height=3.2, columns=2) as (figure, axes):
        for axis, space in zip(axes, ("open", "closed"), strict=True):
            _engine_panel(axis, report, space)
        axes[0].set_ylabel("F1 on test")
        axes[1].tick_params(labelleft=False)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.suptitle(
            f"{report.documents:,} test documents, {report.codes:,} codes; threshold from validation", fontsize=9, x=0.5
        )
        return _png(figure)


def loss_curve(points: Sequence[tuple[int, float]], looks: Sequence[tuple[int, Mapping[str, float]]] = ()) -> bytes:
    """Draw the training loss over optimizer steps, and what was measured on the validation split.

    Args:
        points: (step, training loss in nats a token).
        looks: (step, metrics on validation): `loss`, and `micro_f1` where it was measured, on an axis of its own.
    """
    eval_points = [(step, look["loss"]) for step, look in looks if "loss" in look]
    f1_points = [(step, look["micro_f1"]) for step, look in looks if "micro_f1" in look]
    with _figure(width=6.0, height=3.0) as (figure, axes):
        axis = axes[0]
        if len(points) > 50:
            axis.plot(*zip(*points, strict=True), color=_COLOURS[0], alpha=0.25, linewidth=0.8)
            axis.plot(*zip(*_smoothed(points), strict=True), color=_COLOURS[0], label="training, smoothed")
        elif points:
            axis.plot(*zip(*points, strict=True), color=_COLOURS[0], label="training")
        if eval_points:
            axis.plot(*zip(*eval_points, strict=True), color=_COLOURS[1], marker="o", markersize=4, label="validation")
            step, loss = min(eval_points, key=lambda point: point[1])
            axis.annotate(
                f"{loss:.3f}", (step, loss), textcoords="offset points", xytext=(0, 8), ha="center", color=_COLOURS[1]
            )
        axis.set(xlabel="step", ylabel="loss (nats a token)", title="Training loss")
        axis.set_ylim(bottom=0)
        axis.margins(x=0.02)
        if f1_points:
            right = axis.twinx()
            right.plot(*zip(*f1_points, strict=True), color=_COLOURS[2], marker="s", markersize=4, linestyle="--")
            right.set(ylabel="micro F1 of a few notes")
            right.set_ylim(0, 1)
            right.grid(visible=False)
            axis.plot([], [], color=_COLOURS[2], marker="s", markersize=4, linestyle="--", label="micro F1 (right)")
        if points or eval_points:
            axis.legend(loc="best")
        return _png(figure)


def search_trials(trials: Sequence[tuple[int, float, bool]]) -> bytes:
    """Draw what each trial of a search came to, and the best so far; trials that were ended early stand apart.

    Args:
        trials: (number, validation loss in nats a token, whether it was ended early), in their order.
    """
    complete = [(number, value) for number, value, early in trials if not early]
    early_ones = [(number, value) for number, value, early in trials if early]
    best = [min(value for _, value in complete[: place + 1]) for place in range(len(complete))]
    from matplotlib.ticker import MaxNLocator

    with _figure(width=6.0, height=3.0) as (figure, axes):
        axis = axes[0]
        axis.set(xlabel="trial", ylabel="validation loss (nats a token)", title="Search")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if complete:
            axis.step([number for number, _ in complete], best, where="post", color=_COLOURS[2], label="best so far")
            axis.plot(*zip(*complete, strict=True), "o", color=_COLOURS[0], label="complete")
        if early_ones:
            axis.plot(*zip(*early_ones, strict=True), "x", color=_COLOURS[5], label="ended early, last value")
        if trials:
            axis.legend(loc="upper right")
        return _png(figure)


def code_frequencies(admissions: Mapping[str, Sequence[int]]) -> bytes:
    """Draw in how many admissions each code is, by its rank within its system, both axes logarithmic.

    Args:
        admissions: By system, the number of admissions of every code, most frequent first.
    """
    with _figure(width=6.0, height=3.0) as (figure, axes):
        axis = axes[0]
        axis.set(xlabel="rank of the code", ylabel="admissions", title="Code frequencies", xscale="log", yscale="log")
        for colour, (system, counts) in zip(_COLOURS, admissions.items(), strict=False):
            axis.plot(range(1, len(counts) + 1), counts, color=colour, label=f"{system}: {len(counts):,} codes")
        if admissions:
            axis.legend(loc="upper right")
        return _png(figure)


def length_histogram(bars: Mapping[int, int], quantiles: Mapping[int, float], max_tokens: int) -> bytes:
    """Draw how long the prompts are in tokens, with quantiles, and how many exceed the limit.

    Args:
        bars: Documents in each bar, counted before they are shortened. Bar 0 holds those of up to a
            `BARS_TO_LIMIT`-th of `max_tokens`, bar 1 those of up to twice as much, and so on.
        quantiles: Tokens at each percentile.
        max_tokens: Longer prompts are shortened to this.
    """
    width, documents = max_tokens / BARS_TO_LIMIT, sum(bars.values())
    with _figure(width=6.0, height=3.0) as (figure, axes):
        axis = axes[0]
        axis.set(xlabel="tokens", ylabel="documents", title="Prompt length")
        if documents:
            for colour, limited in ((_COLOURS[0], False), (_COLOURS[5], True)):
                side = {bar: count for bar, count in bars.items() if (bar >= BARS_TO_LIMIT) == limited}
                axis.bar([bar * width for bar in side], list(side.values()), width, align="edge", color=colour)
            share = sum(count for bar, count in bars.items() if bar >= BARS_TO_LIMIT) / documents
            axis.axvline(max_tokens, color=_COLOURS[5], linewidth=1.2, label=f"limit {max_tokens:,}: {share:.1%} cut")
            for (percentile, value), style in zip(quantiles.items(), ("-", "--", ":"), strict=False):
                label = "median" if percentile == 50 else f"{percentile}th percentile"
                axis.axvline(value, color="#333333", linewidth=1, linestyle=style, label=f"{label} {value:,.0f}")
            axis.set_xlim(0, max(max(bars) + 1, BARS_TO_LIMIT) * width)
            axis.legend(loc="upper right", title=f"{documents:,} documents")
        return _png(figure)


def _engine_panel(axis: "Axes", report: EvaluationReport, space: str) -> None:
    import numpy as np

    names = [evaluation.engine for evaluation in report.engines]
    places, width = np.arange(len(names)), 0.38
    for offset, metric, colour in ((-0.5, "micro_f1", _COLOURS[0]), (0.5, "macro_f1", _COLOURS[1])):
        values = [evaluation.metric(metric, space) for evaluation in report.engines]
        bars = axis.bar(places + offset * width, values, width * 0.95, color=colour, label=metric.replace("_f1", " F1"))
        axis.bar_label(bars, fmt="{:.3f}", fontsize=7.5, padding=1.5)
    axis.set_xticks(places, [name.replace("_", "\n") for name in names])
    axis.set_ylim(0, 1.08)
    axis.set_yticks(np.linspace(0, 1, 6))
    axis.grid(visible=False, axis="x")
    axis.set_title(f"{space} label space")


def _smoothed(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the running mean over a fiftieth of the curve, which ends where the curve ends."""
    import numpy as np

    window = max(len(points) // 50, 2)
    losses = np.asarray([loss for _, loss in points])
    means = np.convolve(losses, np.ones(window) / window, mode="valid")
    return [(step, float(mean)) for (step, _), mean in zip(points[window - 1 :], means, strict=True)]


@contextmanager
def _figure(width: float, height: float, columns: int = 1) -> "Iterator[tuple[Figure, Sequence[Axes]]]":
    """Give an empty figure of some inches; without pyplot, whose figures live on and are no thread's own."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        axes: Any = figure.subplots(1, columns, squeeze=False)[0]
        yield figure, axes


def _png(figure: "Figure") -> bytes:
    png = BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
