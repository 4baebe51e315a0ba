"""Signs that are said not to be there: by a "not" before them, a "no" behind them, or the answer "No."."""

from medcode_serving.safety.phrases import Hit
from medcode_serving.safety.reading import Reading

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
        or _answered_no(sign, text)
    )


def _has_its_own(sign: Hit, text: Reading) -> bool:
    """Tell whether a sign is a lack by itself: "not breathing", "cannot speak"."""
    return any(word.text in _DENIES for word in text.words[sign.start : sign.end])


def _before(sign: Hit, text: Reading) -> bool:
    if text.reached_from_behind("never_so", sign.end, 0):
        return False
    if text.reached_from_before("negation", sign.start) or text.reached_from_before("negation_near", sign.start, 0):
        return True
    is_not = text.reached_from_before("negation_be", sign.start)
    if is_not and (sign.start - is_not.end <= _NEAR or text.sign_begins_at(is_not.end)):
        return True
    # "do not feel" reaches into the sign "feel suicidal"
    return any(
        hit.start < sign.start < hit.end <= sign.end
        for group in ("negation", "negation_be", "negation_near")
        for hit in text.in_sentence(group, text.sentence(sign.start))
    )


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
