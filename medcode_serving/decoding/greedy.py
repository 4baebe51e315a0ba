"""Constrained answers: what a model may write next, what it wrote, and how sure it was."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medcode_serving.decoding.trie import CodeTrie, Floats, Ints
from medcode_serving.errors import MedcodeError


@dataclass(frozen=True)
class DecodedCode:
    """One code of an answer."""

    index: int
    """Row of the vocabulary."""
    confidence: float
    """Probability, in [0, 1], that the next item of the answer is exactly this code.

    The product of the model's token probabilities, each renormalised over the tokens that were allowed there: that
    one more code follows instead of the end (1 for the first code, which must come), the tokens of the code, and that
    the code ends where it does (`E11` and not `E11.9`). It is conditional on the codes before it and not calibrated.
    The confidences of an answer times the probability of its end are the probability of the whole answer.
    """
    support: float
    """How much of the model's probability lay on allowed tokens, in [0, 1], while it wrote this code.

    The product, over the decisions of this code, of the share of the softmax over the whole output vocabulary that lay
    on the allowed tokens. Decisions are where a code begins, where paths of the vocabulary part, and where a code can
    end; the last one counts for the code that it closes. `confidence * support` is the probability of the code's
    choices in free generation. A low support says that the model wanted to write something else than a code.
    """


class GreedyAnswers:
    """Writes the answers of a batch side by side, one decision a row and step.

    `choices` says which tokens each unfinished row may write now; `choose` takes the model's logits for them, writes
    the likeliest with what must follow it, and takes the rows that ended out of the batch.
    """

    def __init__(self, trie: CodeTrie, rows: int, *, max_codes: int | Sequence[int], max_tokens: int) -> None:
        """Start `rows` empty answers.

        Args:
            trie: The codes.
            rows: Answers in the batch.
            max_codes: Codes that an answer holds at most, at least 1: one number for all or one a row.
            max_tokens: Tokens of an answer at most, end of text included.

        Raises:
            ValueError: not even the longest code fits into `max_tokens`.
        """
        if max_tokens < trie.longest + 1:
            raise ValueError(f"{max_tokens} tokens cannot hold a code of {trie.longest} and the end of text")
        self._trie = trie
        self._max_tokens = max_tokens
        self._answers: list[list[DecodedCode]] = [[] for _ in range(rows)]
        # One entry for every row that is still being written.
        self._row = np.arange(rows)
        most = 1 if trie.separator < 0 else trie.size[0]
        self._max_codes = np.broadcast_to(np.minimum(max_codes, most), rows)
        self._node = np.zeros(rows, dtype=np.int64)
        self._written = np.zeros(rows, dtype=np.int64)  # tokens
        self._count = np.zeros(rows, dtype=np.int64)  # closed codes
        self._used = np.full((rows, self._max_codes.max(initial=0)), -1, dtype=np.int64)  # ranks
        self._log_confidence = np.zeros(rows)
        self._log_support = np.zeros(rows)

    @property
    def answers(self) -> list[list[DecodedCode]]:
        """The codes of every row, in the order written; those of a row that was given up are only its first."""
        return self._answers

    def choices(self) -> tuple[Ints, Ints]:
        """Return the allowed (row, token) pairs, rows numbered among the unfinished ones; every row has one at least.

        A path is open while a code below it is unused. A code may be followed by the end of text, and by another code
        if that, however long, still fits.
        """
        trie, node = self._trie, self._node
        fan = trie.first_edge[node + 1] - trie.first_edge[node]
        rows = np.repeat(np.arange(len(node)), fan)
        before = np.repeat(np.cumsum(fan) - fan, fan)
        edges = np.repeat(trie.first_edge[node], fan) + np.arange(len(rows)) - before
        open_path = self._uses(rows, trie.edge_node[edges]) < trie.size[trie.edge_node[edges]]
        rows, edges = rows[open_path], edges[open_path]

        may_end = (trie.code[node] >= 0) & ~(self._used == trie.rank[node][:, None]).any(axis=1)
        room = self._written + 1 + trie.longest + 1 <= self._max_tokens
        may_go_on = may_end & (self._count + 1 < self._max_codes) & room
        ending, going_on = np.flatnonzero(may_end), np.flatnonzero(may_go_on)
        self._choice_row = np.concatenate([rows, going_on, ending])
        self._choice_node = np.concatenate([trie.edge_node[edges], 0 * going_on, 0 * ending - 1])
        self._choice_tokens = np.full((len(self._choice_row), trie.longest), -1, dtype=np.int64)
        self._choice_tokens[: len(edges)] = trie.edge_tokens[edges]
        self._choice_tokens[len(edges) :, 0] = [trie.separator] * len(going_on) + [trie.end] * len(ending)
        return self._choice_row, self._choice_tokens[:, 0]

    def _uses(self, rows: Ints, nodes: Ints) -> Ints:
        """Count the codes at or below each node that its row has used already."""
        trie = self._trie
        uses = np.zeros(len(rows), dtype=np.int64)
        # Only a node with as few codes as the row has written can be used up: a handful, of thousands at the root.
        small = np.flatnonzero(trie.size[nodes] <= self._count[rows])
        first = trie.rank[nodes[small]][:, None]
        used = self._used[rows[small]]
        uses[small] = ((used >= first) & (used < first + trie.size[nodes[small]][:, None])).sum(axis=1)
        return uses

    def choose(self, logits: Floats, log_total: Floats) -> tuple[Ints, Ints]:
        """Decide in every unfinished row.

        Args:
            logits: One for each pair of the last `choices`.
            log_total: [unfinished rows] Logarithm of the sum of exp(logit) over the model's whole vocabulary.

        Returns:
            The rows that go on, as numbered in `choices`, and the tokens that they wrote: [rows, most tokens], a row
            with fewer has -1 in front.

        Raises:
            MedcodeError: a logit is not a number.
        """
        if not (np.isfinite(logits).all() and np.isfinite(log_total).all()):
            raise MedcodeError("the model gives logits that are no finite numbers; train the adapter anew")
        rows, nodes = self._choice_row, self._choice_node
        log_allowed = _log_sum_exp_by_row(logits, rows, len(self._node))
        log_p = logits - log_allowed[rows]
        ranking = np.lexsort((-np.arange(len(rows)), log_p, rows))  # by row, the likeliest last, first of equals
        best = ranking[np.searchsorted(rows[ranking], np.arange(len(self._node)), side="right") - 1]

        # Separator (leads to node 0) and end (-1) both close a code: that it closes counts for the code itself,
        # that another one follows counts for the other one.
        closing = nodes < 1
        log_p_close = np.full(len(self._node), -np.inf)
        np.logaddexp.at(log_p_close, rows[closing], log_p[closing])
        closed = closing[best]
        self._log_confidence += np.where(closed, log_p_close, log_p[best])
        self._log_support += np.minimum(log_allowed - log_total, 0.0)  # two sums round differently
        for row in np.flatnonzero(closed):
            self._close_code(int(row))
        self._log_confidence = np.where(closed, log_p[best] - log_p_close, self._log_confidence)
        self._log_support[closed] = 0.0
        self._node = nodes[best]
        written = self._choice_tokens[best]
        self._written += (written >= 0).sum(axis=1)
        going_on = np.flatnonzero(self._node >= 0)
        self.keep(going_on)
        return going_on, _right_aligned(written[going_on])

    def leading_to(self, nodes: Sequence[int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Tell of the last choices, in a batch of one row, which lead to an answer, and which close a code.

        Args:
            nodes: Where the codes of the whole answer end.
        """
        trie, choices = self._trie, self._choice_node
        count = int(self._count[0])
        closing = choices < 1
        if self._node[0] == nodes[count]:
            return choices == (-1 if count + 1 == len(nodes) else 0), closing
        rank = trie.rank[nodes[count]]
        return ~closing & (trie.rank[choices] <= rank) & (rank < trie.rank[choices] + trie.size[choices]), closing

    def keep(self, places: Ints) -> None:
        """Go on with some of the unfinished rows only, numbered among them; the others are given up."""
        self._row, self._node, self._count = self._row[places], self._node[places], self._count[places]
        self._used, self._written, self._max_codes = self._used[places], self._written[places], self._max_codes[places]
        self._log_confidence, self._log_support = self._log_confidence[places], self._log_support[places]

    def _close_code(self, row: int) -> None:
        node = self._node[row]
        confidence = float(np.exp(min(0.0, self._log_confidence[row])))
        support = float(np.exp(self._log_support[row]))
        self._answers[self._row[row]].append(DecodedCode(int(self._trie.code[node]), confidence, support))
        self._used[row, self._count[row]] = self._trie.rank[node]
        self._count[row] += 1


