"""From a language model to codes: constrained decoding, and a tolerant parser for free text.

A constrained answer reads `` I10, E11.9<end>``. It holds at least one code; every code is one of the vocabulary, none
comes twice, none is cut off. Each code has exactly one path of tokens, the one that the tokenizer gives it.
"""

from medcode_serving.decoding.greedy import Decision, DecodedCode, GivenAnswer, GreedyAnswers, given_answer
from medcode_serving.decoding.parsing import Mention, ParsedAnswer, mention_probability, parse_answer
from medcode_serving.decoding.trie import CodeTrie, build_trie, load_trie
from medcode_serving.decoding.trie_cache import cached_trie, trie_key

__all__ = [
    "CodeTrie",
    "Decision",
    "DecodedCode",
    "GivenAnswer",
    "GreedyAnswers",
    "Mention",
    "ParsedAnswer",
    "build_trie",
    "cached_trie",
    "given_answer",
    "load_trie",
    "mention_probability",
    "parse_answer",
    "trie_key",
]
