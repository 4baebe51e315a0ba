"""Pictures for the Dagster UI: each function returns a PNG's bytes. Those of an evaluation alone: pictures.py."""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

from medcode_assets.evaluation.html.terms import engine_title, metric_title
from medcode_assets.evaluation.report import EvaluationReport

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from medcode_serving.bundle import Metric

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Okabe and Ito's palette, readable with every kind of colour vision."""
ENGINE_COLOURS = {
    "adapter": COLOURS[0],
    "linear": COLOURS[1],
    "untuned_base": COLOURS[2],
    "frequency_prior": "#777777",
}
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
    """Draw micro and macro F1 of every engine side by side, one panel a label space, each with value and interval."""
    with figure(width=8.4, height=3.2, columns=2) as (drawing, axes):
        for axis, space in zip(axes, ("open", "closed"), strict=True):
            _engine_panel(axis, report, space)
        axes[0].set_ylabel("F1 on test")
        axes[1].tick_params(labelleft=False)
        handles, labels = axes[0].get_legend_handles_labels()
        drawing.legend(handles, labels, loc="outside lower center", ncols=max(len(labels), 1))
        drawing.suptitle(
            f"{report.documents:,} test documents, {report.codes:,} codes; threshold from validation", fontsize=9, x=0.5
        )
        return png(drawing)


def loss_curve(points: Sequence[tuple[int, float]], looks: Sequence[tuple[int, Mapping[str, float]]] = ()) -> bytes:
    """Draw the training loss over optimizer steps, and what was measured on the validation split.

    Args:
        points: (step, training loss in nats a token).
        looks: (step, metrics on validation): `loss`, and `micro_f1` where it was measured, on an axis of its own.
    """
    eval_points = [(step, look["loss"]) for step, look in looks if "loss" in look]
    f1_points = [(step, look["micro_f1"]) for step, look in looks if "micro_f1" in look]
    with figure(width=6.0, height=3.0) as (drawing, axes):
        axis = axes[0]
        if len(points) > 50:
            axis.plot(*zip(*points, strict=True), color=COLOURS[0], alpha=0.25, linewidth=0.8)
            axis.plot(*zip(*_smoothed(points), strict=True), color=COLOURS[0], label="training, smoothed")
        elif points:
            axis.plot(*zip(*points, strict=True), color=COLOURS[0], label="training")
        if eval_points:
            axis.plot(*zip(*eval_points, strict=True), color=COLOURS[5], marker="o", markersize=4, label="validation")
            step, loss = min(eval_points, key=lambda point: point[1])
            axis.annotate(
                f"{loss:.3f}", (step, loss), textcoords="offset points", xytext=(0, 8), ha="center", color=COLOURS[5]
            )
        axis.set(xlabel="step", ylabel="loss (nats a token)", title="Training loss")
        axis.set_ylim(bottom=0)
        axis.margins(x=0.02)
        if f1_points:
            right = axis.twinx()
            right.plot(*zip(*f1_points, strict=True), color=COLOURS[3], marker="s", markersize=4, linestyle="--")
            right.set(ylabel="micro F1 of a few notes")
            right.set_ylim(0, 1)
            right.grid(visible=False)
            axis.plot([], [], color=COLOURS[3], marker="s", markersize=4, linestyle="--", label="micro F1 (right)")
        if points or eval_points:
            axis.legend(loc="best")
        return png(drawing)


def search_trials(trials: Sequence[tuple[int, float, bool]]) -> bytes:
    """Draw what each trial of a search came to, and the best so far; trials that were ended early stand apart.

    Args:
        trials: (number, validation loss in nats a token, whether it was ended early), in their order.
    """
    complete = [(number, value) for number, value, early in trials if not early]
    early_ones = [(number, value) for number, value, early in trials if early]
    best = [min(value for _, value in complete[: place + 1]) for place in range(len(complete))]
    from matplotlib.ticker import MaxNLocator

    with figure(width=6.0, height=3.0) as (drawing, axes):
        axis = axes[0]
        axis.set(xlabel="trial", ylabel="validation loss (nats a token)", title="Search")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if complete:
            axis.step([number for number, _ in complete], best, where="post", color=COLOURS[2], label="best so far")
            axis.plot(*zip(*complete, strict=True), "o", color=COLOURS[0], label="complete")
        if early_ones:
            axis.plot(*zip(*early_ones, strict=True), "x", color=COLOURS[5], label="ended early, last value")
        if trials:
            axis.legend(loc="upper right")
        return png(drawing)


def code_frequencies(admissions: Mapping[str, Sequence[int]]) -> bytes:
    """Draw in how many admissions each code is, by its rank within its system, both axes logarithmic.

    Args:
        admissions: By system, the number of admissions of every code, most frequent first.
    """
    with figure(width=6.0, height=3.0) as (drawing, axes):
        axis = axes[0]
        axis.set(xlabel="rank of the code", ylabel="admissions", title="Code frequencies", xscale="log", yscale="log")
        for colour, (system, counts) in zip(COLOURS, admissions.items(), strict=False):
            axis.plot(range(1, len(counts) + 1), counts, color=colour, label=f"{system}: {len(counts):,} codes")
        if admissions:
            axis.legend(loc="upper right")
        return png(drawing)


