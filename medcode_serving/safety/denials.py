"""Signs that are said not to be there: by a "not" before them, a "no" behind them, or the answer "No."."""

import re

from medcode_serving.safety.phrases import Hit
from medcode_serving.safety.reading import REACH, Reading

_BACK = 3
"""Words between a sign and "is gone"."""
_NEAR = 1
"""Words between "is not" and what it denies: "is not eating, slurred speech" denies no speech."""
_QUESTIONS = 3
"""Questions in a row that one "no" answers."""
_SHORT = 6
"""Words of a question without a verb: "Sweating?"."""
_LABEL = 4
"""Words of a speaker's name and its colon."""
_OF_A_SIGN = 2
"""Words behind a sign in a question of whether it is there: "Is your chest tight then?"."""
_ASSERTED = 3
"""Words between a sign and "since noon"."""
_LONG_LIST = 2
"""Commas: "no travel, sick contacts, fever or chest pain"."""
_OR = frozenset({"or", "nor"})
_MARKED = re.compile(
    r"[ \t]*(?:\([ \t]*-+(?:ve)?[ \t]*\)"
    r"|(?:\(|-+|=)[ \t]*(?:no|none|nil|neg|negative|absent|denied|denies|not present)[ \t]*(?=[).,;|/\n]|$)"
    r"|[ \t]-(?:ve\b|[ \t]*(?=[),;|])))"
)
"""Behind a sign: "(-)", "- no", "-ve", and no word more: "chest pain - no relief" is none."""
_DENIES = frozenset({"not", "never"})
_THE = frozenset({"the", "this", "that", "these", "those"})
_WHOSE = frozenset({"my", "your", "his", "her", "their"})


def is_denied(sign: Hit, text: Reading) -> bool:
    """Tell whether a sign is said not to be there.

    Args:
        sign: Where it stands.
        text: What the person describes.
    """
    return (
        (not _has_its_own(sign, text) and _before(sign, text))
        or _is_gone(sign, text)
        or text.reached_from_behind("told_no", sign.end, 0) is not None
        or _MARKED.match(text.plain.text, text.words[sign.end - 1].end) is not None
        or _answered_no(sign, text)
    )


def _has_its_own(sign: Hit, text: Reading) -> bool:
    """Tell whether a sign is a lack by itself: "not breathing", "cannot speak"."""
    return any(word.text in _DENIES for word in text.words[sign.start : sign.end])


def _before(sign: Hit, text: Reading) -> bool:
    if text.reached_from_behind("never_so", sign.end, 0):
        return False
    for group, reach in (("negation", REACH), ("negation_near", 0), ("negation_be", REACH)):
        for cue in text.all_before(group, sign.start, reach):
            is_far = group == "negation_be" and sign.start - cue.end > _NEAR and not text.sign_begins_at(cue.end)
            if not is_far and _reaches_over_commas(cue, sign, text):
                return True
    # "do not feel" reaches into the sign "feel suicidal"
    return any(
        hit.start < sign.start < hit.end <= sign.end
        for group in ("negation", "negation_be", "negation_near")
        for hit in text.in_sentence(group, text.sentence(sign.start))
    )


def _reaches_over_commas(cue: Hit, sign: Hit, text: Reading) -> bool:
    """Tell whether a denial goes on behind commas: "no fever, cough", but not "no lunch yet, chest pain since noon"."""
    commas = text.commas(cue.end, sign.start)
    if not commas or any(cue.start <= hit.end <= cue.end for hit in _in_its_sentence("denies_list", sign, text)):
        return True
    _, last = text.bounds[text.sentence(sign.start)]
    is_or = any(word.text in _OR for word in text.words[commas[0] : last])
    if is_or and len(text.commas(cue.end, last)) >= _LONG_LIST and text.words[cue.start].text == "no":
        return True
    if not all(_is_of_signs(start, end, text) for start, end in zip([cue.end, *commas], commas, strict=False)):
        return False
    asserted = _in_its_sentence("asserts", sign, text)
    return is_or or not any(commas[-1] <= hit.start <= sign.end + _ASSERTED for hit in asserted)


def _is_of_signs(start: int, end: int, text: Reading) -> bool:
    """Tell whether a part of a list names a sign or an illness."""
    listed = text.in_sentence("symptom", text.sentence(start))
    return any(start <= hit.start < end for hit in listed) or any(text.sign_begins_at(at) for at in range(start, end))


def _in_its_sentence(group: str, sign: Hit, text: Reading) -> list[Hit]:
    return text.in_sentence(group, text.sentence(sign.start))


def _is_gone(sign: Hit, text: Reading) -> bool:
    """Tell whether a sign "is gone", and not "has not gone away"."""
    gone = text.reached_from_behind("negation_after", sign.end, _BACK)
    return gone is not None and not any(word.text in _DENIES for word in text.words[sign.end : gone.start])


def _answered_no(sign: Hit, text: Reading) -> bool:
    """Tell whether a sign is asked for, and the answer is no."""
    asked = text.sentence(sign.start)
    if not text.is_question(asked) or not _asks_for(sign, text, asked):
        return False
    for sentence in range(asked + 1, asked + 1 + _QUESTIONS):
        first, last = text.bounds[sentence]
        for hit in text.in_sentence("says_no", sentence):
            begins = hit.start == first or (hit.start <= first + _LABEL and text.words[hit.start - 1].text == ":")
            if begins:
                return not text.in_sentence("no_in_part", sentence)
        if not text.is_question(sentence):
            break
    return False


def _asks_for(sign: Hit, text: Reading, sentence: int) -> bool:
    """Tell whether a question is whether a sign is there, not how it is or what to do about it."""
    first, last = text.bounds[sentence]
    if text.in_sentence("asks_how", sentence):
        return False
    before = text.words[sign.start - 1].text if sign.start > first else ""
    if before in _THE or (before in _WHOSE and last - sign.end > _OF_A_SIGN):
        return False
    return bool(text.in_sentence("asks_sign", sentence)) or last - first <= _SHORT
