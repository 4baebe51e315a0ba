"""What a sentence says is not there: a handful of cues, after NegEx (Chapman et al. 2001).

The list is short on purpose. It knows neither who has a finding (family history) nor when, and a negated word that is
the very point of a code ("does not eat" for anorexia) is lost.
"""

import re

_BEFORE = r"""
    no\s+evidence\s+of | no\s+signs?\s+of | no\s+history\s+of | no | not | never | without | w/o | denie[sd] | denying
    | negative\s+for | free\s+of | absence\s+of | neither | nor | declined | refused
"""
_AFTER = r"""
    (?:(?:was|were|is|are|has\s+been|have\s+been)\s+)?
    (?:ruled\s+out|absent|denied|declined|deferred|not\s+(?:seen|present|found|identified|indicated|performed))
"""
_NO_NEGATION = r"""
    not\s+only | no\s+change | no\s+improvement | no\s+longer\s+than | not\s+ruled\s+out | cannot\s+be\s+ruled\s+out
    | do\s+not | without\s+(?:difficulty|complications?) | no\.\s*\d
"""
_SCOPE_ENDS = r"""
    but | however | although | though | except | besides | has | had | have | presents? | presented | reports?
    | reported | admits? | complains? | complained | positive | found | developed | underwent | was | were | is | are
"""
_LOOK_BACK = 60
"""Characters before "was ruled out" and its like, back to the next comma."""

_BACKWARDS = re.compile(rf"\b(?:{_AFTER})\b", re.IGNORECASE | re.VERBOSE)
_MARKS = re.compile(
    rf"\b(?P<skipped>{_NO_NEGATION})\b | \b(?P<cue>{_BEFORE})(?!\w) | (?P<stop>[;.:]\s|\b(?:{_SCOPE_ENDS})\b)",
    re.IGNORECASE | re.VERBOSE,
)


def negated(note: str, start: int, end: int) -> list[tuple[int, int]]:
    """Return the stretches of a sentence that it negates: from a cue to the next verb, "but" or mark, or before a cue.

    Args:
        note: The text.
        start: Where the sentence begins.
        end: Where it ends.
    """
    found, cue = [], None
    for match in _MARKS.finditer(note, start, end):
        if match["cue"] and cue is None:
            cue = match.end()
        elif match["stop"] and cue is not None:
            found.append((cue, match.start()))
            cue = None
    if cue is not None:
        found.append((cue, end))
    for match in _BACKWARDS.finditer(note, start, end):
        clause = re.split(r"[,;:.]|\bbut\b", note[max(start, match.start() - _LOOK_BACK) : match.start()])[-1]
        if clause.strip():
            found.append((match.start() - len(clause), match.start()))
    return found
