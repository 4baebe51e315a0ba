"""The options of an exam question, which nobody takes and nobody suffers from."""

import re

_OPTION = re.compile(r"[ \t]*\(?([A-Ha-h])[.):][ \t]+\S[^\n]*")
_PERSON = re.compile(r"\b(?:i|i'm|i've|my|me|we|our|us)\b", re.IGNORECASE)
_LOOK_BACK = 1000
"""Characters. The mark that asks is not looked for further back: it keeps the time in proportion to the length."""


def without_options(question: str) -> str:
    """Return an exam question with blanks in the place of its options: `A. …`, `B. …` on lines that follow each other.

    As many characters as before, so that places stay what they were. Two options at least, from A on and in order,
    behind a question mark or a colon, and nobody who speaks of himself: else a list may be what somebody takes.
    """
    lines = _starts(question)
    person = _PERSON.search(question)
    of_himself = person.end() if person else len(question) + 1
    kept: list[str] = []
    block: list[tuple[int, int]] = []
    for start, end in [*lines, (len(question), len(question))]:
        option = _OPTION.match(question, start, end)
        if option and ord(option[1].lower()) == ord("a") + len(block):
            block.append((start, end))
            continue
        stem = question[max(0, block[0][0] - _LOOK_BACK) : block[0][0]] if block else ""
        asked = len(block) > 1 and stem.rstrip().endswith(("?", ":")) and block[0][0] < of_himself
        kept += [_blank(question[at:to]) if asked else question[at:to] for at, to in block]
        block = [(start, end)] if option and option[1].lower() == "a" else []
        kept += [] if block else [question[start:end]]
    return "".join(kept)


def _starts(text: str) -> list[tuple[int, int]]:
    """Return start and end of each line, its break included."""
    found, start = [], 0
    for line in text.splitlines(keepends=True):
        found.append((start, start + len(line)))
        start += len(line)
    return found


def _blank(line: str) -> str:
    return "".join(character if character.isspace() else " " for character in line)
