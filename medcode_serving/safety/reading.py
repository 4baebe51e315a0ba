"""A question or an answer as the rules see it: words, names of drugs, and cues with their reach."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from medcode_serving.safety.names import Named
from medcode_serving.safety.phrases import Hit
from medcode_serving.safety.plain import Plain, plain
from medcode_serving.safety.report import MatchedSpan, Where
from medcode_serving.safety.rules import SafetyRules
from medcode_serving.safety.words import Word, split_words

REACH = 12
"""Words that a cue reaches at most."""
_CANCELS = {
    "not_negation": ("negation", "not_taken"),
    "fine": ("against", "against_after", "warns"),
    "not_urgent": ("urgent",),
    "ceiling": ("against", "against_after", "fine", "threshold"),
}
"""A cue and those that it makes void where they overlap."""


@dataclass(frozen=True)
class Reading:
    """A text that was read."""

    where: Where
    plain: Plain
    words: Sequence[Word]
    names: Sequence[Named]
    hits: dict[str, list[Hit]] = field(default_factory=dict)
    """Phrases found, by group."""
    goes_on: frozenset[str] = frozenset()
    """Words that may stand between a drug and the next of its doses."""

    def span(self, start: int, end: int) -> MatchedSpan:
        """Return the span of some words in the original text."""
        return self.place(self.words[start].start, self.words[end - 1].end)

    def place(self, start: int, end: int) -> MatchedSpan:
        """Return the span of a stretch of the plain text in the original text."""
        start, end = self.plain.place(start, end)
        return MatchedSpan(where=self.where, start=start, end=end, text=self.plain.original[start:end])

    def sentence(self, word: int) -> int:
        """Return the number of the sentence that a word stands in."""
        return self.words[word].sentence

    def in_sentence(self, group: str, sentence: int) -> list[Hit]:
        """Return a group's hits in a sentence."""
        return [hit for hit in self.hits.get(group, ()) if self.sentence(hit.start) == sentence]

    def reached_from_before(self, group: str, start: int, reach: int = REACH) -> Hit | None:
        """Return the cue before a word that reaches it, in its sentence and without a turn between."""
        for hit in reversed(self.in_sentence(group, self.sentence(start))):
            if hit.end <= start <= hit.end + reach and not self._turns(hit.end, start):
                return hit
        return None

    def reached_from_behind(self, group: str, end: int, reach: int = REACH) -> Hit | None:
        """Return the cue behind a word that reaches back to it."""
        for hit in self.in_sentence(group, self.sentence(end - 1)):
            if end <= hit.start <= end + reach and not self._turns(end, hit.start):
                return hit
        return None

    def _turns(self, start: int, end: int) -> bool:
        return any(start <= turn.start < end for turn in self.hits.get("turn", ()))


def read_text(text: str, where: Where, rules: SafetyRules) -> Reading:
    """Read a question or an answer.

    Args:
        text: As it was given.
        where: Which of the two it is.
        rules: The rules.
    """
    letters = plain(text)

    def is_capital(place: int) -> bool:
        return text[letters.starts[place]].isupper()

    words = rules.speller.correct(split_words(letters.text, is_capital), letters.text)
    hits = defaultdict[str, list[Hit]](list)
    for hit in rules.phrases.find(words):
        hits[hit.group].append(hit)
    void = hits.get("not_drug", [])
    names = [name for name in rules.names.find(words) if not any(_overlap(name, hit) for hit in void)]
    return Reading(where, letters, words, names, _cancel(hits), rules.goes_on)


def _cancel(hits: dict[str, list[Hit]]) -> dict[str, list[Hit]]:
    for canceller, groups in _CANCELS.items():
        for group in groups:
            if group in hits:
                hits[group] = [
                    hit for hit in hits[group] if not any(_overlap(hit, other) for other in hits.get(canceller, ()))
                ]
    return hits


def _overlap(left: Hit | Named, right: Hit | Named) -> bool:
    return left.start < right.end and right.start < left.end
