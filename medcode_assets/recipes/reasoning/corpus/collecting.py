"""Draws a stage's lines from its sources: preprocessed, checked, no narrative twice."""

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import TextIO

from medcode_assets.recipes.reasoning.corpus.duplicates import NearDuplicates, normalised
from medcode_assets.recipes.reasoning.corpus.facts import SourceFacts
from medcode_assets.recipes.reasoning.corpus.mixing import mix
from medcode_assets.recipes.reasoning.corpus.scope import Code
from medcode_assets.recipes.reasoning.corpus.sources import (
    SYNTHETIC,
    Numbered,
    cleaned,
    source_lines,
    with_narrative,
)
from medcode_assets.recipes.reasoning.corpus.splits import Clusters
from medcode_assets.recipes.reasoning.formats import Line, Stage1Line, written
from medcode_assets.recipes.reasoning.lines import Problem
from medcode_assets.recipes.reasoning.rules import Limits, line_problems, severity
from medcode_assets.recipes.reasoning.settings import ReasoningSettings
from medcode_serving.codes.systems import dotted
from medcode_serving.codes.tables import CodeTables

PATIENCE = 2_000
"""So many lines in a row that are of no use, and an endless source is taken to have run dry."""
REPORTED_EVERY = 200


@dataclass
class Ledger:
    """What is remembered of every accepted line; the lines themselves lie in files, in the same order."""

    near: NearDuplicates
    clusters: Clusters = field(default_factory=Clusters)
    stage: "array[int]" = field(default_factory=lambda: array("b"))
    source: "array[int]" = field(default_factory=lambda: array("i"))
    code: "array[int]" = field(default_factory=lambda: array("i"))
    sources: list[str] = field(default_factory=list)
    codes: dict[Code, int] = field(default_factory=dict)
    """Number by code, in the order of first sight."""

    def enter(self, line: Line, stage: int, source: str) -> None:
        """Remember a line, and join it with what it belongs to."""
        number = self.clusters.add(line.narrative, line.metadata.group)
        for similar in self.near.add(number, line.narrative):
            self.clusters.join(number, similar)
        if source not in self.sources:
            self.sources.append(source)
        answer = line.answer
        code = (answer.system or "", dotted(answer.system or "", answer.code or ""))
        self.stage.append(stage)
        self.source.append(self.sources.index(source))
        self.code.append(self.codes.setdefault(code, len(self.codes)))


@dataclass
class Tally:
    """Counts of one source in one stage."""

    drawn: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    cleaned: int = 0
    dry: bool = False
    rejected_by_kind: Counter[str] = field(default_factory=Counter)
    warnings_by_kind: Counter[str] = field(default_factory=Counter)

    def facts(self) -> SourceFacts:
        """Return the counts to be told, kinds in alphabetical order."""
        return SourceFacts(
            drawn=self.drawn,
            accepted=self.accepted,
            duplicates=self.duplicates,
            rejected=self.rejected,
            rejected_by_kind=dict(sorted(self.rejected_by_kind.items())),
            warnings_by_kind=dict(sorted(self.warnings_by_kind.items())),
            cleaned=self.cleaned,
            dry=self.dry,
        )


@dataclass(frozen=True)
class Means:
    """What collecting works with, the same for all stages."""

    tables: CodeTables
    mimic: Callable[[str], Iterator[Stage1Line]]
    rejected: TextIO
    """rejected.jsonl"""
    on_progress: Callable[[str, int, int], None]


def collect(stage: int, settings: ReasoningSettings, means: Means, ledger: Ledger, target: TextIO) -> dict[str, Tally]:
    """Write a stage's lines to `target` until there are enough or all sources have run dry.

    Weights are of accepted lines: in place of a line that is dropped, the same source gives its next one.

    Returns:
        Counts by source.
    """
    tallies = {name: Tally() for name in settings.sources}
    seen: set[bytes] = set()
    sources = {name: _usable(name, stage, settings, means, tallies[name], seen) for name in settings.sources}
    lines = islice(mix(sources, settings.sources, settings.seed), settings.examples)
    for number, (name, line) in enumerate(lines, start=1):
        target.write(written(line) + "\n")
        ledger.enter(line, stage, name)
        tallies[name].accepted += 1
        if number % REPORTED_EVERY == 0:
            means.on_progress(f"stage {stage}", number, settings.examples)
    means.on_progress(f"stage {stage}", sum(tally.accepted for tally in tallies.values()), settings.examples)
    return tallies


def _usable(
    name: str, stage: int, settings: ReasoningSettings, means: Means, tally: Tally, seen: set[bytes]
) -> Iterator[Line]:
    """Yield the lines of a source that may be trained on and whose narratives were not seen."""
    limits = Limits(max_reasoning_words=settings.max_reasoning_words)
    reject = partial(_reject, means.rejected, stage, name, tally)
    of_no_use = 0
    for number, line in _cleaned(source_lines(name, stage, settings.seed, means.mimic), tally):
        tally.drawn += 1
        problems = [line] if isinstance(line, Problem) else line_problems(line, number, stage, limits, means.tables)
        errors = [problem for problem in problems if severity(problem.kind) == "error"]
        tally.warnings_by_kind.update(problem.kind for problem in problems if problem not in errors)
        if errors:
            reject(errors)
        elif not isinstance(line, Problem):
            digest = blake2b(normalised(line.narrative).encode(), digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                of_no_use = 0
                yield line
                continue
            tally.duplicates += 1
        of_no_use += 1
        if name in SYNTHETIC and of_no_use >= PATIENCE:
            break
    tally.dry = True


def _cleaned(lines: Numbered, tally: Tally) -> Numbered:
    for number, line in lines:
        if isinstance(line, Problem):
            yield number, line
            continue
        narrative = cleaned(line.narrative)
        if narrative != line.narrative:
            tally.cleaned += 1
            line = with_narrative(line, narrative)
        yield number, line


def _reject(file: TextIO, stage: int, source: str, tally: Tally, problems: list[Problem]) -> None:
    tally.rejected += 1
    tally.rejected_by_kind.update(problem.kind for problem in problems)
    for problem in problems:
        entry = {
            "stage": stage,
            "source": source,
            "line": problem.line,
            "kind": problem.kind,
            "detail": problem.detail,
        }
        file.write(json.dumps(entry) + "\n")
