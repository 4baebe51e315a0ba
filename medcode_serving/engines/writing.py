"""Answers in words, token by token: the likeliest or drawn ones, ended early where brevity is asked for."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from medcode_serving.decoding.trie import Ints
from medcode_serving.engines.protocol import Writing, WrittenAnswer
from medcode_serving.errors import MedcodeError
from medcode_serving.evidence.sentences import sentences

if TYPE_CHECKING:
    import torch

Decode = Callable[[list[int]], str]


@dataclass
class _Row:
    writing: Writing
    limit: int
    draws: "torch.Generator | None"
    tokens: list[int] = field(default_factory=list)
    log_probability: float = 0.0
    """Of all tokens, the end's included; under the model itself, whatever temperature and penalty were."""
    ended: bool = False
    """By an end of text."""
    end: int | None = None
    """Characters of the text up to its last sentence, where sentences are limited."""


class WordWriter:
    """Writes free text in every row of a batch, each as its `Writing` says."""

    def __init__(self, writings: Sequence[Writing], *, ends: Collection[int], max_tokens: int, decode: Decode) -> None:
        """Start an empty answer a row.

        Args:
            writings: One a row.
            ends: Tokens that end an answer.
            max_tokens: Tokens of an answer at most, whatever its `Writing` allows.
            decode: Turns tokens into text.
        """
        self._rows = [
            _Row(writing, min(writing.max_tokens or max_tokens, max_tokens), _generator(writing))
            for writing in writings
        ]
        self._unfinished = self._rows
        self._ends = sorted(ends)
        self._decode = decode

    @property
    def answers(self) -> list[WrittenAnswer]:
        """What was written, a row each."""
        return [self._answer(row) for row in self._rows]

    def write(self, logits: "torch.Tensor") -> tuple[Ints, Ints]:
        """Choose a token in each row.

        Raises:
            MedcodeError: a logit is not a number.
        """
        import torch

        log_p = torch.log_softmax(logits.float(), dim=-1)
        if not torch.isfinite(log_p.max(dim=-1).values).all():
            raise MedcodeError("the model gives logits that are no finite numbers; train the adapter anew")
        tokens = self._choose(log_p)
        told = log_p.gather(1, tokens[:, None])[:, 0].tolist()
        chosen = tokens.tolist()
        going_on = [
            place
            for place, (row, token, value) in enumerate(zip(self._unfinished, chosen, told, strict=True))
            if self._take(row, token, value)
        ]
        kept = np.array(going_on, dtype=np.int64)
        self.keep(kept)
        return kept, np.array(chosen, dtype=np.int64)[kept][:, None]

    def keep(self, places: Ints) -> None:
        """Go on with some of the unfinished rows only."""
        self._unfinished = [self._unfinished[place] for place in places]

    def _choose(self, log_p: "torch.Tensor") -> "torch.Tensor":
        import torch

        penalties = [row.writing.length_penalty * len(row.tokens) for row in self._unfinished]
        if any(penalties):
            log_p = log_p.clone()
            log_p[:, self._ends] += torch.tensor(penalties, device=log_p.device)[:, None]
        tokens = log_p.argmax(dim=-1)
        for place, row in enumerate(self._unfinished):
            if row.draws is not None:
                # On the CPU: the same seed draws the same tokens on every device.
                told = log_p[place].double().cpu()
                # Above the likeliest one, which no temperature makes infinite: a failed row would fail its batch.
                drawn = torch.softmax((told - told.max()) / row.writing.temperature, dim=-1)
                tokens[place] = torch.multinomial(drawn, 1, generator=row.draws)[0]
        return tokens

    def _take(self, row: _Row, token: int, log_probability: float) -> bool:
        """Give a row its next token; return whether it goes on."""
        row.log_probability += log_probability
        if token in self._ends:
            row.ended = True
            return False
        row.tokens.append(token)
        if row.writing.max_sentences is not None:
            row.end = _end_of_sentences(self._decode(row.tokens), row.writing.max_sentences)
        return row.end is None and len(row.tokens) < row.limit

    def _answer(self, row: _Row) -> WrittenAnswer:
        text = self._decode(row.tokens)
        count = len(row.tokens) + row.ended
        return WrittenAnswer(
            text[: row.end].strip(),
            tokens=len(row.tokens),
            confidence=math.exp(row.log_probability / count) if count else 0.0,
            cut=not row.ended and row.end is None,
        )


def _generator(writing: Writing) -> "torch.Generator | None":
    if writing.temperature <= 0:
        return None
    import torch

    draws = torch.Generator()
    if writing.seed is None:
        draws.seed()
    else:
        draws.manual_seed(writing.seed)
    return draws


def _end_of_sentences(text: str, most: int) -> int | None:
    """Return where the last allowed sentence ends, once something follows it; None before that."""
    found = sentences(text)
    return found[most - 1][1] if len(found) > most else None
