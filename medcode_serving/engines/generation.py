"""A batch of prompts and a causal language model: answers token by token, and the beginning that all prompts share."""

import copy
import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from medcode_serving.decoding import CodeTrie, DecodedCode, GreedyAnswers
from medcode_serving.decoding.trie import Ints
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import FramedTokenizer

if TYPE_CHECKING:
    import torch

SHORTEST_PREFIX = 16
"""Tokens that all prompts must begin with for their keys and values to be kept.

With 19, notes of 20 words took 0.90 of the CPU time, with 60 they took 0.72; longer notes gain less, none lost.
"""


class Writer(Protocol):
    """Decides what the rows of a batch write."""

    def write(self, logits: "torch.Tensor") -> tuple[Ints, Ints]:
        """Decide in every unfinished row.

        Args:
            logits: [unfinished rows, vocabulary] For the next token.

        Returns:
            The rows that go on, numbered among the unfinished ones, and the tokens that they wrote: [rows, most
            tokens], a row with fewer has -1 in front.
        """
        ...

    def keep(self, places: Ints) -> None:
        """Go on with some of the unfinished rows only, numbered among them; the others are given up."""
        ...


class ConstrainedWriter:
    """Writes codes of a trie and nothing else."""

    def __init__(self, answers: GreedyAnswers) -> None:
        self._answers = answers
        self.keep = answers.keep

    def write(self, logits: "torch.Tensor") -> tuple[Ints, Ints]:
        """Decide as `GreedyAnswers` does. Raises as it does."""
        import torch

        rows, tokens = (torch.from_numpy(array).to(logits.device) for array in self._answers.choices())
        allowed = logits[rows, tokens].double()
        log_total = torch.logsumexp(logits.float(), dim=-1).double()
        told = torch.cat([allowed, log_total]).cpu().numpy()  # one way from the device, not two
        return self._answers.choose(told[: len(allowed)], told[len(allowed) :])


@dataclass
class FreeAnswer:
    """What a model wrote without constraint."""

    tokens: list[int] = field(default_factory=list)
    """Without the end of text."""
    log_probabilities: list[float] = field(default_factory=list)
    """One a token."""
    cut: bool = False
    """It reached the limit before its end."""


class FreeWriter:
    """Writes the likeliest token, until end of text or the limit."""

    def __init__(self, rows: int, *, ends: Collection[int], max_tokens: int) -> None:
        """Start `rows` empty answers of at most `max_tokens` tokens; each of `ends` ends one."""
        self.answers = [FreeAnswer() for _ in range(rows)]
        self._unfinished = self.answers
        self._ends = ends
        self._max_tokens = max_tokens

    def write(self, logits: "torch.Tensor") -> tuple[Ints, Ints]:
        """Take the likeliest token of each row.

        Raises:
            MedcodeError: a logit is not a number.
        """
        import torch

        logits = logits.float()
        highest, tokens = logits.max(dim=-1)
        log_p = (highest - torch.logsumexp(logits, dim=-1)).tolist()
        if not np.isfinite(log_p).all():
            raise MedcodeError("the model gives logits that are no finite numbers; train the adapter anew")
        going_on = []
        for place, (answer, token, value) in enumerate(zip(self._unfinished, tokens.tolist(), log_p, strict=True)):
            if token in self._ends:
                continue
            answer.tokens.append(token)
            answer.log_probabilities.append(value)
            answer.cut = len(answer.tokens) >= self._max_tokens
            if not answer.cut:
                going_on.append(place)
        kept = np.array(going_on, dtype=np.int64)
        self.keep(kept)
        return kept, tokens.cpu().numpy()[kept][:, None]

    def keep(self, places: Ints) -> None:
        """Go on with some of the unfinished rows only."""
        self._unfinished = [self._unfinished[place] for place in places]


