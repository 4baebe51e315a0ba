"""A note that is longer than the model reads at once, as windows that it reads one after the other."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from medcode_serving.engines.protocol import Prediction, ScoredCode
from medcode_serving.prompts import FramedTokenizer, PromptTemplate, backend_of, normalise_note

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

OVERLAP = 10
"""A window begins a tenth of a window before the end of the one before: what a cut parts is whole in one of them."""
TAIL = 5
"""A window ends at a line or sentence if one ends in its last fifth."""
BOUNDS = ("\n", ". ", " ")
"""Where a window ends, the best first."""


def split_windows(
    tokenizer: "PreTrainedTokenizerBase", template: PromptTemplate, note: str, max_tokens: int
) -> list[str]:
    """Return the texts of a note's windows, whose prompts have at most `max_tokens` tokens each.

    Together they are the whole note, in NFC and without outer white space. They end at a line's, sentence's or word's
    end, as far as there is one.

    Raises:
        ValueError: `max_tokens` leaves no room for the note beside instruction and answer header.
    """
    framed = FramedTokenizer(tokenizer, template)
    note = normalise_note(note)
    encoding = backend_of(tokenizer).encode(note, add_special_tokens=False)
    budget = max_tokens - framed.fixed_tokens
    # A window's tokens may differ a little from those counted in the whole note: smaller ones, until all fit.
    while budget > 0:
        texts = _cut(note, encoding, budget)
        excess = max(len(encoded) for encoded in framed.encode(texts)) - max_tokens
        if excess <= 0:
            return texts
        budget -= excess
    raise ValueError(
        f"a prompt of at most {max_tokens} tokens has no room for a note beside its {framed.fixed_tokens} fixed tokens"
    )


def _cut(note: str, encoding: "Encoding", budget: int) -> list[str]:
    """Cut a note into windows of at most `budget` of its tokens."""
    starts = [start for start, _ in encoding.offsets]
    texts: list[str] = []
    first = 0
    while True:
        behind = first + budget
        if behind >= len(starts):
            texts.append(note[starts[first] if texts else 0 :])
            return texts
        end = max(_bound(note, starts[first], starts[behind]), starts[first + 1])
        texts.append(note[starts[first] if texts else 0 : end])
        # Back by the overlap, then on to a word's beginning; never behind the window's end, and always forward.
        while behind > first + 1 and starts[behind] > end:
            behind -= 1
        overlapping = max(behind - budget // OVERLAP, first + 1)
        words = (place for place in range(overlapping, behind) if _begins_word(note, starts[place]))
        first = next(words, behind)


def _bound(note: str, start: int, end: int) -> int:
    """Return the end of a window that may reach from one character to another: the best bound in its tail."""
    least = end - (end - start) // TAIL
    if note[end : end + 1] == "\n":
        return end
    for bound in BOUNDS:
        found = note.rfind(bound, least, end)
        if found >= 0:
            return found + len(bound)
    return end


def _begins_word(note: str, start: int) -> bool:
    return note[start].isspace() or note[start - 1].isspace()


def join_windows(predictions: Sequence[Prediction], max_codes: int) -> Prediction:
    """Return the answer to a note from those to its windows: every code once, with its highest probability.

    The most probable come first, and at most `max_codes` stay.
    """
    best: dict[tuple[str, str], ScoredCode] = {}
    for code in (code for prediction in predictions for code in prediction.codes):
        known = best.setdefault((code.system, code.code), code)
        if (code.probability or 0.0) > (known.probability or 0.0):
            best[code.system, code.code] = code
    ranked = sorted(best.values(), key=lambda code: -(code.probability or 0.0))
    surest = max(predictions, key=lambda found: max((code.probability or 0.0 for code in found.codes), default=-1.0))
    return replace(
        predictions[0],
        codes=tuple(ranked[:max_codes]),
        reasoning=surest.reasoning,
        dropped=sum(prediction.dropped for prediction in predictions),
        windows=len(predictions),
    )