def _right_aligned(written: Ints) -> Ints:
    """Move the tokens of each row, which -1 follows, to its end: [rows, most tokens of a row]."""
    lengths = (written >= 0).sum(axis=1)
    most = int(lengths.max(initial=0))
    # Column c of the result is column c - (most - length) of what was written.
    source = np.arange(most) - (most - lengths)[:, None]
    return np.where(source >= 0, np.take_along_axis(written, source.clip(min=0), axis=1), -1)


def _log_sum_exp_by_row(logits: Floats, rows: Ints, count: int) -> Floats:
    highest = np.full(count, -np.inf)
    np.maximum.at(highest, rows, logits)
    return highest + np.log(np.bincount(rows, weights=np.exp(logits - highest[rows]), minlength=count))


@dataclass(frozen=True)
class Decision:
    """A point of a given answer where a model has something to decide."""

    position: int
    """Tokens of the answer before it."""
    tokens: Ints
    """What may be written there."""
    chosen: int
    """Which of them the answer goes on with."""
    closing: NDArray[np.bool_]
    """Which of them close the code that was written."""


@dataclass(frozen=True)
class GivenAnswer:
    """An answer that is not written but given."""

    tokens: list[int]
    """Without its end."""
    decisions: list[Decision]
    """In order; the last one is the end."""
    codes: int
    """Their number."""


def given_answer(trie: CodeTrie, indices: Sequence[int], *, max_codes: int, max_tokens: int) -> GivenAnswer:
    """Walk along a given answer.

    Args:
        trie: The codes.
        indices: The answer's codes, rows of the vocabulary; one at least.
        max_codes: As for `GreedyAnswers`.
        max_tokens: As for `GreedyAnswers`.

    Raises:
        ValueError: a code comes twice, or the answer does not fit the limits.
    """
    if len(set(indices)) < len(indices):
        raise ValueError("an answer has each code once")
    nodes = [int(np.flatnonzero(trie.code == index)[0]) for index in indices]
    answers = GreedyAnswers(trie, 1, max_codes=max_codes, max_tokens=max_tokens)
    tokens: list[int] = []
    found: list[Decision] = []
    while True:
        allowed = answers.choices()[1]
        wanted, closing = answers.leading_to(nodes)
        if not wanted.any():
            raise ValueError(f"an answer of {len(indices)} codes does not fit {max_codes} codes, {max_tokens} tokens")
        found.append(Decision(len(tokens), allowed, int(wanted.argmax()), closing))
        going_on, written = answers.choose(wanted.astype(np.float64), np.zeros(1))
        if not len(going_on):
            return GivenAnswer(tokens, found, len(indices))
        tokens += written[0].tolist()
