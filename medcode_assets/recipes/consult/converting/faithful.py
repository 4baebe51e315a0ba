"""Whether a list says what a doctor said: nothing lost, nothing added, nothing turned into its opposite.

It sees words, not meanings: what one word or one negation turns round in a term that it does not know passes.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.recipes.consult.converting.patterns import any_of
from medcode_assets.recipes.consult.converting.prose import named_drugs, said_sentences
from medcode_assets.recipes.consult.outline import Outline, Point
from medcode_assets.recipes.consult.terms import medical_terms
from medcode_assets.recipes.reasoning.support import content_words
from medcode_serving.evidence.sentences import sentences

_RULES = resources.files(__package__).joinpath("faithful.yaml")
_STEM_LETTERS = 6
_LEAST_STEM = 3
_LEAST_STEMS = 2
"""Words of a sentence that is compared with another."""
_ENDING = re.compile(r"(?:ations?|ing|ed|ly|es|en|er|y|e|s)$")
_PUNCTUATION = re.compile(r"[,;:.!?()]")
Said = tuple[str, str]
"""A sentence, and the headings above it."""


class Rules(BaseModel):
    """faithful.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    least_kept: float = Field(ge=0, le=1)
    most_new: float = Field(ge=0, le=1)
    most_heading_words: int = Field(ge=0)
    least_alike: float = Field(gt=0, le=1)
    against: tuple[str, ...]
    perhaps: tuple[str, ...]
    breaks: tuple[str, ...]
    conditions: tuple[str, ...]


def unfaithful(outline: Outline, doctor: str, question: str) -> list[str]:
    """Return the kinds of what a list gets wrong; they are keys of prompts.yaml's `unreadable`.

    Args:
        outline: The list.
        doctor: What it was made from.
        question: The patient's; its words and drugs may be repeated.
    """
    rules, said = read_rules(), list(_said(outline))
    written = "\n".join(text for text, _ in said)
    headings = "\n".join(above for _, above in said)
    heard = [(text, "") for text in said_sentences(doctor)]
    turned = _turned_terms(said, heard) | _turned_sentences(said, heard)
    found = {
        "lost_words": kept_share(f"{written}\n{headings}", doctor) < rules.least_kept,
        "new_words": new_share(written, f"{doctor}\n{question}") > rules.most_new,
        "new_drugs": bool(named_drugs(f"{written}\n{headings}") - named_drugs(f"{doctor}\n{question}")),
        "lost_negation": "lost_negation" in turned,
        "new_negation": "new_negation" in turned,
    }
    return [kind for kind, wrong in found.items() if wrong]


def kept_share(written: str, doctor: str) -> float:
    """Return the share of a doctor's content words, without greetings and farewells, that a list has."""
    wanted = _stems("\n".join(said_sentences(doctor)))
    return len(wanted & _stems(written)) / len(wanted) if wanted else 1.0


def new_share(written: str, known: str) -> float:
    """Return the share of a list's content words that are not among those known."""
    there = _stems(written)
    return len(there - _stems(known)) / len(there) if there else 0.0


def _stems(text: str) -> set[str]:
    words = content_words(text.replace("-", " "))
    return {_stem(word) for word in words if not _patterns().against.fullmatch(word)}


@lru_cache(maxsize=65_536)
def _stem(word: str) -> str:
    """Return what forms of a word share: `stopped`, `stopping` and `stops` are one."""
    if word[0].isdigit():
        return word
    cut = _ENDING.sub("", word)
    if len(cut) < _LEAST_STEM:
        return word
    return (cut[:-1] if cut[-1] == cut[-2] else cut)[:_STEM_LETTERS]


def _said(outline: Outline) -> Iterator[Said]:
    """Yield what a list says: its answer, its points without headings, and what stands behind it."""
    yield outline.answer, ""
    yield from _details(outline.points, "")
    yield outline.closing, ""


def _details(points: Sequence[Point], above: str) -> Iterator[Said]:
    for point in points:
        heading = point.below and len(point.text.split()) <= read_rules().most_heading_words
        if not heading:
            yield point.text, above
        yield from _details(point.below, f"{above}\n{point.text}" if point.below else above)


