"""The token paths of all codes of a vocabulary: how they are found, and how they are kept in a file."""

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import SEPARATOR, encode_completions
from medcode_serving.reasoned import is_code_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

JOINS_CHECKED = 1000
"""Pairs of distant codes whose joined encoding is compared with their separate ones; neighbours all are."""
JOINED = 64
"""Codes that are encoded as one text, to see whether neighbours change each other's tokens."""
FORMAT = 1
"""Of the files; another number, another meaning of the arrays."""
ARRAYS = ("first_edge", "edge_tokens", "edge_node", "rank", "size", "code")

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


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
    """Token between two codes; -1: an answer holds one code only."""
    end: int
    """End-of-text token."""

    def save(self, file: Path) -> None:
        """Write the arrays as .npz of 32-bit integers, aside and renamed. `load_trie` reads it."""
        arrays = {name: getattr(self, name).astype(np.int32) for name in ARRAYS}
        scalars = np.array([FORMAT, self.longest, self.separator, self.end], dtype=np.int32)
        aside = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            with aside.open("wb") as opened:
                np.savez(opened, scalars=scalars, **arrays)
            aside.replace(file)
        finally:
            aside.unlink(missing_ok=True)


def load_trie(file: Path) -> CodeTrie:
    """Read what `CodeTrie.save` wrote.

    Raises:
        MedcodeError: the file is missing, damaged, or of another format.
    """
    try:
        with np.load(file, allow_pickle=False) as data:
            version, longest, separator, end = data["scalars"].tolist()
            arrays = {name: data[name].astype(np.int64) for name in ARRAYS}
    except (OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise MedcodeError(f"{file}: no code trie ({type(error).__name__}); delete it, it is made anew") from error
    if version != FORMAT:
        raise MedcodeError(f"{file}: code trie of format {version}, this version reads {FORMAT}; delete it")
    return CodeTrie(**arrays, longest=longest, separator=separator, end=end)


def build_trie(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> CodeTrie:
    """Build the trie of `` CODE`` for every text of a vocabulary; of code lines as they are, one an answer.

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
        return [ids[:-1] for ids in encode_completions(tokenizer, list(words))]

    if is_code_line(texts[0]):
        return -1, encode(texts)
    separator, *rest = encode([SEPARATOR.rstrip()])[0]
    paths = encode([" " + text for text in texts])
    step = max(1, len(texts) // JOINS_CHECKED)
    joined = [list(range(start, min(start + JOINED, len(texts)))) for start in range(0, len(texts), JOINED - 1)]
    joined += [[left, len(texts) - 1 - left] for left in range(0, len(texts), step)]
    together = encode([" " + SEPARATOR.join(texts[index] for index in indices) for indices in joined])
    holds = (
        not rest
        and tokenizer.eos_token_id is not None
        and all(paths)
        and all(
            ids == [token for index in indices for token in (separator, *paths[index])][1:]
            for ids, indices in zip(together, joined, strict=True)
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
