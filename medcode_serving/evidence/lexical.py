"""Evidence by words: fast, and independent of what the language model did.

A sentence supports a code by phrases (words and neighbouring pairs) that the code's training notes had and others had
not, as the linear model learned them, and by the words of the code's title. What the sentence negates does not count.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medcode_serving.evidence.negation import negated
from medcode_serving.evidence.sentences import sentences
from medcode_serving.evidence.spans import Span, trim
from medcode_serving.linear.model import LinearModel
from medcode_serving.linear.phrases import find_sorted, ranges
from medcode_serving.linear.text import STOP_WORDS, pair_hashes, phrase_hash, place_tokens, title_stem, title_stems

LONGEST_SPAN = 300
"""Characters. Of a longer sentence the stretch around its most telling words is given."""

_BELIEF = 2.0
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
    """The telling words of a note, in order: stop words and ends of sentences are left out, negated words kept."""

    starts: np.ndarray
    ends: np.ndarray
    stems: np.ndarray
    """uint64."""
    sentence: np.ndarray
    """Number of the sentence that the word stands in."""
    negated: np.ndarray
    """bool."""
    phrases: np.ndarray
    """Hashes of all words, then of pairs, uint64."""
    pairs: np.ndarray
    """The words that are the left ones of the pairs."""

    def members(self, phrase: int) -> tuple[int, ...]:
        """Return the one or two words of a phrase."""
        if phrase < len(self.starts):
            return (phrase,)
        left = int(self.pairs[phrase - len(self.starts)])
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
        by_phrase = self._phrase_weights(words, codes)
        return [
            self._strongest(note, bounds, words, weights, self._title_weights(words, code))[:most]
            for code, weights in zip(codes, by_phrase, strict=True)
        ]

    def _phrase_weights(self, words: _Words, codes: Sequence[tuple[str, str]]) -> list[dict[int, float]]:
        """Return for each code how far each of the note's phrases lifts it from its prior to certainty."""
        weights: list[dict[int, float]] = [{} for _ in codes]
        table, asked = self._phrases, [self._trained.get(code, -1) for code in codes]
        if table is None or not len(words.phrases) or max(asked, default=-1) < 0:
            return weights
        distinct, place = np.unique(words.phrases, return_inverse=True)
        rows = find_sorted(table.keys, distinct)
        sizes = table.starts[rows + 1] - table.starts[rows]
        pairs, row_of_pair = ranges(table.starts[rows], sizes), np.repeat(rows, sizes)
        wanted = np.zeros(len(table.prior), bool)
        wanted[[code for code in asked if code >= 0]] = True
        kept = wanted[table.codes[pairs]]
        pairs, row_of_pair = pairs[kept], row_of_pair[kept]
        row_of_phrase = np.searchsorted(table.keys, distinct)[place]
        for number, code in enumerate(asked):
            if code < 0:
                continue
            own = table.codes[pairs] == code
            prior = float(table.prior[code])
            p = (table.hits[pairs[own]] + _BELIEF * prior) / (table.documents[row_of_pair[own]] + _BELIEF)
            telling = (p * (1 - prior) >= _LEAST_ODDS_RATIO * prior * (1 - p)) & (p >= _LEAST_PROBABILITY)
            lift = dict(
                zip(row_of_pair[own][telling].tolist(), ((p[telling] - prior) / (1 - prior)).tolist(), strict=True)
            )
            for phrase in np.flatnonzero(np.isin(row_of_phrase, list(lift))).tolist():
                if words.phrases[phrase] == table.keys[row_of_phrase[phrase]]:
                    weights[number][phrase] = lift[int(row_of_phrase[phrase])]
        return weights

    def _title_weights(self, words: _Words, code: tuple[str, str]) -> dict[int, float]:
        """Return the words of the code's title in the note, each with its share of the title's weight."""
        stems = title_stems(self._descriptions.get(code) or "")
        weights = [self._stem_weights.get(stem, 1.0) for stem in stems]
        share = {stem: weight / sum(weights) for stem, weight in zip(stems, weights, strict=True)}
        found = np.flatnonzero(np.isin(words.stems, np.array(stems, np.uint64)))
        return {word: share[int(words.stems[word])] for word in found.tolist()}

    def _strongest(
        self,
        note: str,
        bounds: Sequence[tuple[int, int]],
        words: _Words,
        phrases: Mapping[int, float],
        title: Mapping[int, float],
    ) -> list[Span]:
        support: dict[int, tuple[dict[int, float], dict[int, float]]] = {}
        for phrase, weight in phrases.items():
            if not any(words.negated[word] for word in words.members(phrase)):
                support.setdefault(int(words.sentence[words.members(phrase)[0]]), ({}, {}))[0][phrase] = weight
        for word, share in title.items():
            if not words.negated[word]:
                support.setdefault(int(words.sentence[word]), ({}, {}))[1][word] = share
        spans = []
        for sentence, (by_phrase, by_title) in support.items():
            doubt, telling = _doubt_of_phrases(words, by_phrase)
            coverage = sum({int(words.stems[word]): share for word, share in by_title.items()}.values())
            if coverage >= _LEAST_COVERAGE:
                doubt *= 1 - _TITLE_TRUST * coverage**2
                telling += [(share, word) for word, share in by_title.items()]
            if 1 - doubt >= _LEAST_SCORE:
                anchor = max(telling, key=lambda pair: (pair[0], -pair[1]))[1]
                spans.append(Span(*_shorten(note, bounds[sentence], words, anchor), 1 - doubt))
        spans.sort(key=lambda span: (-span.score, span.start))
        return [span for span in spans if span.score >= _LEAST_SHARE * spans[0].score]


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
    starts, ends, hashes, stems, after_break = [], [], [], [], []
    broken = True
    for token, start, end in place_tokens(note):
        if not token[0].isalnum():
            broken = True
        elif token not in STOP_WORDS:
            starts.append(start)
            ends.append(end)
            hashes.append(phrase_hash(token))
            stems.append(title_stem(token))
            after_break.append(broken)
            broken = False
    begins = np.array(starts, np.int64)
    sentence = np.searchsorted([start for start, _ in bounds], begins, side="right") - 1
    words = np.array(hashes, np.uint64)
    left = np.flatnonzero(~np.array(after_break[1:], bool) & (sentence[1:] == sentence[:-1]))
    is_negated = np.zeros(len(begins), bool)
    for bound in bounds:
        for start, end in negated(note, *bound):
            is_negated[np.searchsorted(begins, start) : np.searchsorted(begins, end)] = True
    return _Words(
        begins,
        np.array(ends, np.int64),
        np.array(stems, np.uint64),
        sentence,
        is_negated,
        np.concatenate([words, pair_hashes(words[left], words[left + 1])]),
        left,
    )


