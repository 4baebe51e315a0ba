"""Answers in words, token by token: the likeliest or drawn ones, ended early where brevity is asked for."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medcode_serving.decoding.trie import Ints
from medcode_serving.engines.protocol import Writing, WrittenAnswer
from medcode_serving.errors import MedcodeError
from medcode_serving.evidence.sentences import sentences

if TYPE_CHECKING:
    import torch

Decode = Callable[[list[int]], str]


class Draft:
    """An answer as far as it is written, and when that is enough."""

    def __init__(self, writing: Writing, *, max_tokens: int, decode: Decode) -> None:
        """Start an empty answer.

        Args:
            writing: How it is to be written.
            max_tokens: Tokens at most, whatever `writing` allows.
            decode: Turns tokens into text.
        """
        self.writing = writing
        self.limit = min(writing.max_tokens or max_tokens, max_tokens)
        self.tokens: list[int] = []
        self._decode = decode
        self._told: list[float] = []
        self._ended = False
        self._end: int | None = None
        """Characters of the text up to its last sentence, where sentences are limited."""

    def add(self, token: int, log_probability: float | None) -> bool:
        """Take the next token; return whether the answer goes on.

        Args:
            token: Any but an end.
            log_probability: Under the model itself, whatever temperature and penalty are; None: nobody tells it.
        """
        self.tokens.append(token)
        self._take(log_probability)
        if self.writing.max_sentences is not None:
            self._end = end_of_sentences(self._decode(self.tokens), self.writing.max_sentences)
        return self._end is None and len(self.tokens) < self.limit

    def finish(self, log_probability: float | None) -> None:
        """Take the end of the text."""
        self._ended = True
        self._take(log_probability)

    def _take(self, log_probability: float | None) -> None:
        if log_probability is not None:
            self._told.append(log_probability)

    @property
    def answer(self) -> WrittenAnswer:
        """What was written."""
        return WrittenAnswer(
            self._decode(self.tokens)[: self._end].strip(),
            tokens=len(self.tokens),
            confidence=math.exp(math.fsum(self._told) / len(self._told)) if self._told else None,
            cut=not self._ended and self._end is None,
        )


@dataclass(frozen=True)
class _Row:
    draft: Draft
    draws: "torch.Generator | None"


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
            _Row(Draft(writing, max_tokens=max_tokens, decode=decode), _generator(writing)) for writing in writings
        ]
        self._unfinished = self._rows
        self._ends = sorted(ends)

    @property
    def answers(self) -> list[WrittenAnswer]:
        """What was written, a row each."""
        return [row.draft.answer for row in self._rows]

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
            if self._take(row.draft, token, value)
        ]
        kept = np.array(going_on, dtype=np.int64)
        self.keep(kept)
        return kept, np.array(chosen, dtype=np.int64)[kept][:, None]

    def keep(self, places: Ints) -> None:
        """Go on with some of the unfinished rows only."""
        self._unfinished = [self._unfinished[place] for place in places]

    def _choose(self, log_p: "torch.Tensor") -> "torch.Tensor":
        import torch

        penalties = [row.draft.writing.length_penalty * len(row.draft.tokens) for row in self._unfinished]
        if any(penalties):
            log_p = log_p.clone()
            log_p[:, self._ends] += torch.tensor(penalties, device=log_p.device)[:, None]
        tokens = log_p.argmax(dim=-1)
        for place, row in enumerate(self._unfinished):
            if row.draws is not None:
                # On the CPU: the same seed draws the same tokens on every device.
                told = log_p[place].double().cpu()
                # Above the likeliest one, which no temperature makes infinite: a failed row would fail its batch.
                drawn = torch.softmax((told - told.max()) / row.draft.writing.temperature, dim=-1)
                tokens[place] = torch.multinomial(drawn, 1, generator=row.draws)[0]
        return tokens

    def _take(self, draft: Draft, token: int, log_probability: float) -> bool:
        """Give a row its next token; return whether it goes on."""
        if token in self._ends:
            draft.finish(log_probability)
            return False
        return draft.add(token, log_probability)


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


def end_of_sentences(text: str, most: int) -> int | None:
    """Return where the last allowed sentence ends, once something follows it; None before that."""
    found = sentences(text)
    return found[most - 1][1] if len(found) > most else None
