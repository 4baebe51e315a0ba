"""Known words behind other spellings: typing errors, digits for letters, letters set apart, hyphens inside."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from medcode_serving.safety.words import Word

_SHORT = 3
_SHORTEST = 7
"""Letters. A shorter word with one letter wrong is too often another word."""
_LONGEST = 40
_TWO_ERRORS = 10
"""From this length on two errors are forgiven."""
_DIGITS = {"0": "o", "1": "il", "3": "e", "4": "a", "5": "s", "7": "t", "8": "b", "@": "a", "$": "s"}
_MIXED = re.compile(r"[a-z].*[\d@$]|[\d@$].*[a-z]")
_EDGE = 3
_LONGEST_MIDDLE = 8
"""Letters between the first error and the last."""
_LEAST_LETTERS_APART = 5
_LEAST_LETTERS_NEXT = 4
"""Of a word that follows another in letters set apart."""
_MOST_APART = 20
_MOST_DIGITS = 4
_TRIPLE = re.compile(r"(.)\1{2,}")


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A known word that may stand behind a strange one."""

    word: str
    letters: int
    most: int
    """Errors that are forgiven."""


class Speller:
    """Finds the known word that a strange one stands for. Nothing in it changes."""

    def __init__(
        self, known: Iterable[str], stems: Iterable[str], names: Mapping[str, tuple[str, ...]], never: Iterable[str]
    ) -> None:
        """Take the words.

        Args:
            known: Words of phrases.
            stems: Beginnings of words that phrases match whatever follows.
            names: Words that are names of drugs by themselves, with their drugs: only they may stand in two parts.
            never: Words that are right as they are, though close to a known one.
        """
        self._names = dict(names)
        self._known = frozenset(known) | self._names.keys()
        self._never = frozenset(never)
        self._beginnings = frozenset(name[:length] for name in self._names for length in range(2, len(name)))
        self._apart = self._known | frozenset(stems)
        """What letters set apart may make up."""
        self._openings = frozenset(word[:_EDGE] for word in self._apart)
        self._stems: defaultdict[str, list[str]] = defaultdict(list)
        """Beginnings that may have an error, by their first letters."""
        for stem in sorted(set(stems)):
            if len(stem) >= _SHORTEST and stem.isalpha():
                self._stems[stem[:_EDGE]].append(stem)
        self._by_ends: defaultdict[tuple[str, int], list[_Candidate]] = defaultdict(list)
        """Words that may have errors, by what is left of them with errors, as `_word_ends` tells, and its length."""
        for word in sorted(self._known):
            if len(word) >= _SHORTEST and word.isalpha():
                most = 2 if word in self._names and len(word) >= _TWO_ERRORS else 1
                candidate = _Candidate(word, _letters(word), most)
                for end in _word_ends(word):
                    for length in range(len(word) - most, len(word) + most + 1):
                        self._by_ends[end, length].append(candidate)

    def correct(self, words: Sequence[Word], text: str) -> list[Word]:
        """Return the words with known ones in place of strange spellings.

        Args:
            words: Words of the text.
            text: The plain text.
        """
        found: list[Word] = []
        place = 0
        least = _LEAST_LETTERS_APART
        while place < len(words):
            word = words[place]
            is_part = len(word.text) == 1 or (word.text in self._beginnings and word.text not in self._names)
            joined = self._joined(words, place, text, least) if is_part else None
            least = _LEAST_LETTERS_APART
            if joined:
                least = _LEAST_LETTERS_NEXT if len(word.text) == 1 else least
                word, place = joined
            else:
                place += 1
                if len(word.text) > _SHORT and (better := self._resolve(word.text)) != word.text:
                    word = Word(better, word.start, word.end, word.sentence)
            found.append(word)
        return found

    def _resolve(self, word: str) -> str:
        if len(word) > _LONGEST or word in self._known or word in self._never:
            return word
        is_alpha = word.isalpha()
        if not is_alpha and _MIXED.search(word):
            return self._without_digits(word)
        shorter = _TRIPLE.sub(r"\1", word)
        if shorter in self._known:
            return shorter
        if not is_alpha:
            return word
        nearest = self._nearest(word)
        return nearest if nearest != word else self._nearest_stem(word)

    def _without_digits(self, word: str) -> str:
        """Return the known word that digits for letters spell, or the word itself."""
        if not _MIXED.search(word):
            return word
        return next((letters for letters in _as_letters(word) if letters in self._known), word)

    def _nearest(self, word: str) -> str:
        """Return the one known word that is closest, or the word itself where none or several are."""
        if len(word) < _SHORTEST - 1 or (word.endswith("s") and word[:-1] in self._known):
            return word
        listed = [known for end in _word_ends(word) for known in self._by_ends.get((end, len(word)), ())]
        if not listed:
            return word
        letters = _letters(word)
        # An error changes at most two of the letters that a word has.
        close = {
            (known.word, known.most) for known in listed if (known.letters ^ letters).bit_count() <= 2 * known.most
        }
        scored = sorted((distance, known) for known, most in close if (distance := _distance(word, known, most)))
        best = [known for distance, known in scored if distance == scored[0][0]]
        if len(best) > 1 and self._names.keys().isdisjoint(best):
            # "suicidel" is "suicidal" rather than "suicide"
            best = [known for known in best if len(known) == len(word)]
        if len(best) > 1:
            # "tramdol" is "tramadol" or "tramodol", "aspirina" is "aspirin" or "aspirins": both are one drug
            singular = [one[:-1] if one[-1] == "s" and one[:-1] in self._names else one for one in best]
            drugs = {self._names.get(one) for one in singular}
            best = singular if len(drugs) == 1 and None not in drugs else []
        if not best:
            return word
        known = best[0]
        if known not in self._names:
            # "breathing" is no "breathings": an ending is grammar, not an error. Names have none but the plural's.
            return word if word.startswith(known) or known.startswith(word) else known
        return known

    def _nearest_stem(self, word: str) -> str:
        """Return the one beginning that a word has with an error behind its first letters, or the word itself."""
        close = [stem for stem in self._stems.get(word[:_EDGE], ()) if _begins_nearly(word, stem)]
        return close[0] if len(close) == 1 else word

    def _joined(self, words: Sequence[Word], place: int, text: str, least: int) -> tuple[Word, int] | None:
        """Return the known word that begins at a word and stands in several parts, and the word after it."""
        if len(words[place].text) == 1:
            return self._spelled_out(words, place, text, least)
        for last in (place + 2, place + 3):
            parts = words[place:last]
            if last > len(words) or not _close(words, last - 1, text) or parts[-1].text in self._names:
                return None
            together = "".join(word.text for word in parts)
            if len(together) >= _SHORTEST and together in self._names:
                return Word(together, parts[0].start, parts[-1].end, parts[0].sentence), last
        return None

    def _spelled_out(self, words: Sequence[Word], place: int, text: str, least: int) -> tuple[Word, int] | None:
        """Return the known word, of so many letters at least, that letters set apart make up."""
        opening = "".join(word.text for word in words[place : place + _EDGE])
        if opening.isalpha() and opening not in self._openings:
            return None
        end = place + 1
        while end < min(len(words), place + _MOST_APART) and len(words[end].text) == 1 and _close(words, end, text):
            end += 1
        for last in range(end, place + least - 1, -1):
            together = "".join(word.text for word in words[place:last])
            meant = together if together in self._apart else self._without_digits(together)
            if meant in self._apart:
                return Word(meant, words[place].start, words[last - 1].end, words[place].sentence), last
        return None


