"""Words and phrases of a rule file as one pattern."""

import re
from collections.abc import Sequence


def any_of(cues: Sequence[str]) -> re.Pattern[str]:
    """Return a pattern over lower-case text that finds whole cues, the longest at each place; `*` is any letters."""
    written = (re.escape(cue).replace(r"\*", r"\w*") for cue in sorted(cues, key=len, reverse=True))
    return re.compile(rf"\b(?:{'|'.join(written)})(?!\w)")
