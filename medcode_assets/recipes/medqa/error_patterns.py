"""What goes together with wrong answers: traits of questions, faults of answers, and preferred places of options."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from medcode_assets.recipes.medqa.confidence import option_probabilities
from medcode_assets.recipes.medqa.reading import said
from medcode_assets.recipes.medqa.scoring import score
from medcode_assets.recipes.medqa.settings import ErrorsSection
from medcode_assets.recipes.words.answers import Answered
from medcode_assets.recipes.words.questions import Asked

PATTERNS = Path(__file__).with_name("error_patterns.yaml")


@dataclass(frozen=True)
class Case:
    """A question, its answer, and what that is worth."""

    asked: Asked
    answer: Answered
    wrong: bool
    """What the answer says is not the right one."""
    said: int | None
    likeliest: int | None
    second: int | None
    """The option that is second by likelihood; None without options."""
    confidence: float
    """Calibrated, of the likeliest option; 0 without options."""

    @property
    def stem(self) -> str:
        """The question without its options."""
        return "\n".join(self.asked.question.splitlines()[: -len(self.asked.options) or None])


Holds = Callable[[Case], bool]


@dataclass(frozen=True)
class Pattern:
    """Something that an answer or its question may have."""

    name: str
    title: str
    fault: bool
    """Of answers; else a trait of questions."""
    suggestion: str
    holds: Holds


def cases(asked: Sequence[Asked], answers: Sequence[Answered], temperature: float) -> list[Case]:
    """Return each question with its answer, judged."""
    right = score(asked, answers)["accuracy_generated"]
    return [
        _case(one, answer, not worth, temperature) for one, answer, worth in zip(asked, answers, right, strict=True)
    ]


def _case(asked: Asked, answer: Answered, wrong: bool, temperature: float) -> Case:
    if not asked.options:
        return Case(asked, answer, wrong, None, None, None, 0.0)
    probabilities = option_probabilities(answer, temperature)
    order = probabilities.argsort(kind="stable")[::-1].tolist()
    confidence = float(probabilities[order[0]])
    return Case(asked, answer, wrong, said(asked, answer.text), order[0], order[1], confidence)


def patterns(asked: Sequence[Asked], settings: ErrorsSection) -> list[Pattern]:
    """Return the patterns of error_patterns.yaml; a subject is one for each that the questions have."""
    found = []
    for name, entry in _read()["traits"].items():
        if entry.get("subject"):
            for subject in sorted({one.subject for one in asked if one.subject}):
                title = f"{entry['title']} {subject}"
                found.append(
                    Pattern(f"{name} {subject}", title, False, entry["suggestion"].strip(), _of_subject(subject))
                )
        else:
            found.append(Pattern(name, entry["title"], False, entry["suggestion"].strip(), _trait(entry)))
    for name, entry in _read()["faults"].items():
        check = FAULTS[entry["check"]]
        found.append(Pattern(name, entry["title"], True, entry["suggestion"].strip(), _with(check, settings)))
    return found


@cache
def _read() -> dict[str, Any]:
    contents: dict[str, Any] = yaml.safe_load(PATTERNS.read_text(encoding="utf-8"))
    return contents


def _of_subject(subject: str) -> Holds:
    return lambda case: case.asked.subject == subject


def _trait(entry: Mapping[str, Any]) -> Holds:
    """Return what tells whether a question has a trait of error_patterns.yaml."""
    if "words" in entry:
        least = int(entry["words"])
        return lambda case: len(case.stem.split()) >= least
    if "options" in entry:
        pattern, at_least = re.compile(entry["options"]), int(entry["at_least"])
        return lambda case: sum(bool(pattern.search(text)) for text in _option_lines(case.asked)) >= at_least
    pattern = re.compile(entry["question"], re.IGNORECASE)
    return lambda case: bool(pattern.search(case.stem))


def _option_lines(asked: Asked) -> Iterator[str]:
    for line in asked.question.splitlines()[-len(asked.options) :] if asked.options else ():
        yield line.partition(". ")[2]


def _with(check: "Callable[[Case, ErrorsSection], bool]", settings: ErrorsSection) -> Holds:
    return lambda case: check(case, settings)


def _confident(case: Case, settings: ErrorsSection) -> bool:
    return case.wrong and case.said == case.likeliest and case.confidence >= settings.confident


def _near_miss(case: Case, settings: ErrorsSection) -> bool:
    return case.wrong and case.second is not None and case.second == case.asked.correct


def _knows_better(case: Case, settings: ErrorsSection) -> bool:
    return case.wrong and case.likeliest is not None and case.likeliest == case.asked.correct


def _unreadable(case: Case, settings: ErrorsSection) -> bool:
    return bool(case.asked.options) and case.said is None and bool(case.answer.text.strip())


def _empty(case: Case, settings: ErrorsSection) -> bool:
    return not case.answer.text.strip()


def _too_long(case: Case, settings: ErrorsSection) -> bool:
    reference = max(len(text.split()) for text in case.asked.references)
    return len(case.answer.text.split()) > settings.too_long * reference


def _cut(case: Case, settings: ErrorsSection) -> bool:
    return case.answer.cut


FAULTS: dict[str, Callable[[Case, ErrorsSection], bool]] = {
    "confident": _confident,
    "near_miss": _near_miss,
    "knows_better": _knows_better,
    "unreadable": _unreadable,
    "empty": _empty,
    "too_long": _too_long,
    "cut": _cut,
}
"""The rules that error_patterns.yaml names."""