def _close(words: Sequence[Word], place: int, text: str) -> bool:
    """Tell whether no more than a mark or two stand between a word and the one before it."""
    between = text[words[place - 1].end : words[place].start]
    return len(between) <= 2 and not set(between) & set(",;:!?()") and words[place].text not in ";:"


def _as_letters(word: str) -> Iterator[str]:
    """Yield what a word with digits for letters may say."""
    if sum(letter in _DIGITS for letter in word) <= _MOST_DIGITS:
        for letters in product(*(_DIGITS.get(letter, letter) for letter in word)):
            yield "".join(letters)


def _word_ends(word: str) -> tuple[str, str]:
    """Return what is right of a word with an error in one of its halves: its first letters, or its last."""
    return word[:_EDGE], word[0] + "." + word[-_EDGE:]


def _letters(word: str) -> int:
    """Return the set of a word's letters as bits."""
    bits = 0
    for letter in word:
        bits |= 1 << (ord(letter) & 31)
    return bits


def _begins_nearly(word: str, stem: str) -> bool:
    """Tell whether a word begins as a stem does but for one letter that is wrong, missing, too much, or swapped."""
    if len(word) < len(stem):
        return False
    at = next((place for place, letter in enumerate(stem) if word[place] != letter), None)
    if at is None:
        return False
    return (
        word.startswith(stem[at + 1 :], at + 1)
        or word.startswith(stem[at + 1 :], at)
        or word.startswith(stem[at:], at + 1)
        or word.startswith(stem[at + 1 : at + 2] + stem[at] + stem[at + 2 :], at)
    )


def _distance(left: str, right: str, most: int) -> int | None:
    """Return the least number of letters to insert, delete, replace or swap with their neighbour; None over `most`."""
    shorter = min(len(left), len(right))
    first = next((place for place in range(shorter) if left[place] != right[place]), shorter)
    last = next((place for place in range(shorter - first) if left[-1 - place] != right[-1 - place]), shorter - first)
    left, right = left[first : len(left) - last], right[first : len(right) - last]
    if max(len(left), len(right)) > _LONGEST_MIDDLE:
        return None
    before, row = list[int](), list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        earlier, before, row = before, row, [i]
        for j, b in enumerate(right, 1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                best = min(best, earlier[j - 2] + 1)
            row.append(best)
    return row[-1] if row[-1] <= most else None