def length_histogram(bars: Mapping[int, int], quantiles: Mapping[int, float], max_tokens: int) -> bytes:
    """Draw how long the prompts are in tokens, with quantiles, and how many exceed the limit.

    Args:
        bars: Documents in each bar, counted before they are shortened. Bar 0 holds those of up to a
            `BARS_TO_LIMIT`-th of `max_tokens`, bar 1 those of up to twice as much, and so on.
        quantiles: Tokens at each percentile.
        max_tokens: Longer prompts are shortened to this.
    """
    width, documents = max_tokens / BARS_TO_LIMIT, sum(bars.values())
    with figure(width=6.0, height=3.0) as (drawing, axes):
        axis = axes[0]
        axis.set(xlabel="tokens", ylabel="documents", title="Prompt length")
        if documents:
            for colour, limited in ((COLOURS[0], False), (COLOURS[5], True)):
                side = {bar: count for bar, count in bars.items() if (bar >= BARS_TO_LIMIT) == limited}
                axis.bar([bar * width for bar in side], list(side.values()), width, align="edge", color=colour)
            share = sum(count for bar, count in bars.items() if bar >= BARS_TO_LIMIT) / documents
            axis.axvline(max_tokens, color=COLOURS[5], linewidth=1.2, label=f"limit {max_tokens:,}: {share:.1%} cut")
            for (percentile, value), style in zip(quantiles.items(), ("-", "--", ":"), strict=False):
                label = "median" if percentile == 50 else f"{percentile}th percentile"
                axis.axvline(value, color="#333333", linewidth=1, linestyle=style, label=f"{label} {value:,.0f}")
            axis.set_xlim(0, max(max(bars) + 1, BARS_TO_LIMIT) * width)
            axis.legend(loc="upper right", title=f"{documents:,} documents")
        return png(drawing)


def engine_colours(report: EvaluationReport) -> dict[str, str]:
    """Return the colour of each engine of a report, the same in all its pictures."""
    spare = iter(COLOURS[3:] * (1 + len(report.engines)))
    return {one.engine: ENGINE_COLOURS.get(one.engine) or next(spare) for one in report.engines}


def draw_bars(
    axis: "Axes",
    places: "np.ndarray",
    measured: "Mapping[str, Sequence[Metric | None]]",
    colours: Mapping[str, str],
    digits: int = 3,
) -> None:
    """Draw groups of bars with their 95 % intervals as whiskers.

    Args:
        axis: Where.
        places: The middle of each group [groups].
        measured: By engine, its metric in each group; None leaves the bar's place empty.
        colours: By engine.
        digits: Decimal places of the number above each bar.
    """
    width = 0.84 / max(len(measured), 1)
    for index, (engine, metrics) in enumerate(measured.items()):
        offset = (index - (len(measured) - 1) / 2) * width
        values = [metric.value if metric else 0.0 for metric in metrics]
        bars = axis.bar(
            places + offset,
            values,
            width * 0.92,
            yerr=_whiskers(metrics),
            error_kw={"elinewidth": 1, "ecolor": "#222222"},
            capsize=2,
            color=colours[engine],
            label=engine_title(engine),
        )
        axis.bar_label(
            bars, [f"{metric.value:.{digits}f}" if metric else "" for metric in metrics], fontsize=6.5, padding=1.5
        )


def _engine_panel(axis: "Axes", report: EvaluationReport, space: str) -> None:
    import numpy as np

    names = ("micro_f1", "macro_f1")
    measured = {one.engine: [one.measured(name, space) for name in names] for one in report.engines}
    draw_bars(axis, np.arange(len(names)), measured, engine_colours(report))
    axis.set_xticks(range(len(names)), [metric_title(name) for name in names])
    axis.set_ylim(0, 1.08)
    axis.set_yticks(np.linspace(0, 1, 6))
    axis.grid(visible=False, axis="x")
    axis.set_title(f"{space} label space")


def _whiskers(metrics: "Sequence[Metric | None]") -> list[list[float]] | None:
    """Return how far the intervals reach below and above the values; None if there are none."""
    if not any(metric and metric.low is not None for metric in metrics):
        return None
    ends = [(m.value, m.low, m.high) if m and m.low is not None and m.high is not None else (0, 0, 0) for m in metrics]
    return [[max(value - low, 0) for value, low, _ in ends], [max(high - value, 0) for value, _, high in ends]]


def _smoothed(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the running mean over a fiftieth of the curve, which ends where the curve ends."""
    import numpy as np

    window = max(len(points) // 50, 2)
    losses = np.asarray([loss for _, loss in points])
    means = np.convolve(losses, np.ones(window) / window, mode="valid")
    return [(step, float(mean)) for (step, _), mean in zip(points[window - 1 :], means, strict=True)]


@contextmanager
def figure(width: float, height: float, columns: int = 1) -> "Iterator[tuple[Figure, Sequence[Axes]]]":
    """Give an empty figure of some inches; without pyplot, whose figures live on and are no thread's own."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        drawing = Figure(figsize=(width, height), dpi=110, layout="constrained")
        FigureCanvasAgg(drawing)
        axes: Any = drawing.subplots(1, columns, squeeze=False)[0]
        yield drawing, axes


def png(drawing: "Figure") -> bytes:
    """Return a figure as a PNG."""
    picture = BytesIO()
    drawing.savefig(picture, format="png")
    return picture.getvalue()