class SharedPrefix:
    """The tokens that all prompts begin with, read by the model once: keys and values that each batch begins from.

    They are those of one set of weights: an engine with other weights needs a prefix of its own.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        """Take the tokens; the model reads them when the first batch needs them."""
        self.tokens = list(tokens)
        self._cache: Any = None

    def begins(self, prompts: Sequence[list[int]]) -> bool:
        """Tell whether every prompt begins with the prefix and goes on."""
        length = len(self.tokens)
        return all(len(prompt) > length and prompt[:length] == self.tokens for prompt in prompts)

    def cache(self, model: Any, rows: int) -> Any:
        """Return a cache of the prefix for a batch, which the batch may change. Call it in inference mode."""
        import torch

        if self._cache is None:
            ids = torch.tensor([self.tokens], device=model.device)
            self._cache = model(input_ids=ids, use_cache=True, **_last_logits(model, 1)).past_key_values
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(rows)
        return cache


def shared_prefix(framed: FramedTokenizer) -> SharedPrefix | None:
    """Return what all prompts of a template begin with, if it is long enough to be kept."""
    one, other = (encoding.ids for encoding in framed.encode(["Patient", "1"]))
    pairs = zip(one, other, strict=False)
    length = next((place for place, (left, right) in enumerate(pairs) if left != right), 0)
    return SharedPrefix(one[:length]) if length >= SHORTEST_PREFIX else None


def generate(
    model: Any,
    prompts: Sequence[list[int]],
    writer: Writer,
    *,
    pad: int,
    ended: Sequence[Callable[[], bool]] | None = None,
    prefix: SharedPrefix | None = None,
) -> list[bool]:
    """Let a writer write the answers of one batch. A row that ended leaves the batch at once.

    Args:
        model: A causal language model in evaluation mode.
        prompts: Token ids of each prompt.
        writer: Has a row for each prompt.
        pad: Token that fills shorter prompts up.
        ended: One a prompt, asked before the first step and after each one; from True on, its row is given up.
        prefix: Beginning of the prompts that need not be computed.

    Returns:
        Which rows were given up.
    """
    import torch

    rows = np.arange(len(prompts))
    given_up = np.zeros(len(prompts), dtype=bool)

    def not_ended(rows: Ints) -> Ints:
        if ended is not None:
            given_up[rows] = [ended[row]() for row in rows]
        places = np.flatnonzero(~given_up[rows])
        writer.keep(places)
        return places

    rows = rows[not_ended(rows)]
    if not len(rows):
        return given_up.tolist()
    with torch.inference_mode():
        ids, mask, cache = begin(model, [prompts[row] for row in rows.tolist()], pad, prefix)
        while True:
            output = forward(model, ids, mask, cache, logits=1)
            going_on, written = writer.write(output.logits[:, -1])
            still = not_ended(rows[going_on])
            going_on, written = going_on[still], written[still]
            if not len(going_on):
                return given_up.tolist()
            cache = output.past_key_values
            if len(going_on) < len(rows):
                kept = torch.from_numpy(going_on).to(mask.device)
                cache.batch_select_indices(kept)
                mask, rows = mask[kept], rows[going_on]
            # Rows write one to a few tokens a step; the mask hides the gaps in front of the shorter ones.
            block = torch.from_numpy(written).to(mask.device)
            mask = torch.cat([mask, (block >= 0).to(mask.dtype)], dim=1)
            ids = block.clamp(min=0)


def begin(
    model: Any, prompts: Sequence[list[int]], pad: int, prefix: SharedPrefix | None
) -> tuple["torch.Tensor", "torch.Tensor", Any]:
    """Return the tokens to compute, the mask of these and the cached ones, and the cache; on the model's device.

    Call it in inference mode: what it returns shares tensors with the prefix.
    """
    import torch

    cache, cached = None, 0
    if prefix is not None and prefix.begins(prompts):
        cache, cached = prefix.cache(model, len(prompts)), len(prefix.tokens)
    longest = max(map(len, prompts)) - cached
    gaps = [longest - (len(prompt) - cached) for prompt in prompts]
    ids = torch.tensor([[pad] * gap + prompt[cached:] for gap, prompt in zip(gaps, prompts, strict=True)])
    # The prefix stands before the padding: positions are counted over the mask, so that nothing moves.
    mask = torch.tensor([[1] * cached + [0] * gap + [1] * (longest - gap) for gap in gaps])
    return ids.to(model.device), mask.to(model.device), cache


def forward(model: Any, ids: "torch.Tensor", mask: "torch.Tensor", cache: Any, *, logits: "int | torch.Tensor") -> Any:
    """Return the model's output; logits for the last so many of the tokens, or for those at certain places, if it can.

    Args:
        model: A causal language model.
        ids: [rows, new tokens]
        mask: [rows, cached and new tokens] 0 at gaps.
        cache: What it returned before, or None.
        logits: Of which of the new tokens.
    """
    return model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :],
        past_key_values=cache,
        use_cache=True,
        **_last_logits(model, logits),
    )


def _last_logits(model: Any, logits: "int | torch.Tensor") -> dict[str, Any]:
    return {"logits_to_keep": logits} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


def write_answers(
    model: Any, trie: CodeTrie, prompts: list[list[int]], *, max_codes: int, max_tokens: int, pad: int
) -> list[list[DecodedCode]]:
    """Write the answers of one batch, greedily and constrained to the trie's codes.

    Args:
        model: A causal language model in evaluation mode.
        trie: The codes.
        prompts: Token ids of each prompt.
        max_codes: Codes of an answer at most.
        max_tokens: Tokens of an answer at most.
        pad: Token that fills shorter prompts up.
    """
    answers = GreedyAnswers(trie, len(prompts), max_codes=max_codes, max_tokens=max_tokens)
    generate(model, prompts, ConstrainedWriter(answers), pad=pad)
    return answers.answers
