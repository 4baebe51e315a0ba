"""Names of drugs, products and classes among the words of a text."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medcode_serving.safety.plain import plain
from medcode_serving.safety.words import Word, split_words


@dataclass(frozen=True, slots=True)
class Named:
    """A name in a text: the words from `start` up to `end`."""

    drugs: tuple[str, ...]
    """Drugs, or one class."""
    start: int
    end: int


class NameIndex:
    """Finds names. Nothing in it changes."""

    def __init__(self, written: Mapping[str, tuple[str, ...]]) -> None:
        """Take the names.

        Args:
            written: What each written name stands for.
        """
        self._by_word: defaultdict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = defaultdict(list)
        for name, drugs in written.items():
            words = tuple(word.text for word in split_words(plain(name).text))
            for spelled in {words, ("".join(words),)} if all(len(word) < 4 for word in words) else {words}:
                self._by_word[spelled[0]].append((spelled, drugs))
        for options in self._by_word.values():
            options.sort(key=lambda option: -len(option[0]))
        every = [words for options in self._by_word.values() for words, _ in options]
        self.single_words = {
            words[0]: drugs for options in self._by_word.values() for words, drugs in options if len(words) == 1
        }
        """Names of one word, with their drugs."""
        self.words = frozenset(word for words in every for word in words)

    def find(self, words: Sequence[Word]) -> list[Named]:
        """Return the names, in order; where one holds another, the longer."""
        found: list[Named] = []
        place = 0
        while place < len(words):
            drugs, end = self._at(words, place)
            if drugs:
                found.append(Named(drugs, place, end))
            place = end
        return found

    def _at(self, words: Sequence[Word], place: int) -> tuple[tuple[str, ...], int]:
        text = words[place].text
        for first in (text, text[:-1]) if text.endswith("s") else (text,):
            for spelled, drugs in self._by_word.get(first, ()):
                end = place + len(spelled)
                rest = tuple(word.text for word in words[place + 1 : end])
                if rest == spelled[1:] and words[end - 1].sentence == words[place].sentence:
                    return drugs, end
        return (), place + 1
