"""From a language model to codes: constrained decoding, and a tolerant parser for free text.

A constrained answer reads `` I10, E11.9<end>``. It holds at least one code; every code is one of the vocabulary, none
comes twice, none is cut off. Each code has exactly one path of tokens, the one that the tokenizer gives it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medcode_serving.codes.systems import undotted
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import SEPARATOR

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

JOINS_CHECKED = 1000
"""Pairs of codes whose joined encoding is compared with their separate ones."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


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


@dataclass(frozen=True)
class CodeTrie:
    """The token paths of all codes, as arrays. Node 0 is the root.

    Nodes are numbered depth first, so that the codes below a node have consecutive ranks.
    """

    first_edge: Ints
    """[nodes + 1] Where a node's edges begin in the arrays of edges."""
    edge_tokens: Ints
    """[edges, longest] Tokens of an edge, -1 behind them: the first is chosen, the others have no alternative."""
    edge_node: Ints
    """[edges] Node that an edge leads to: a code ends there, or paths part."""
    rank: Ints
    """[nodes] Smallest rank of a code at or below a node; the rank of the node's own code if it has one."""
    size: Ints
    """[nodes] Number of codes at or below a node."""
    code: Ints
    """[nodes] Vocabulary index of the code that ends here, or -1."""
    longest: int
    """Tokens of the longest code."""
    separator: int
    """Token between two codes."""
    end: int
    """End-of-text token."""


