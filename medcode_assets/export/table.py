"""What verification found, a column a file."""

from collections.abc import Callable, Sequence

from medcode_assets.export.report import GgufReport

_ROWS: dict[str, Callable[[GgufReport], str]] = {
    "size, MB": lambda report: f"{report.size_bytes / 1e6:,.1f}",
    "KL divergence, nats": lambda report: f"{report.kl_mean:.1e}",
    "same likeliest token": lambda report: f"{report.top1_agreement:.2%}",
    "same greedy answer": lambda report: f"{report.greedy_equal} of {report.greedy_total}",
    "fine-tune kept": lambda report: "–" if report.fine_tune_kept is None else f"{report.fine_tune_kept:.1%}",
}
_F1_ROWS: dict[str, Callable[[GgufReport], str]] = {
    "micro F1 of the merged model": lambda report: f"{report.f1.merged:.4f}" if report.f1 else "–",
    "micro F1 of the file": lambda report: f"{report.f1.file:.4f}" if report.f1 else "–",
    "micro F1 lost": lambda report: f"{report.f1.loss:+.4f}" if report.f1 else "–",
    "its 95 % interval": lambda report: f"{report.f1.low:+.4f} to {report.f1.high:+.4f}" if report.f1 else "–",
    "same codes": lambda report: f"{report.f1.equal_answers} of {report.f1.notes}" if report.f1 else "–",
}
_LAST_ROW: dict[str, Callable[[GgufReport], str]] = {"passed": lambda report: "yes" if report.passed else "no"}


def report_rows(reports: Sequence[GgufReport]) -> list[tuple[str, ...]]:
    """Return headings and rows: measures down, files across; a dash where something was not measured.

    Micro F1 has rows only if it was measured of some file: answers in words have none.
    """
    headings = ("", *(report.quantization.upper() for report in reports))
    rows = _ROWS | (_F1_ROWS if any(report.f1 for report in reports) else {}) | _LAST_ROW
    return [headings, *((name, *map(cell, reports)) for name, cell in rows.items())]


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as columns that line up in a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )
