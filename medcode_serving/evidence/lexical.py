"""Evidence by words: fast, and independent of what the language model did.

A sentence supports a code by phrases (words and neighbouring pairs) that the code's training notes had and others had
not, as the linear model learned them, and by the words of the code's title. What the sentence negates does not count.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medcode_serving.evidence.negation import negated
from medcode_serving.evidence.sentences import sentences
from medcode_serving.evidence.spans import Span, without_bullet
from medcode_serving.linear.model import LinearModel
from medcode_serving.linear.phrases import BELIEFS, find_sorted, ranges
from medcode_serving.linear.text import STOP_WORDS, pair_hashes, phrase_hash, place_tokens, title_stem, title_stems

LONGEST_SPAN = 300
"""Characters. Of a longer sentence the stretch around its most telling word is given."""

_BELIEF = BELIEFS[-1]
"""The careful one: of two words the one seen more often is shown. Best on made-up notes whose evidence is known."""
_LEAST_ODDS_RATIO = 3.0
"""A phrase counts if it makes the code this much likelier..."""
_LEAST_PROBABILITY = 0.03
"""... and not unlikely."""
_LEAST_COVERAGE = 0.5
"""Of the weight of a title's words in one sentence: "chronic" is no evidence of chronic pain."""
_TITLE_TRUST = 0.9
"""Probability of a code whose whole title stands in a sentence."""
_LEAST_SCORE = 0.05
_LEAST_SHARE = 0.25
"""Of the best span's score; weaker ones would only be there to fill the list."""


@dataclass(frozen=True)
class _Words:
    """The words of a note, in order, without stop words and ends of sentences."""

    starts: np.ndarray
    ends: np.ndarray
    stems: np.ndarray
    """uint64."""
    sentence: list[int]
    """Number of the sentence that the word stands in."""
    negated: list[bool]
    phrases: np.ndarray
    """Hashes of all words, then of pairs of neighbours, uint64; 0 where a number is in it."""
    pairs: list[int]
    """The words that are the left ones of the pairs."""

    def members(self, phrase: int) -> tuple[int, ...]:
        """Return the one or two words of a phrase."""
        if phrase < len(self.starts):
            return (phrase,)
        left = self.pairs[phrase - len(self.starts)]
        return (left, left + 1)


class LexicalEvidence:
    """Finds the sentences that support a code. Nothing in it changes, so any number of threads may use it."""

    def __init__(self, linear: LinearModel | None, descriptions: Mapping[tuple[str, str], str | None]) -> None:
        """Take what is needed.

        Args:
            linear: The bundle's linear model; without it only the words of titles are looked for.
            descriptions: Title of each code, by system and code.
        """
        self._descriptions = descriptions
        self._phrases = linear.scorers.phrases if linear else None
        trained = linear.codes[: len(linear.scorers.frequency)] if linear else ()
        self._trained = {(code.system, code.code): number for number, code in enumerate(trained)}
        self._stem_weights = _stem_weights(descriptions)

    def find(self, note: str, codes: Sequence[tuple[str, str]], *, most: int = 3) -> list[list[Span]]:
        """Return the spans that support each code, the strongest first, at most `most`; none where nothing does.

        Args:
            note: The text as it was submitted.
            codes: System and code.
            most: Spans a code at most.
        """
        bounds = sentences(note)
        words = _read(note, bounds)
        found = []
        for code, weights in zip(codes, self._phrase_weights(words, codes), strict=True):
            strongest = _weigh_sentences(words, weights, self._title_weights(words, code))[:most]
            stretches = [_shorten(bounds[one.sentence], words, one.word) for one in strongest]
            scored = zip(stretches, strongest, strict=True)
            found.append([Span(*without_bullet(note, *stretch), one.score) for stretch, one in scored])
        return found

    def _phrase_weights(self, words: _Words, codes: Sequence[tuple[str, str]]) -> list[dict[int, float]]:
        """Return for each code how far each of the note's phrases lifts it from its prior to certainty."""
        weights: list[dict[int, float]] = [{} for _ in codes]
        table, asked = self._phrases, [self._trained.get(code, -1) for code in codes]
        rows = find_sorted(table.keys, np.unique(words.phrases)) if table else np.zeros(0, np.int64)
        if table is None or not len(rows):
            return weights
        place = np.minimum(np.searchsorted(table.keys[rows], words.phrases), len(rows) - 1)
        known = np.flatnonzero(table.keys[rows][place] == words.phrases)
        sizes = table.starts[rows + 1] - table.starts[rows]
        pairs, row = ranges(table.starts[rows], sizes), np.repeat(np.arange(len(rows)), sizes)
        kept = np.isin(table.codes[pairs], asked)
        pairs, row = pairs[kept], row[kept]
        for number, code in enumerate(asked):
            own = table.codes[pairs] == code
            if own.any():
                documents = table.documents[rows[row[own]]]
                lift = np.zeros(len(rows))
                lift[row[own]] = _lift(table.hits[pairs[own]], documents, float(table.prior[code]))
                found = known[lift[place[known]] > 0]
                weights[number] = dict(zip(found.tolist(), lift[place[found]].tolist(), strict=True))
        return weights

    def _title_weights(self, words: _Words, code: tuple[str, str]) -> dict[int, float]:
        """Return the words of the code's title in the note, each with its share of the title's weight."""
        stems = title_stems(self._descriptions.get(code) or "")
        weights = [self._stem_weights.get(stem, 1.0) for stem in stems]
        share = {stem: weight / sum(weights) for stem, weight in zip(stems, weights, strict=True)}
        found = np.flatnonzero(np.isin(words.stems, np.array(stems, np.uint64)))
        return {word: share[int(words.stems[word])] for word in found.tolist()}


