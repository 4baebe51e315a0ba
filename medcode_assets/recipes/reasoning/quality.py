"""The quality of a stage's whole file: its lines by the rules, duplicates, leakage between splits, balance.

Files are streamed. What is kept of a line is its narrative's digest and signature, about 2 kB: of 50,000 lines some
100 MB.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from medcode_assets.recipes.reasoning.corpus.duplicates import NearDuplicates, normalised
from medcode_assets.recipes.reasoning.formats import Line, Stage3Line
from medcode_assets.recipes.reasoning.lines import Problem, detect_stage, read_lines, refuse_no_file
from medcode_assets.recipes.reasoning.quality_report import (
    EXAMPLES,
    CodeCount,
    Example,
    OtherFile,
    ProblemCount,
    QualityReport,
    SystemCounts,
    lengths_of,
)
from medcode_assets.recipes.reasoning.rules import Limits, line_problems, rule_book, rules, severity, shown
from medcode_serving.codes.tables import CodeTables
from medcode_serving.errors import MedcodeError

FREQUENT_CODES = 20
"""Codes that a report lists."""
CODES_NAMED = 10
"""Codes that a problem names."""
NO_SOURCE = "(not told)"
UNNAMED_SOURCES = "(others)"
"""Sources beyond the most frequent ones, and those whose name might be text of a note."""
SOURCES = 20
"""Sources that a report lists by name."""
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,40}")


def check_files(
    path: Path,
    stage: int,
    against: Sequence[Path],
    limits: Limits,
    tables: CodeTables,
    on_progress: Callable[[int, int], None],
) -> QualityReport:
    """Check a file of a stage.

    Args:
        path: The file.
        stage: 1, 2 or 3.
        against: Files of other splits, of any stage, in which none of its narratives or groups may stand.
        limits: From where on something is a problem.
        tables: The code systems' codes.
        on_progress: Called with (lines read, lines to be read), those of `against` included.

    Raises:
        MedcodeError: a file cannot be read or is held against itself, or there is no such stage.
    """
    _refuse_itself(path, against)
    total = sum(map(_count_lines, {path, *against}))
    repeats, tally = _Repeats(limits), _Tally(limits)
    done = 0
    for other in dict.fromkeys(against):
        for number, line in read_lines(other, detect_stage(other)):
            done += 1
            on_progress(done, total)
            tally.note(repeats.hold(other, number, line))
        tally.others.append(OtherFile(path=str(other), lines=repeats.held_lines[other]))
    for number, line in read_lines(path, stage):
        done += 1
        on_progress(done, total)
        if isinstance(line, Problem):
            tally.add_unreadable(line)
        else:
            found = [*line_problems(line, number, stage, limits, tables), *repeats.find(number, line)]
            tally.add(line, found)
    return tally.report(path, stage)


def quality_checks(report: QualityReport) -> list[tuple[str, bool, str]]:
    """Return (name, passed, reason) of the checks that rules.yaml groups; `leakage` only if files were held against."""
    checks = []
    for name, group in rule_book().groups.items():
        if name == "leakage" and not report.against:
            continue
        found = [problem for problem in report.problems if problem.group == name]
        passed = not any(group.fails_on in ("warning", problem.severity) for problem in found)
        said = ", ".join(f"{problem.kind} {problem.count:,}" for problem in found)
        checks.append((name, passed, said or group.what))
    return checks


def _refuse_itself(path: Path, against: Sequence[Path]) -> None:
    for file in (path, *against):
        refuse_no_file(file)
    for other in against:
        if other.samefile(path):
            raise MedcodeError(f"{other}: is the file that is checked; hold it against the other splits")


def _count_lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(1 for line in file if line.strip())
    except OSError as error:
        raise MedcodeError(f"{path}: cannot be read ({error.strerror})") from None


class _First(NamedTuple):
    """Where a narrative stood first, and with what answer."""

    line: int
    answer: bytes
    system: str | None
    code: str | None


class _Repeats:
    """Narratives and groups that stand twice: in the file, or in one that it is held against."""

    def __init__(self, limits: Limits) -> None:
        self._near = NearDuplicates(limits.near_duplicate)
        self._own: dict[bytes, _First] = {}
        self._held: dict[bytes, int] = {}
        self._groups: dict[str, int] = {}
        self._files: list[Path] = []
        self._places: list[tuple[int, int]] = []
        """(file from 1, 0 for the one that is checked; line), by the key in `_near`."""
        self.held_lines: Counter[Path] = Counter()
        """Those that can be read, by the file that is held against."""

    def hold(self, file: Path, number: int, line: Line | Problem) -> Iterator[Problem]:
        """Take in a line of another file, before any of the one that is checked."""
        if file not in self._files:
            self._files.append(file)
        if isinstance(line, Problem):
            yield Problem("against_unreadable", 0, f"{file.name}, line {number}: {line.kind}")
            return
        self.held_lines[file] += 1
        if line.metadata.group is not None:
            self._groups.setdefault(line.metadata.group, len(self._files))
        digest = _digest(line.narrative)
        if digest not in self._held:
            self._held[digest] = len(self._places)
            self._similar(len(self._files), number, line.narrative)

    def find(self, number: int, line: Line) -> Iterator[Problem]:
        """Yield where a line's narrative and group stand already."""
        digest, answer = _digest(line.narrative), line.answer
        this = _First(number, _digest(_whole_answer(line)), answer.system, answer.code)
        if line.metadata.group in self._groups:
            yield Problem("group_leak", number, f"in {self._files[self._groups[line.metadata.group] - 1].name}")
        if digest in self._held:
            yield Problem("leak", number, self._named(self._held[digest]))
        if first := self._own.get(digest):
            yield Problem(_repetition(this, first), number, f"line {first.line}")
            return
        self._own[digest] = this
        similar = self._similar(0, number, line.narrative)
        if (others := [key for key in similar if self._places[key][0]]) and digest not in self._held:
            yield Problem("near_leak", number, self._named(others[0]))
        if own := [key for key in similar if not self._places[key][0]]:
            yield Problem("near_duplicate", number, self._named(own[0]))

    def _similar(self, file: int, number: int, narrative: str) -> list[int]:
        self._places.append((file, number))
        return self._near.add(len(self._places) - 1, narrative)

    def _named(self, key: int) -> str:
        file, number = self._places[key]
        return f"{self._files[file - 1].name}, line {number}" if file else f"line {number}"


