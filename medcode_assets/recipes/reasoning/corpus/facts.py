"""What is told of a corpus: corpus.json."""

from pydantic import BaseModel, ConfigDict


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True)


class SplitFacts(_Facts):
    """One split of one stage."""

    lines: int
    out_of_scope: int
    """Lines that were dropped, their codes being outside."""
    by_system: dict[str, int]
    by_source: dict[str, int]


class SourceFacts(_Facts):
    """What became of one source's lines in one stage."""

    drawn: int
    accepted: int
    duplicates: int
    """Dropped: the narrative was there before."""
    rejected: int
    """Lines with an error."""
    rejected_by_kind: dict[str, int]
    """A line with two errors counts twice."""
    warnings_by_kind: dict[str, int]
    cleaned: int
    """Narratives that preprocessing changed."""
    dry: bool
    """It ran out, or only repeated itself, before there were enough examples."""


class StageFacts(_Facts):
    """One stage."""

    examples_wanted: int
    accepted: int
    """Without what is rejected or twice; in and out of scope."""
    splits: dict[str, SplitFacts]
    sources: dict[str, SourceFacts]


class ClusterFacts(_Facts):
    """Narratives that are nearly the same or of one patient, over all stages."""

    clusters: int
    of_several_lines: int
    largest: int
    """Lines in the largest one."""


class CoverageFacts(_Facts):
    """One code system, over all stages and splits."""

    codes_seen: int
    codes_kept: int
    examples_seen: int
    examples_kept: int
    examples_kept_share: float


class CorpusFacts(_Facts):
    """A whole corpus."""

    version: int
    stages: dict[int, StageFacts]
    clusters: ClusterFacts
    coverage: dict[str, CoverageFacts]
    """By code system."""
    seconds: float
