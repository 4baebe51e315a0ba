"""Whether reasoning speaks of the narrative: the one definition for data, generation and evaluation."""

import re
from collections.abc import Sequence

from medcode_serving.linear.text import singular

LEAST_SHARED = 0.5
"""Share of a point's content words that the narrative must have."""
_WORD = re.compile(r"[a-z0-9][a-z0-9'.-]*[a-z0-9]|[0-9]")
_EMPTY = frozenset(
    [
        "about",
        "after",
        "also",
        "and",
        "any",
        "are",
        "because",
        "been",
        "before",
        "but",
        "can",
        "code",
        "coded",
        "could",
        "documented",
        "does",
        "due",
        "for",
        "from",
        "had",
        "has",
        "have",
        "her",
        "him",
        "his",
        "into",
        "its",
        "may",
        "more",
        "most",
        "not",
        "note",
        "noted",
        "only",
        "other",
        "over",
        "patient",
        "reported",
        "she",
        "should",
        "since",
        "such",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "was",
        "were",
        "when",
        "which",
        "while",
        "who",
        "will",
        "with",
        "without",
        "would",
        "you",
    ]
)


def content_words(text: str) -> set[str]:
    """Return the words that say something: lower case, singular, of three letters or more, and all numbers."""
    words = _WORD.findall(text.lower().replace("’", "'"))
    return {singular(word) for word in words if word not in _EMPTY and (len(word) > 2 or word.isdigit())}


def is_supported(point: str, narrative_words: set[str]) -> bool:
    """Whether a point of the reasoning speaks of a narrative, whose `content_words` are given."""
    words = content_words(point)
    return bool(words) and len(words & narrative_words) >= LEAST_SHARED * len(words)


def supported_share(points: Sequence[str], narrative: str) -> float:
    """Return the share of points that speak of the narrative, in [0, 1]; 0 without points."""
    words = content_words(narrative)
    return sum(is_supported(point, words) for point in points) / len(points) if points else 0.0
