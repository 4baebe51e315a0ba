"""A Hugging Face byte-level BPE tokenizer, as GGUF's metadata describes it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_serving.engines.transformers import load_tokenizer
from medcode_serving.errors import MedcodeError
from medcode_serving.reasoned import SPECIAL_TOKENS

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CL100K = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTE_LEVEL = "ByteLevel"
_DIGITS = "Digits, ByteLevel"

PRE_TOKENIZERS: dict[tuple[str, bool], str] = {
    (_QWEN2, False): "qwen2",
    (_CL100K, True): "llama-bpe",
    (_CL100K, False): "dbrx",
    (_O200K, False): "gpt-4o",
    (_BYTE_LEVEL, False): "gpt-2",
    (_DIGITS, False): "smollm",
}
"""(Splitting rule, whether a word that is a token is kept without merging) -> `tokenizer.ggml.pre`, by which
llama.cpp knows both (llama-vocab.cpp, `llm_tokenizer_bpe`)."""

_R1_BEGIN = "<｜begin▁of▁sentence｜>"


@dataclass(frozen=True)
class GgufTokenizer:
    """What a GGUF file says about its tokenizer; index = token id."""

    pre: str
    tokens: list[str]
    types: list[int]
    """gguf.TokenType of each token."""
    adds_bos: bool
    """Whether the tokenizer begins a text with its BOS token."""
    adds_eos: bool


def read_tokenizer(folder: Path, vocabulary_size: int) -> GgufTokenizer:
    """Read the tokenizer of a model folder as training loads it.

    What tokenizer.json says is not what transformers does with every tokenizer class: Qwen2's and GPT-2's bring
    their own splitting rule. What training saw is what counts.

    Args:
        folder: The model's folder.
        vocabulary_size: Rows of the embedding; ids that the tokenizer does not use become unused padding
            tokens.

    Raises:
        MedcodeError: no tokenizer.json, one that transformers cannot use, another kind than byte-level BPE, or a
            splitting rule that is not known to be the same in llama.cpp. A wrong rule changes tokens silently, so
            there is no default.
    """
    from gguf import TokenType

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise MedcodeError(f"{file}: missing; put the base model's tokenizer files there")
    tokenizer, spec, begun = _loaded(folder)
    pre = _pre_tokenizer_name(file, spec)
    tokens = {index: token for token, index in spec["model"]["vocab"].items()}
    types = dict.fromkeys(tokens, int(TokenType.NORMAL))
    for added in spec["added_tokens"]:
        # Tags and markers are part of the answer, and llama.cpp leaves control tokens out of what it writes.
        shown = added["content"] in SPECIAL_TOKENS
        control = not shown and (added["special"] or _looks_special(added["content"]))
        if not control and (added["lstrip"] or added["rstrip"] or added["single_word"]):
            raise MedcodeError(f"{file}: token {added['content']!r} takes spaces with it, which llama.cpp does not")
        tokens[added["id"]] = added["content"]
        types[added["id"]] = int(TokenType.CONTROL if control else TokenType.USER_DEFINED)
    if max(tokens) >= vocabulary_size:
        raise MedcodeError(
            f"{file}: token id {max(tokens)} has no row in an embedding of {vocabulary_size}; "
            "take the base model's own tokenizer"
        )
    ids = range(vocabulary_size)
    return GgufTokenizer(
        pre=pre,
        tokens=[tokens.get(index, f"[PAD{index}]") for index in ids],
        types=[types.get(index, int(TokenType.UNUSED)) for index in ids],
        adds_bos=begun[0] == tokenizer.bos_token_id,
        adds_eos=begun[-1] == tokenizer.eos_token_id,
    )


def _loaded(folder: Path) -> "tuple[PreTrainedTokenizerBase, dict[str, Any], list[int]]":
    """Return a folder's tokenizer, its tokenizer.json as transformers changed it, and the token ids of `A`."""
    try:
        tokenizer = load_tokenizer(folder)
        begun: list[int] = tokenizer("A")["input_ids"]
        if not begun:
            raise ValueError("a vocabulary without letters")
        return tokenizer, json.loads(tokenizer.backend_tokenizer.to_str()), begun
    except MedcodeError:
        raise
    except Exception as error:  # noqa: BLE001 - transformers and tokenizers check no shapes, and raise plain Exceptions too
        raise MedcodeError(
            f"{folder / 'tokenizer.json'}: it or tokenizer_config.json is none that transformers can use "
            f"({type(error).__name__}); take the base model's own"
        ) from error


