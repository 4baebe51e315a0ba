"""Numbers as people write them."""

import re

_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {
    "half": 0.5, "one": 1, "a": 1, "an": 1, "single": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6,
    "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "fifteen": 15, "sixteen": 16,
    "eighteen": 18, **{word: 10 * tens for tens, word in enumerate(_TENS, 2)},
}  # fmt: skip
NUMBER = (
    r"(?:\d{1,3}(?:,\d{3}){1,3}(?:\.\d{1,6})?(?!\d)|\d(?: \d){3,7}(?!\d)|\d{1,6}\s?/\s?\d{1,6}(?!\d)"
    r"|\d{0,9}\.\d{1,9}|\d{1,9},\d{1,2}(?!\d)|\d[\do]{0,11}(?![\do]))"
)
"""1,000; 1 0 0 0; 1/2; .5; 0,5; 12OO."""
_SMALL = rf"(?:(?:{'|'.join(_TENS)})[ -](?:one|two|three|four|five|six|seven|eight|nine)|{'|'.join(_WORDS)})"
_HUNDREDS = rf"(?:(?:{_SMALL} )?hundred(?: (?:and )?{_SMALL})?)"
_MANY = rf"(?:(?:{_SMALL} )?thousand(?: (?:and )?(?:{_HUNDREDS}|{_SMALL}))?|{_HUNDREDS})"
_OPENINGS = "|".join(sorted({word[:2] for word in ("hundred", "thousand", *_WORDS)}))
NUMBER_WORDS = rf"\b(?={_OPENINGS})(?:{_MANY}|(?!an?\b){_SMALL})\b"
"""One thousand, two hundred and fifty, twenty five. The openings keep the search fast."""
COUNT_WORDS = rf"\b(?:{'|'.join(_WORDS)})\b"
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_LONGEST = 12
"""Characters: a longer number is none of a dose."""


def read_number(written: str) -> float:
    """Return a number.

    Args:
        written: As `NUMBER` or one of the words match it.
    """
    if written[0].isalpha():
        return _read_words(written)
    digits = written.replace(" ", "").replace("o", "0")
    if "/" in digits:
        above, _, below = digits.partition("/")
        return float(above) / float(below) if float(below) else 0.0
    digits = digits.replace(",", "") if _THOUSANDS.fullmatch(digits) else digits.replace(",", ".")
    return float(digits) if len(digits) <= _LONGEST else 0.0


def _read_words(written: str) -> float:
    total = part = 0.0
    for word in written.replace("-", " ").split():
        if word == "thousand":
            total, part = 1000 * (part or 1), 0.0
        elif word == "hundred":
            part = 100 * (part or 1)
        else:
            part += _WORDS.get(word, 0)
    return total + part
