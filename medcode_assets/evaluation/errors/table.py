"""An error analysis as markdown, for the Dagster UI."""

from collections.abc import Iterable, Sequence

from medcode_assets.evaluation.errors.model import CodeErrors, ErrorAnalysis

LISTED_CODES = 10


def findings_table(analysis: ErrorAnalysis) -> str:
    """Return the findings with what may mend them, near misses, the codes with most errors, slices and sections."""
    totals = analysis.totals
    head = (
        f"{totals.documents:,} documents: {totals.right:,} of {totals.gold:,} gold codes found, {totals.missed:,} "
        f"missed, {totals.spurious:,} spurious; micro F1 {totals.micro_f1:.3f} (open label space). Gains are upper "
        "bounds and overlap."
    )
    findings = [(found.sentence, f"{found.gain:+.3f}", found.suggestion) for found in analysis.findings]
    tables = [
        _table(("finding", "micro F1", "suggestion"), findings)
        if findings
        else "No pattern is large enough to be told.",
        _near_misses(analysis),
        _codes("missed", analysis.missed),
        _codes("spurious", analysis.spurious),
        _slices(analysis),
        _sections(analysis),
    ]
    return "\n\n".join([head, *filter(None, tables)])


def _near_misses(analysis: ErrorAnalysis) -> str:
    rows = [
        (
            near.pattern.replace("_", " "),
            f"{near.pairs:,}",
            f"{near.micro_f1:.3f}",
            ", ".join(f"{example.gold} → {example.predicted} ({example.count:,})" for example in near.examples[:3]),
        )
        for near in analysis.near_misses
        if near.pairs
    ]
    return _table(("near miss", "pairs", "micro F1 if right", "gold → predicted"), rows)


def _codes(kind: str, codes: Sequence[CodeErrors]) -> str:
    rows = [
        (
            f"{code.code} ({code.system})",
            code.description or "",
            f"{code.count:,}",
            f"{code.gold:,}",
            f"{code.predicted:,}",
            f"{code.frequency:,}",
            f"{code.counterpart} ({code.counterpart_count:,})" if code.counterpart else "",
        )
        for code in codes[:LISTED_CODES]
    ]
    in_place = "predicted instead" if kind == "missed" else "in place of"
    return _table((f"most {kind}", "title", kind, "gold", "predicted", "training documents", in_place), rows)


def _slices(analysis: ErrorAnalysis) -> str:
    rows = [
        (part.title, f"{part.documents:,}", f"{part.gold:,}", *map(_three, (part.precision, part.recall, part.f1)))
        for part in analysis.slices
    ]
    return _table(("of", "documents", "gold codes", "precision", "recall", "F1"), rows)


def _sections(analysis: ErrorAnalysis) -> str:
    rows = [
        (
            "no section names it" if section.section is None else section.section.replace("_", " "),
            f"{section.gold:,}",
            _three(section.recall),
            f"{section.cut_gold:,}",
            _three(section.cut_right / section.cut_gold) if section.cut_gold else "",
        )
        for section in analysis.sections
    ]
    return _table(("section that names the code", "gold codes", "recall", "of these cut", "recall of the cut"), rows)


def _three(value: float) -> str:
    return f"{value:.3f}"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a markdown table, or nothing for no rows."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|", *lines]) if lines else ""