def _turned_terms(said: Sequence[Said], heard: Sequence[Said]) -> set[str]:
    """Return kinds: a drug or term that the doctor speaks against has lost that, or one has got it."""
    before, after = _stands(heard), _stands(said)
    found = set()
    for key in before.keys() & after.keys():
        if all(certain for certain, _ in before[key]) and not any(possible for _, possible in after[key]):
            found.add("lost_negation")
        if all(certain for certain, _ in after[key]) and not any(possible for _, possible in before[key]):
            found.add("new_negation")
    return found


def _turned_sentences(said: Sequence[Said], heard: Sequence[Said]) -> set[str]:
    """Return kinds: a sentence is almost one of the doctor's, and one of the two has a negation more."""
    patterns, found = _patterns(), set()
    doctors = [(_stems(text), text) for text, _ in _apart(heard)]
    for text, above in _apart(said):
        stems = _stems(text)
        alike, before = max(((_alike(stems, other), one) for other, one in doctors), default=(0.0, ""))
        if alike < read_rules().least_alike:
            continue
        had, has = Counter(patterns.any.findall(before)), Counter(patterns.any.findall(f"{above}\n{text}"))
        gone, come = had - has, Counter(patterns.any.findall(text)) - had
        if any(map(patterns.against.fullmatch, gone)) and not has - had:
            found.add("lost_negation")
        if any(map(patterns.against.fullmatch, come)) and not gone:
            found.add("new_negation")
    return found


def _alike(one: set[str], other: set[str]) -> float:
    """Return the Jaccard index of two sets of stems; 0 where they are too few to tell."""
    return len(one & other) / len(one | other) if min(len(one), len(other)) >= _LEAST_STEMS else 0.0


def _apart(said: Sequence[Said]) -> Iterator[Said]:
    """Yield what is said sentence by sentence, in plain lower case."""
    for text, above in said:
        for start, end in sentences(text):
            yield _plain(text[start:end]), _plain(above)


def _stands(said: Sequence[Said]) -> dict[str, list[tuple[bool, bool]]]:
    """Return of each drug and term, for each sentence with it, whether it is spoken against: for certain, possibly."""
    found = defaultdict(list)
    for sentence, above in _apart(said):
        possible = bool(_patterns().any.search(f"{above}\n{sentence}"))
        certain = _keys(" . ".join(clause for clause in _clauses(sentence) if _is_against(clause)))
        for key in _keys(sentence):
            found[key].append((key in certain, possible))
    return found


def _plain(text: str) -> str:
    return text.lower().replace("’", "'")


def _keys(text: str) -> set[str]:
    return named_drugs(text) | medical_terms(text)


def _clauses(sentence: str) -> list[str]:
    """Return the parts of a sentence that a negation does not reach beyond."""
    parts = (part for clause in _PUNCTUATION.split(sentence) for part in _patterns().breaks.split(clause))
    found = []
    for part in parts:
        starts = [0, *(match.start() for match in _patterns().conditions.finditer(part)), len(part)]
        found += [part[start:end] for start, end in zip(starts, starts[1:], strict=False) if start < end]
    return found


def _is_against(clause: str) -> bool:
    patterns = _patterns()
    cues = patterns.any.findall(clause)
    return (
        len(cues) == 1 and bool(patterns.against.fullmatch(cues[0])) and not patterns.conditions.match(clause.lstrip())
    )


@cache
def read_rules() -> Rules:
    """Return what faithful.yaml holds."""
    return Rules.model_validate(yaml.safe_load(_RULES.read_text(encoding="utf-8")))


class _Patterns:
    """The cues as patterns over lower-case text."""

    def __init__(self, rules: Rules) -> None:
        self.against = any_of(rules.against)
        self.any = any_of((*rules.against, *rules.perhaps))
        self.breaks = any_of(rules.breaks)
        self.conditions = any_of(rules.conditions)


@cache
def _patterns() -> _Patterns:
    return _Patterns(read_rules())