def build_trie(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> CodeTrie:
    """Build the trie of `` CODE`` for every text of a vocabulary.

    Raises:
        MedcodeError: the tokenizer joins codes and separator in another way than it encodes them apart.
    """
    if not texts:
        raise MedcodeError("the vocabulary has no codes; publish the bundle anew: medcode run")
    separator, paths = _encode_codes(tokenizer, texts)
    order = sorted(range(len(paths)), key=paths.__getitem__)
    parent, token, rank, size, code = [-1], [-1], [0], [0], [-1]
    walked: list[int] = [0]  # the nodes from the root to the end of the code before
    path: list[int] = []
    for place, index in enumerate(order):
        common = _common_length(path, paths[index])
        path = paths[index]
        del walked[common + 1 :]
        for next_token in path[common:]:
            parent.append(walked[-1])
            token.append(next_token)
            rank.append(place)
            size.append(0)
            code.append(-1)
            walked.append(len(parent) - 1)
        if code[walked[-1]] >= 0:
            raise MedcodeError(f"the tokenizer writes {texts[code[walked[-1]]]} and {texts[index]} alike; {_REMEDY}")
        code[walked[-1]] = index
        for node in walked:
            size[node] += 1
    longest = max(map(len, paths))
    child = np.argsort(parent[1:], kind="stable") + 1
    first_edge = np.searchsorted(np.array(parent)[child], np.arange(len(parent) + 1))
    edge_tokens, edge_node = _follow_single_paths(first_edge, np.array(token), child, np.array(code), longest)
    return CodeTrie(
        first_edge=first_edge,
        edge_tokens=edge_tokens,
        edge_node=edge_node,
        rank=np.array(rank),
        size=np.array(size),
        code=np.array(code),
        longest=longest,
        separator=separator,
        end=int(tokenizer.eos_token_id),
    )


def _follow_single_paths(first_edge: Ints, token: Ints, child: Ints, code: Ints, longest: int) -> tuple[Ints, Ints]:
    """Let every edge run on to the next node where there is something to decide."""
    tokens = np.full((len(child), longest), -1, dtype=np.int64)
    tokens[:, 0] = token[child]
    single = (np.diff(first_edge) == 1) & (code < 0)
    node = child
    for place in range(1, longest):
        runs_on = single[node]
        node = np.where(runs_on, child[first_edge[node] * runs_on], node)
        tokens[runs_on, place] = token[node[runs_on]]
    return tokens, node


_REMEDY = "use a base model with a byte-level tokenizer (Qwen, Llama 3, GPT-2)"


def _encode_codes(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> tuple[int, list[list[int]]]:
    def encode(words: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(list(words), add_special_tokens=False)["input_ids"]
        return ids

    comma = SEPARATOR.rstrip()
    separator, *rest = encode([comma])[0]
    paths = encode([" " + text for text in texts])
    following = encode([SEPARATOR + text for text in texts])
    step = max(1, len(texts) // JOINS_CHECKED)
    pairs = [(left, len(texts) - 1 - left) for left in range(0, len(texts), step)]
    joined = encode([f" {texts[left]}{SEPARATOR}{texts[right]}" for left, right in pairs])
    holds = (
        not rest
        and tokenizer.eos_token_id is not None
        and all(path and after == [separator, *path] for path, after in zip(paths, following, strict=True))
        and all(
            ids == [*paths[left], separator, *paths[right]] for ids, (left, right) in zip(joined, pairs, strict=True)
        )
        and not any({separator, tokenizer.eos_token_id} & set(path) for path in paths)
    )
    if not holds:
        raise MedcodeError(f"the tokenizer encodes joined codes in another way than single ones; {_REMEDY}")
    return separator, paths


def _common_length(left: list[int], right: list[int]) -> int:
    length = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        length += 1
    return length


class GreedyAnswers:
    """Writes the answers of a batch side by side, one decision a row and step.

    `choices` says which tokens each unfinished row may write now; `choose` takes the model's logits for them, writes
    the likeliest with what must follow it, and takes the rows that ended out of the batch.
    """

    def __init__(self, trie: CodeTrie, rows: int, *, max_codes: int, max_tokens: int) -> None:
        """Start `rows` empty answers of at most `max_codes` codes and `max_tokens` tokens, end of text included.

        Raises:
            ValueError: not even the longest code fits into `max_tokens`.
        """
        if max_tokens < trie.longest + 1:
            raise ValueError(f"{max_tokens} tokens cannot hold a code of {trie.longest} and the end of text")
        self._trie = trie
        self._max_codes = min(max_codes, int(trie.size[0]))
        self._max_tokens = max_tokens
        self._answers: list[list[DecodedCode]] = [[] for _ in range(rows)]
        # One entry for every row that is still being written.
        self._row = np.arange(rows)
        self._node = np.zeros(rows, dtype=np.int64)
        self._written = np.zeros(rows, dtype=np.int64)  # tokens
        self._count = np.zeros(rows, dtype=np.int64)  # closed codes
        self._used = np.full((rows, self._max_codes), -1, dtype=np.int64)  # ranks
        self._log_confidence = np.zeros(rows)

    @property
    def answers(self) -> list[list[DecodedCode]]:
        """The codes of every row, in the order written."""
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

    def choose(self, logits: Floats) -> tuple[Ints, Ints]:
        """Decide in every unfinished row.

        Args:
            logits: One for each pair of the last `choices`.

        Returns:
            The rows that go on, as numbered in `choices`, and the tokens that they wrote: [rows, most tokens], a row
            with fewer has -1 in front.

        Raises:
            MedcodeError: a logit is not a number.
        """
        if not np.isfinite(logits).all():
            raise MedcodeError("the model gives logits that are no finite numbers; train the adapter anew")
        rows, nodes = self._choice_row, self._choice_node
        log_p = _log_softmax_by_row(logits, rows, len(self._node))
        ranking = np.lexsort((-np.arange(len(rows)), log_p, rows))  # by row, the likeliest last, first of equals
        best = ranking[np.searchsorted(rows[ranking], np.arange(len(self._node)), side="right") - 1]

        # Separator (leads to node 0) and end (-1) both close a code: that it closes counts for the code itself,
        # that another one follows counts for the other one.
        closing = nodes < 1
        log_p_close = np.full(len(self._node), -np.inf)
        np.logaddexp.at(log_p_close, rows[closing], log_p[closing])
        closed = closing[best]
        self._log_confidence += np.where(closed, log_p_close, log_p[best])
        for row in np.flatnonzero(closed):
            self._close_code(int(row))
        self._log_confidence = np.where(closed, log_p[best] - log_p_close, self._log_confidence)
        self._node = nodes[best]
        written = self._choice_tokens[best]
        self._written += (written >= 0).sum(axis=1)
        return self._keep_unfinished(written)

    def _close_code(self, row: int) -> None:
        node = self._node[row]
        confidence = float(np.exp(min(0.0, self._log_confidence[row])))
        self._answers[self._row[row]].append(DecodedCode(int(self._trie.code[node]), confidence))
        self._used[row, self._count[row]] = self._trie.rank[node]
        self._count[row] += 1

    def _keep_unfinished(self, written: Ints) -> tuple[Ints, Ints]:
        going_on = np.flatnonzero(self._node >= 0)
        self._row, self._node, self._count = self._row[going_on], self._node[going_on], self._count[going_on]
        self._used, self._log_confidence = self._used[going_on], self._log_confidence[going_on]
        self._written, written = self._written[going_on], written[going_on]
        lengths = (written >= 0).sum(axis=1)
        most = int(lengths.max(initial=0))
        # Row by row, the tokens at the end: column c of the result is column c - (most - length) of what was written.
        source = np.arange(most) - (most - lengths)[:, None]
        right_aligned = np.take_along_axis(written, source.clip(min=0), axis=1)
        return going_on, np.where(source >= 0, right_aligned, -1)


def _log_softmax_by_row(logits: Floats, rows: Ints, count: int) -> Floats:
    highest = np.full(count, -np.inf)
    np.maximum.at(highest, rows, logits)
    shifted = logits - highest[rows]
    total = np.bincount(rows, weights=np.exp(shifted), minlength=count)
    return shifted - np.log(total)[rows]


_WORD = re.compile(r"[A-Z0-9](?:[A-Z0-9.:]*[A-Z0-9])?")


def parse_codes(text: str, vocabulary: Vocabulary) -> tuple[list[int], int]:
    """Find the codes of a vocabulary in a free answer.

    Understood are commas, semicolons and new lines, missing dots, lower case, a trailing full stop, prose around the
    codes, and reasoning that ends in `</think>`.

    Returns:
        Rows of the vocabulary in order of mention, each once; and how many fragments were dropped: parts without any
        code, and words beside a code that look like one and are none.
    """
    answer = text.rpartition("</think>")[2].upper()
    exact, bare = _spellings(vocabulary)
    found: dict[int, None] = {}
    dropped = 0
    for fragment in re.split(r"[,;\n]", answer):
        words = _WORD.findall(fragment)
        looked_up = [exact.get(word, bare.get(undotted(word))) for word in words]
        known = [index for index in looked_up if index is not None]
        found.update(dict.fromkeys(known))
        codelike = [
            word
            for word, index in zip(words, looked_up, strict=True)
            if index is None and len(word) >= 3 and any(map(str.isdigit, word))
        ]
        dropped += len(codelike) if codelike else bool(words and not known)
    return list(found), dropped


def _spellings(vocabulary: Vocabulary) -> tuple[dict[str, int], dict[str, int]]:
    """Return the codes' rows by text and by text without dots; without dots only where one code is meant."""
    exact = {code.text.upper(): index for index, code in enumerate(vocabulary.codes)}
    bare: dict[str, int] = {}
    shared: set[str] = set()
    for text, index in exact.items():
        if bare.setdefault(undotted(text), index) != index:
            shared.add(undotted(text))
    return exact, {text: index for text, index in bare.items() if text not in shared}
