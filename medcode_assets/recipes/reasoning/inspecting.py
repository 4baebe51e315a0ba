"""A made corpus held against the rules of `medcode data check`, and its counts as tables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcode_assets.recipes.reasoning.quality import check_files, quality_checks
from medcode_assets.recipes.reasoning.quality_page import quality_page
from medcode_assets.recipes.reasoning.rules import Limits, rule_book
from medcode_assets.recipes.reasoning.settings import ReasoningSettings
from medcode_serving.codes.tables import CodeTables

CHECKS = {name: group.what for name, group in rule_book().groups.items()}
"""Asset checks of a corpus, one a group of rules."""
BLOCKING = frozenset({"schema", "valid_codes", "reasoning", "leakage"})
"""What must not be trained on; the others are warnings."""
HELD_OUT = ("validation", "test")


def check_corpus(corpus: Path, settings: Mapping[int, ReasoningSettings], tables: CodeTables) -> dict[str, Any]:
    """Check every stage's training file against all held-out files; write a page a stage beside them.

    Returns:
        `checks`: (name, passed, reason) of every group of rules over all stages.
    """
    held_out = [corpus / f"stage_{stage}" / f"{split}.jsonl" for stage in settings for split in HELD_OUT]
    found: dict[str, list[tuple[int, bool, str]]] = {name: [] for name in CHECKS}
    for stage, chosen in settings.items():
        report = check_files(
            corpus / f"stage_{stage}" / "train.jsonl",
            stage,
            held_out,
            Limits(max_reasoning_words=chosen.max_reasoning_words, near_duplicate=chosen.near_duplicate),
            tables,
            lambda done, total: None,
        )
        (corpus / f"stage_{stage}.html").write_text(quality_page(report), encoding="utf-8")
        for name, passed, reason in quality_checks(report):
            found[name].append((stage, passed, reason))
    return {
        "checks": [
            (name, all(passed for _, passed, _ in results), "; ".join(f"stage {one}: {why}" for one, _, why in results))
            for name, results in found.items()
        ]
    }


def corpus_tables(facts: Mapping[str, Any]) -> dict[str, tuple[list[str], list[tuple[Any, ...]]]]:
    """Return a corpus's counts (`CorpusFacts` as JSON) as tables: headings and rows by name."""
    splits = [
        (stage, split, row["lines"], row["out_of_scope"], _counted(row["by_system"]), _counted(row["by_source"]))
        for stage, found in facts["stages"].items()
        for split, row in found["splits"].items()
    ]
    sources = [
        (stage, source, row["drawn"], row["accepted"], row["duplicates"], _counted(row["rejected_by_kind"]) or 0)
        for stage, found in facts["stages"].items()
        for source, row in found["sources"].items()
    ]
    coverage = [
        (system, f"{row['codes_kept']} of {row['codes_seen']}", f"{row['examples_kept_share']:.1%}")
        for system, row in facts["coverage"].items()
    ]
    return {
        "splits": (["stage", "split", "lines", "out of scope", "systems", "sources"], splits),
        "sources": (["stage", "source", "drawn", "accepted", "duplicates", "rejected"], sources),
        "scope": (["system", "codes", "examples in scope"], coverage),
    }


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
