"""Pictures of recipe medqa for the Dagster UI: PNGs' bytes."""

from medcode_assets.evaluation.plots import COLOURS, figure, png
from medcode_assets.recipes.medqa.brevity import BrevityReport
from medcode_assets.recipes.medqa.confidence import ConfidenceReport
from medcode_assets.recipes.medqa.errors import ErrorReport

MOST_PATTERNS = 16
"""Bars that are drawn; more could not be read."""


def confidence_curve(report: ConfidenceReport) -> bytes:
    """Draw the share of right answers over the confidence, before and after calibration; the diagonal is perfect."""
    with figure(width=4.6, height=4.6) as (drawing, axes):
        axis = axes[0]
        axis.plot([0, 1], [0, 1], color="#777777", linewidth=1, linestyle="--")
        for bins, colour, label in (
            (report.before, COLOURS[1], f"as told: error {report.ece_before:.3f}"),
            (report.after, COLOURS[0], f"temperature {report.temperature:.2f}: error {report.ece:.3f}"),
        ):
            axis.plot([one.confidence for one in bins], [one.right for one in bins], color=colour, label=label)
            sizes = [12 + 160 * one.answers / max(1, report.answers) for one in bins]
            axis.scatter([one.confidence for one in bins], [one.right for one in bins], s=sizes, color=colour)
        axis.set(xlabel="confidence", ylabel="share of right answers", title=f"{report.answers:,} answers of test")
        axis.set_xlim(0, 1.02)
        axis.set_ylim(0, 1.02)
        drawing.legend(*axis.get_legend_handles_labels(), loc="outside lower center")
        return png(drawing)


def brevity_points(report: BrevityReport) -> bytes:
    """Draw accuracy over the words of an answer under each setting of the controls."""
    with figure(width=6.4, height=4.0) as (drawing, axes):
        axis = axes[0]
        for place, row in enumerate(report.rows):
            chosen = place == report.recommended
            colour = COLOURS[5] if chosen else COLOURS[0] if place else COLOURS[1]
            axis.scatter([row.words], [row.accuracy_generated], color=colour, s=60 if chosen else 28, zorder=3)
        free = report.rows[0]
        best = "none" if report.recommended is None else report.rows[report.recommended].label
        axis.scatter([], [], color=COLOURS[1], label="no control")
        axis.scatter([], [], color=COLOURS[5], label=f"recommended: {best}")
        axis.axhline(free.accuracy_generated - report.may_lose, color="#777777", linewidth=1, linestyle="--")
        axis.set(
            xlabel="words an answer",
            ylabel="accuracy of written answers",
            title=f"{report.questions:,} validation questions",
        )
        axis.set_xlim(left=0)
        axis.set_ylim(0, 1.02)
        drawing.legend(*axis.get_legend_handles_labels(), loc="outside lower center")
        return png(drawing)


def error_bars(report: ErrorReport) -> bytes:
    """Draw the error rate where each trait is, findings apart, and that of all answers as a line."""
    shown = [one for one in report.patterns if not one.fault and one.answers][:MOST_PATTERNS][::-1]
    with figure(width=7.2, height=1.7 + 0.26 * max(1, len(shown))) as (drawing, axes):
        axis = axes[0]
        bars = axis.barh(
            [one.title for one in shown],
            [one.error_rate or 0.0 for one in shown],
            color=[COLOURS[5] if one.finding else COLOURS[4] for one in shown],
        )
        axis.bar_label(bars, [f"{one.wrong:,} of {one.answers:,}" for one in shown], fontsize=7, padding=2)
        if report.answers:
            overall = report.wrong / report.answers
            axis.axvline(overall, color="#333333", linewidth=1, linestyle="--", label=f"all answers: {overall:.0%}")
            drawing.legend(*axis.get_legend_handles_labels(), loc="outside lower center")
        axis.set(xlabel="share of wrong answers", title="Where answers are wrong")
        axis.set_xlim(0, 1.15)
        axis.grid(visible=False, axis="y")
        return png(drawing)
