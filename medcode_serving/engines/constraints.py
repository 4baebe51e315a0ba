"""The language of answers, written down for servers that can hold a model to one.

An answer is one to `max_codes` valid codes as `PromptTemplate.completion` writes them: `` I10, E11.9``. Neither form
can say that no code comes twice.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from medcode_serving.prompts import SEPARATOR

Trie = dict[str, "Trie"]
"""Children by character; a text ends where the empty string is a child."""


@dataclass(frozen=True)
class CodeLanguage:
    """All answers over a list of codes; 75,000 codes take a second and less than a megabyte."""

    texts: Sequence[str] = field(repr=False)
    """How answers write each code."""
    leading_space: bool = True
    """Whether an answer must begin with a space; False: it may."""

    def grammar(self, max_codes: int) -> str:
        """Return the answers of at most `max_codes` codes in llama.cpp's GBNF."""
        more = f" ({_quoted(SEPARATOR)} code){{0,{max_codes - 1}}}" if max_codes > 1 else ""
        return f"root ::= {_quoted(' ')}{self._maybe} code{more}\ncode ::= {self._gbnf_code}\n"

    def regex(self, max_codes: int) -> str:
        """Return the answers of at most `max_codes` codes as a regular expression without look-around."""
        more = f"(?:{SEPARATOR}{self._regex_code}){{0,{max_codes - 1}}}" if max_codes > 1 else ""
        return f" {self._maybe}{self._regex_code}{more}"

    @property
    def _maybe(self) -> str:
        return "" if self.leading_space else "?"

    @cached_property
    def _gbnf_code(self) -> str:
        return _expression(_trie(self.texts), _quoted, "(").replace('""', "")  # "E""1" is "E1"

    @cached_property
    def _regex_code(self) -> str:
        return _expression(_trie(self.texts), re.escape, "(?:")


def _quoted(text: str) -> str:
    return f'"{text}"'


def _trie(texts: Sequence[str]) -> Trie:
    root: Trie = {}
    for text in texts:
        node = root
        for character in text:
            node = node.setdefault(character, {})
        node[""] = {}
    return root


def _expression(node: Trie, literal: Callable[[str], str], opening: str) -> str:
    """Return an expression of all that may follow at a node; characters with the same rest share it."""
    characters: dict[str, str] = {}
    for character, child in sorted(node.items()):
        if character:
            rest = _expression(child, literal, opening)
            characters[rest] = characters.get(rest, "") + character
    ways = [_one_of(before, literal) + rest for rest, before in characters.items()]
    if len(ways) == 1 and "" not in node:
        return ways[0]
    return f"{opening}{'|'.join(ways)}){'?' if '' in node else ''}" if ways else ""


def _one_of(characters: str, literal: Callable[[str], str]) -> str:
    if len(characters) == 1 and _is_plain(characters):
        return literal(characters)
    inside = (character if _is_plain(character) else f"\\u{ord(character):04x}" for character in characters)
    return f"[{''.join(inside)}]"


def _is_plain(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character in ".:")