def add_tokenizer(
    writer: "GGUFWriter", folder: Path, tokenizer: GgufTokenizer, chat_template: str | None = None
) -> None:
    """Write tokens, merges, special tokens and the chat template (None: the folder's own) into a GGUF header."""
    from gguf import SpecialVocab

    writer.add_tokenizer_model("gpt2")  # GGUF's name of byte-level BPE
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    special = SpecialVocab(folder, load_merges=True, n_vocab=len(tokenizer.tokens))
    # Left out, llama.cpp decides by the pre-tokenizer's name; and the folder's files may say otherwise.
    special.add_special_token |= {"bos": tokenizer.adds_bos, "eos": tokenizer.adds_eos}
    if chat_template is not None:
        special.chat_template = chat_template
    special.add_to_gguf(writer, quiet=True)


def _looks_special(token: str) -> bool:
    """Tell a control token that its tokenizer does not mark as one, as llama.cpp's converter does.

    DeepSeek's `<｜User｜>` is such a token: as a user-defined one it would be parsed out of untrusted text.
    """
    return (token.startswith("<|") and token.endswith("|>")) or (token.startswith("<｜") and token.endswith("｜>"))


def _pre_tokenizer_name(file: Path, spec: dict[str, Any]) -> str:
    """Return llama.cpp's name of the tokenizer's splitting rule (`tokenizer.ggml.pre`)."""
    model, normalizer, pre_tokenizer = spec["model"], spec["normalizer"], spec["pre_tokenizer"]
    if model["type"] == "Unigram" or model.get("byte_fallback") or _kind(pre_tokenizer) == "Metaspace":
        raise MedcodeError(
            f"{file}: a SentencePiece tokenizer, as Llama 2, Mistral and Phi-3 have it; "
            "GGUF export knows byte-level BPE only, choose another base"
        )
    if model["type"] != "BPE":
        raise MedcodeError(f"{file}: a {model['type']} tokenizer; GGUF export knows byte-level BPE only")
    # llama.cpp does not normalise; prompts reach both in NFC (medcode_serving.prompts), so NFC changes
    # nothing.
    if normalizer not in (None, {"type": "NFC"}):
        raise MedcodeError(f"{file}: normalizer {_kind(normalizer)!r} has no counterpart in llama.cpp")
    name = PRE_TOKENIZERS.get((_splitting_rule(pre_tokenizer) or "", bool(model.get("ignore_merges"))))
    if name is None:
        raise MedcodeError(
            f"{file}: its pre_tokenizer is none that llama.cpp is known to split alike; "
            f"export supports those that llama.cpp calls {', '.join(PRE_TOKENIZERS.values())}"
        )
    begins = {added["content"] for added in spec["added_tokens"]}
    return "deepseek-r1-qwen" if name == "qwen2" and _R1_BEGIN in begins else name


def _kind(step: dict[str, Any] | None) -> str | None:
    return None if step is None else step["type"]


def _splitting_rule(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """Return the Split regex, the names of a rule that has none, or None if the steps are any others."""
    if pre_tokenizer is None:
        return None
    match pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return _BYTE_LEVEL
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        ]:
            return _DIGITS
        # Every regex here matches any text, so that between its matches nothing is left to tell the two apart.
        case [
            {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": behavior, "invert": invert},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ] if (behavior, invert) in (("Isolated", False), ("Removed", True)):
            return regex
    return None
