"""A question or an answer as the rules see it: words, names of drugs, and cues with their reach."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
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
    "not_negation": ("negation", "negation_be", "negation_near", "told_no", "says_no", "not_taken"),
    "not_at_once": ("term:many_pills",),
    "not_now": ("term:heart_attack_now", "term:stroke_now", "term:anaphylaxis_named"),
    "not_gone": ("negation_after",),
    "not_sign": (
        "term:unresponsive",
        "term:blue",
        "term:blue_lips",
        "term:baby_fever",
        "term:stool_blood",
        "term:severe_breathless",
        "term:testicle",
        "term:vision_loss",
        "term:overdose",
    ),
    "taken_by_both": ("taken_by_me", "taken_by_another"),
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
    by_sentence: dict[tuple[str, int], list[Hit]] = field(default_factory=dict)
    bounds: dict[int, tuple[int, int]] = field(default_factory=dict)
    """First word of each sentence, and the word after its last."""
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

    def sign_begins_at(self, word: int) -> bool:
        """Tell whether a sign of a red flag begins at a word."""
        return any(hit.start == word for group, hits in self.hits.items() if group.startswith("term:") for hit in hits)

    def is_question(self, sentence: int) -> bool:
        """Tell whether a sentence ends in a question mark and another follows."""
        if sentence + 1 not in self.bounds:
            return False
        end, start = self.words[self.bounds[sentence][1] - 1].end, self.words[self.bounds[sentence + 1][0]].start
        return "?" in self.plain.text[end:start]

    def names_between(self, start: int, end: int) -> Sequence[Named]:
        """Return the names that begin at some words."""
        first = bisect_left(self.names, start, key=lambda name: name.start)
        return self.names[first : bisect_left(self.names, end, key=lambda name: name.start)]

    def in_sentence(self, group: str, sentence: int) -> list[Hit]:
        """Return a group's hits in a sentence."""
        return self.by_sentence.get((group, sentence), [])

    def reached_from_before(self, group: str, start: int, reach: int = REACH) -> Hit | None:
        """Return the cue before a word that reaches it, in its sentence and without a turn between."""
        return next(self.all_before(group, start, reach), None)

    def all_before(self, group: str, start: int, reach: int = REACH) -> Iterator[Hit]:
        """Yield every cue before a word that reaches it, the nearest first."""
        for hit in reversed(self.in_sentence(group, self.sentence(start))):
            if hit.end <= start <= hit.end + reach and not self._turns(hit.end, start):
                yield hit

    def commas(self, start: int, end: int) -> list[int]:
        """Return which words, behind one and up to another, follow a comma."""
        places = range(start, min(end + 1, len(self.words)))
        return [at for at in places if at and "," in self.plain.text[self.words[at - 1].end : self.words[at].start]]

    def reached_from_behind(self, group: str, end: int, reach: int = REACH) -> Hit | None:
        """Return the cue behind a word that reaches back to it."""
        for hit in self.in_sentence(group, self.sentence(end - 1)):
            if end <= hit.start <= end + reach and not self._turns(end, hit.start):
                return hit
        return None

    def _turns(self, start: int, end: int) -> bool:
        turns = self.in_sentence("turn", self.sentence(start)) if start < end else []
        return any(start <= turn.start < end for turn in turns)


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
    void = _covered(hits.get("not_drug", ()))
    names = [name for name in rules.names.find(words) if void.isdisjoint(range(name.start, name.end))]
    kept = _cancel(hits)
    by_sentence = defaultdict[tuple[str, int], list[Hit]](list)
    for group, found in kept.items():
        for hit in found:
            by_sentence[group, words[hit.start].sentence].append(hit)
    bounds: dict[int, tuple[int, int]] = {}
    for place, word in enumerate(words):
        bounds[word.sentence] = (bounds.get(word.sentence, (place, 0))[0], place + 1)
    return Reading(where, letters, words, names, kept, dict(by_sentence), bounds, rules.goes_on)


def _cancel(hits: dict[str, list[Hit]]) -> dict[str, list[Hit]]:
    for canceller, groups in _CANCELS.items():
        void = _covered(hits.get(canceller, ()))
        for group in groups:
            if group in hits:
                hits[group] = [hit for hit in hits[group] if void.isdisjoint(range(hit.start, hit.end))]
    return hits


def _covered(hits: Iterable[Hit]) -> set[int]:
    """Return the words that hits cover."""
    return {place for hit in hits for place in range(hit.start, hit.end)}