@dataclass(frozen=True)
class _Support:
    """A sentence that supports a code."""

    sentence: int
    score: float
    word: int
    """Its most telling word."""


def _weigh_sentences(words: _Words, phrases: Mapping[int, float], title: Mapping[int, float]) -> list[_Support]:
    """Return the sentences that support a code enough, the strongest first.

    Args:
        words: The note.
        phrases: Lift of each phrase that tells of the code.
        title: Share of each word that is in the code's title.
    """
    by_sentence: defaultdict[int, tuple[dict[int, float], dict[int, float]]] = defaultdict(lambda: ({}, {}))
    for phrase, lift in phrases.items():
        members = words.members(phrase)
        if not any(words.negated[word] for word in members):
            by_sentence[words.sentence[members[0]]][0][phrase] = lift
    for word, share in title.items():
        if not words.negated[word]:
            by_sentence[words.sentence[word]][1][word] = share
    found = []
    for sentence, (lifts, shares) in by_sentence.items():
        doubt, telling = _doubt_of_phrases(words, lifts)
        coverage = sum({int(words.stems[word]): share for word, share in shares.items()}.values())
        if coverage >= _LEAST_COVERAGE:
            doubt *= 1 - _TITLE_TRUST * coverage**2
            telling += [(share, word) for word, share in shares.items()]
        if 1 - doubt >= _LEAST_SCORE:
            found.append(_Support(sentence, 1 - doubt, max(telling, key=lambda pair: (pair[0], -pair[1]))[1]))
    found.sort(key=lambda one: (-one.score, one.sentence))
    return [one for one in found if one.score >= _LEAST_SHARE * found[0].score]


def _lift(hits: np.ndarray, documents: np.ndarray, prior: float) -> np.ndarray:
    """Return how far phrases lift a code from its prior (0) to certainty (1); 0 for those that tell too little."""
    p = (hits + _BELIEF * prior) / (documents + _BELIEF)
    telling = (p * (1 - prior) >= _LEAST_ODDS_RATIO * prior * (1 - p)) & (p >= _LEAST_PROBABILITY)
    return np.where(telling, (p - prior) / (1 - prior), 0.0)


def _doubt_of_phrases(words: _Words, phrases: Mapping[int, float]) -> tuple[float, list[tuple[float, int]]]:
    """Return the probability that none of a sentence's phrases tells of the code, and weight and word of each.

    Each word counts once, in its most telling phrase, and each phrase once.
    """
    doubt, used, seen, telling = 1.0, set[int](), set[int](), []
    for phrase, weight in sorted(phrases.items(), key=lambda pair: (-pair[1], pair[0])):
        members, key = words.members(phrase), int(words.phrases[phrase])
        if used.isdisjoint(members) and key not in seen:
            doubt *= 1 - weight
            telling.append((weight, members[0]))
            used.update(members)
            seen.add(key)
    return doubt, telling


def _read(note: str, bounds: Sequence[tuple[int, int]]) -> _Words:
    starts, ends, hashes, stems, numbers, after_break = [], [], [], [], [], []
    broken = True
    for token, start, end in place_tokens(note):
        if not token[0].isalnum():
            broken = True
        elif token not in STOP_WORDS:
            starts.append(start)
            ends.append(end)
            hashes.append(phrase_hash(token))
            stems.append(title_stem(token))
            numbers.append(token[0].isdigit() and token[-1].isdigit())
            after_break.append(broken)
            broken = False
    begins = np.array(starts, np.int64)
    sentence = np.searchsorted([start for start, _ in bounds], begins, side="right") - 1
    words, number = np.array(hashes, np.uint64), np.array(numbers, bool)
    left = np.flatnonzero(~np.array(after_break[1:], bool) & (sentence[1:] == sentence[:-1]))
    is_negated = np.zeros(len(begins), bool)
    for bound in bounds:
        for start, end in negated(note, *bound):
            is_negated[np.searchsorted(begins, start) : np.searchsorted(begins, end)] = True
    return _Words(
        begins,
        np.array(ends, np.int64),
        np.array(stems, np.uint64),
        sentence.tolist(),
        is_negated.tolist(),
        np.where(
            np.concatenate([number, number[left] | number[left + 1]]),
            np.uint64(0),  # "122" and "93 %" were in the notes by chance
            np.concatenate([words, pair_hashes(words[left], words[left + 1])]),
        ),
        left.tolist(),
    )


def _shorten(bound: tuple[int, int], words: _Words, word: int) -> tuple[int, int]:
    """Return the sentence, or the words around one of its words."""
    start, end = bound
    if end - start <= LONGEST_SPAN:
        return bound
    middle = int(words.starts[word] + words.ends[word]) // 2
    first = min(max(start, middle - LONGEST_SPAN // 2), end - LONGEST_SPAN)
    inside = np.flatnonzero((words.starts >= first) & (words.ends <= first + LONGEST_SPAN))
    if word not in inside:  # a word longer than a span
        return int(words.starts[word]), int(words.starts[word]) + LONGEST_SPAN
    return int(words.starts[inside[0]]), int(words.ends[inside[-1]])


def _stem_weights(descriptions: Mapping[tuple[str, str], str | None]) -> dict[int, float]:
    """Return log((titles + 1) / (titles with the stem + 1)) + 1 by stem: "acute" tells less than "appendicitis"."""
    counts = Counter(stem for title in descriptions.values() for stem in title_stems(title or ""))
    return {stem: math.log((len(descriptions) + 1) / (count + 1)) + 1 for stem, count in counts.items()}