def _repetition(this: _First, first: _First) -> str:
    if this.answer == first.answer:
        return "duplicate"
    # A narrative may have a diagnosis and a procedure; two diagnoses cannot both be its one code.
    return "contradiction" if this.system == first.system and this.code != first.code else "same_narrative"


def _digest(text: str) -> bytes:
    return blake2b(normalised(text).encode(), digest_size=16).digest()


def _source(line: Line) -> str:
    source = line.metadata.source
    if not source:
        return NO_SOURCE
    return source if _NAME.fullmatch(source) else UNNAMED_SOURCES


def _whole_answer(line: Line) -> str:
    return f"{line.chosen}\n\n{line.rejected}" if isinstance(line, Stage3Line) else line.completion


class _Tally:
    """What was found so far, with the first lines of each kind."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.others: list[OtherFile] = []
        self._counts: Counter[str] = Counter()
        self._examples: defaultdict[str, list[Example]] = defaultdict(list)
        self._lines: Counter[str] = Counter()
        self._codes: Counter[tuple[str, str]] = Counter()
        self._sources: Counter[str] = Counter()
        self._narrative_words: Counter[int] = Counter()
        self._reasoning_words: Counter[int] = Counter()

    def note(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self._counts[problem.kind] += 1
            if self._counts[problem.kind] <= EXAMPLES:
                self._examples[problem.kind].append(Example(line=problem.line, detail=problem.detail))

    def add_unreadable(self, problem: Problem) -> None:
        self._lines.update(["all", severity(problem.kind)])
        self.note([problem])

    def add(self, line: Line, problems: Sequence[Problem]) -> None:
        self._lines.update(["all", "readable", *{severity(problem.kind) for problem in problems}])
        self.note(problems)
        answer = line.answer
        if answer.system and answer.code:
            self._codes[answer.system, shown(answer.code)] += 1
        self._sources[_source(line)] += 1
        self._narrative_words[len(line.narrative.split())] += 1
        if answer.points:
            self._reasoning_words[sum(len(point.split()) for point in answer.points)] += 1

    def report(self, path: Path, stage: int) -> QualityReport:
        self.note(self._file_problems())
        return QualityReport(
            path=str(path).encode(errors="backslashreplace").decode(),  # a name of other bytes than UTF-8
            stage=stage,
            against=tuple(self.others),
            limits=self._limits,
            lines=self._lines["all"],
            readable=self._lines["readable"],
            with_errors=self._lines["error"],
            with_warnings=self._lines["warning"],
            problems=tuple(self._problem_counts()),
            systems=tuple(self._system_counts()),
            frequent_codes=tuple(
                CodeCount(system=system, code=code, lines=lines)
                for (system, code), lines in self._codes.most_common(FREQUENT_CODES)
            ),
            sources=dict(self._most_frequent_sources().most_common()),
            narrative_words=lengths_of(self._narrative_words),
            reasoning_words=lengths_of(self._reasoning_words),
            passed=not any(severity(kind) == "error" for kind in self._counts),
        )

    def _file_problems(self) -> Iterator[Problem]:
        """Yield what is wrong with the file as a whole."""
        if not self._lines["all"]:
            yield Problem("no_lines", 0, "lines: 0")
        coded = self._codes.total()
        for (_, code), lines in self._codes.most_common(1):
            if lines > self._limits.largest_code_share * coded:
                yield Problem("frequent_code", 0, f"{code}: {lines:,} of {coded:,} lines ({lines / coded:.0%})")
        if rare := [code for (_, code), lines in self._codes.items() if lines < self._limits.least_examples]:
            named = ", ".join(sorted(rare)[:CODES_NAMED]) + (" …" if len(rare) > CODES_NAMED else "")
            few = f"fewer than {self._limits.least_examples} lines"
            yield Problem("rare_codes", 0, f"{len(rare):,} of {len(self._codes):,} codes have {few}: {named}")

    def _most_frequent_sources(self) -> Counter[str]:
        listed = Counter(dict(self._sources.most_common(SOURCES)))
        if others := self._sources.total() - listed.total():
            listed[UNNAMED_SOURCES] += others
        return listed

    def _problem_counts(self) -> Iterator[ProblemCount]:
        """Yield the kinds that were found, in the order of rules.yaml."""
        for kind, rule in rules().items():
            if self._counts[kind]:
                yield ProblemCount(
                    kind=kind,
                    group=rule.group,
                    severity=rule.severity,
                    count=self._counts[kind],
                    examples=tuple(self._examples[kind]),
                )

    def _system_counts(self) -> Iterator[SystemCounts]:
        for system in sorted({system for system, _ in self._codes}):
            lines = [count for (of, _), count in self._codes.items() if of == system]
            rare = sum(count < self._limits.least_examples for count in lines)
            yield SystemCounts(system=system, lines=sum(lines), codes=len(lines), rare=rare)
