"""What a sentence says is not there: a handful of cues, after NegEx (Chapman et al. 2001).

The list is short on purpose. It knows neither who has a finding (family history) nor when, and a negated word that is
the very point of a code ("does not eat" for anorexia) is lost.
"""

import re

_NOUN_CUES = r"""
    no | without | w/o | denie[sd] | denying | negative\s+for | free\s+of | absence\s+of | neither | nor | declined
    | refused
"""
_VERB_CUES = "not | never"
_BACKWARD_CUES = r"""
    (?:(?:was|were|is|are|has\s+been|have\s+been)\s+)?
    (?:ruled\s+out|absent|denied|declined|deferred|not\s+(?:seen|present|found|identified|indicated|performed))
"""
_NO_NEGATION = r"""
    not\s+only | no\s+change | no\s+improvement | no\s+longer\s+than | not\s+(?:be\s+|been\s+)?ruled\s+out | do\s+not
    | without\s+(?:difficulty|complications?) | no\.\s*\d+
"""
_TURNS = r"but | however | although | though | except | besides | and\s+(?:an?|the)"
_VERBS = r"""
    has | had | have | presents? | presented | reports? | reported | admits? | complains? | complained | positive
    | found | developed | underwent | was | were | is | are
"""
_LOOK_BACK = 60
"""Characters before "was ruled out" and its like, back to the next comma."""

_MARKS = re.compile(
    rf"""\b(?:{_NO_NEGATION})\b
    | \b(?:(?P<noun>{_NOUN_CUES})|(?P<verbal>{_VERB_CUES}))(?!\w)
    | (?P<turn>[;.:]\s|\b(?:{_TURNS})\b)
    | \b(?P<verb>{_VERBS})\b""",
    re.IGNORECASE | re.VERBOSE,
)
_BACKWARDS = re.compile(
    rf"\b(?<!not\ )(?<!not\ be\ )(?<!not\ been\ )(?:{_BACKWARD_CUES})\b", re.IGNORECASE | re.VERBOSE
)


def negated(note: str, start: int, end: int) -> list[tuple[int, int]]:
    """Return the stretches of a sentence that it negates.

    They reach from a cue to the next "but" or mark; from one such as "no" at most to the next verb, while "not" negates
    the verb itself ("did not have fever"). Cues such as "was ruled out" negate what stands before them.

    Args:
        note: The text.
        start: Where the sentence begins.
        end: Where it ends.
    """
    found: list[tuple[int, int]] = []
    cue: re.Match[str] | None = None
    for match in _MARKS.finditer(note, start, end):
        if cue is None:
            cue = match if match["noun"] or match["verbal"] else None
        elif match["turn"] or (match["verb"] and cue["noun"]):
            found.append((cue.end(), match.start()))
            cue = None
    if cue is not None:
        found.append((cue.end(), end))
    for match in _BACKWARDS.finditer(note, start, end):
        clause = re.split(r"[,;:.]|\bbut\b", note[max(start, match.start() - _LOOK_BACK) : match.start()])[-1]
        found.append((match.start() - len(clause), match.start()))
    return found
