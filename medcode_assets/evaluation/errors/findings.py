"""Which patterns are large enough to be told, and what may mend them. The words are data: patterns.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.evaluation.errors.model import ErrorAnalysis, Finding, Totals, micro_f1


class Pattern(BaseModel):
    """One kind of error that has a cause of its own, as patterns.yaml lists it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    what: str = Field(description="What it is, whatever its size.")
    at_least: float = Field(description="Share from which it is told.")
    sentence: str = Field(description="With {count}, {share}, the fields of Totals, and what its measure adds.")
    suggestion: str = Field(description="What to do, by the names of settings and commands.")


@dataclass(frozen=True)
class Measure:
    """How large a pattern is."""

    count: int
    of: int
    """What `count` is a share of."""
    missed: int = 0
    """Missed pairs that it accounts for."""
    spurious: int = 0
    """Spurious pairs that it accounts for."""
    words: Mapping[str, float] = field(default_factory=dict)
    """More numbers that its sentence names."""

    @property
    def share(self) -> float:
        """The part of the whole; 0 of nothing is 0."""
        return self.count / self.of if self.of else 0.0


@cache
def patterns() -> tuple[Pattern, ...]:
    """Return the patterns that patterns.yaml lists."""
    text = resources.files(__package__).joinpath("patterns.yaml").read_text(encoding="utf-8")
    return tuple(Pattern.model_validate(entry) for entry in yaml.safe_load(text))


def find(analysis: ErrorAnalysis) -> tuple[Finding, ...]:
    """Return the patterns that are large enough, largest gain first.

    A gain is by how much micro F1 would rise if the pattern's missed pairs were right and its spurious ones not told.
    Patterns overlap, so gains do not add up.
    """
    totals, measures = analysis.totals, measured(analysis)
    found = [
        _finding(pattern, measures[pattern.name], totals)
        for pattern in patterns()
        if measures[pattern.name].count and measures[pattern.name].share >= pattern.at_least
    ]
    return tuple(sorted(found, key=lambda finding: -finding.gain))


def measured(analysis: ErrorAnalysis) -> dict[str, Measure]:
    """Return the size of every pattern, by its name."""
    totals = analysis.totals
    surplus = totals.predicted - totals.gold
    unnamed = sum(section.gold - section.right for section in analysis.sections if section.section is None)
    cut = sum(section.cut_gold - section.cut_right for section in analysis.sections)
    return {
        **{near.pattern: Measure(near.pairs, totals.missed, near.pairs, near.pairs) for near in analysis.near_misses},
        "unseen_codes": _missed(_missed_in(analysis, "frequency:unseen"), totals),
        "rare_codes": _missed(_missed_in(analysis, "frequency:1-10"), totals),
        "silent_codes": _missed(totals.silent_pairs, totals),
        "below_threshold": _missed(totals.below_threshold, totals),
        "cut_sections": _missed(cut, totals),
        "section_not_found": _missed(unnamed, totals),
        "cut_notes": _cut_notes(analysis),
        "over_coding": Measure(max(surplus, 0), totals.gold, spurious=min(max(surplus, 0), totals.spurious)),
        "under_coding": Measure(max(-surplus, 0), totals.gold, missed=min(max(-surplus, 0), totals.missed)),
        "documents_without_codes": Measure(totals.without_codes, totals.documents, missed=totals.gold_without_codes),
        "unparsable_answers": Measure(totals.with_dropped, totals.documents, missed=min(totals.dropped, totals.missed)),
        "outside_vocabulary": Measure(
            totals.outside_vocabulary, totals.predicted, spurious=min(totals.outside_vocabulary, totals.spurious)
        ),
        "malformed_codes": Measure(totals.malformed, totals.predicted, spurious=min(totals.malformed, totals.spurious)),
    }


def _missed(count: int, totals: Totals) -> Measure:
    return Measure(count, totals.missed, missed=count)


def _missed_in(analysis: ErrorAnalysis, name: str) -> int:
    return sum(part.gold - part.right for part in analysis.slices if part.name == name)


def _cut_notes(analysis: ErrorAnalysis) -> Measure:
    """Return how many more codes would be found if cut notes had the recall of those that were read whole."""
    whole = sum(part.recall for part in analysis.slices if part.name == "cut:none")
    cut = [part for part in analysis.slices if part.kind == "cut" and part.name != "cut:none"]
    gold, right = sum(part.gold for part in cut), sum(part.right for part in cut)
    recall = right / gold if gold else 0.0
    lost = max(round((whole - recall) * gold), 0)
    return Measure(lost, analysis.totals.missed, missed=lost, words={"whole_recall": whole, "cut_recall": recall})


def _finding(pattern: Pattern, measure: Measure, totals: Totals) -> Finding:
    mended = micro_f1(totals.right + measure.missed, totals.gold, totals.predicted + measure.missed - measure.spurious)
    numbers = {**totals.model_dump(), **measure.words, "count": measure.count, "share": measure.share}
    return Finding(
        pattern=pattern.name,
        count=measure.count,
        share=measure.share,
        gain=mended - totals.micro_f1,
        sentence=pattern.sentence.format(**numbers),
        suggestion=pattern.suggestion,
    )