def _shorten(note: str, bound: tuple[int, int], words: _Words, anchor: int) -> tuple[int, int]:
    """Return the sentence, or what stands around a word of it, cut between words."""
    start, end = bound
    if end - start <= LONGEST_SPAN:
        return bound
    middle = int(words.starts[anchor] + words.ends[anchor]) // 2
    first = min(max(start, middle - LONGEST_SPAN // 2), end - LONGEST_SPAN)
    inside = np.flatnonzero((words.starts >= first) & (words.ends <= first + LONGEST_SPAN))
    if anchor not in inside:  # a single word as long as a span
        return int(words.starts[anchor]), min(int(words.ends[anchor]), int(words.starts[anchor]) + LONGEST_SPAN)
    last = first + LONGEST_SPAN if first + LONGEST_SPAN == end else int(words.ends[inside[-1]])
    return trim(note, first if first == start else int(words.starts[inside[0]]), last)


def _stem_weights(descriptions: Mapping[tuple[str, str], str | None]) -> dict[int, float]:
    """Return log((titles + 1) / (titles with the stem + 1)) + 1 by stem: "acute" tells less than "appendicitis"."""
    counts = Counter(stem for title in descriptions.values() for stem in title_stems(title or ""))
    return {stem: math.log((len(descriptions) + 1) / (count + 1)) + 1 for stem, count in counts.items()}
