"""A Hugging Face byte-level BPE tokenizer, as GGUF's metadata describes it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from gguf import GGUFWriter

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_BYTE_LEVEL = "ByteLevel"

PRE_TOKENIZERS: dict[str, tuple[str, bool]] = {
    _QWEN2: ("qwen2", False),
    _LLAMA3: ("llama-bpe", True),
    _BYTE_LEVEL: ("gpt-2", False),
}
"""Split regex -> (llama.cpp's `tokenizer.ggml.pre`, whether llama.cpp then ignores merges for whole
words)."""

_R1_BEGIN = "<｜begin▁of▁sentence｜>"


@dataclass(frozen=True)
class GgufTokenizer:
    """What a GGUF file says about its tokenizer; index = token id."""

    pre: str
    tokens: list[str]
    types: list[int]
    """gguf.TokenType of each token."""


def read_tokenizer(folder: Path, vocabulary_size: int) -> GgufTokenizer:
    """Read tokenizer.json of a model folder.

    Args:
        folder: The model's folder.
        vocabulary_size: Rows of the embedding; ids that the tokenizer does not use become unused padding
            tokens.

    Raises:
        MedcodeError: no tokenizer.json, another kind than byte-level BPE, or a splitting rule that is not
            known to be the same in llama.cpp. A wrong rule changes tokens silently, so there is no default.
    """
    from gguf import TokenType

    file = folder / "tokenizer.json"
    try:
        spec = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MedcodeError(f"{file}: missing; put the base model's tokenizer files there") from None
    tokens = {index: token for token, index in spec["model"]["vocab"].items()}
    types = dict.fromkeys(tokens, int(TokenType.NORMAL))
    for added in spec.get("added_tokens", ()):
        control = added["special"] or _looks_special(added["content"])
        tokens[added["id"]] = added["content"]
        types[added["id"]] = int(TokenType.CONTROL if control else TokenType.USER_DEFINED)
    if max(tokens) >= vocabulary_size:
        raise MedcodeError(
            f"{file}: token id {max(tokens)} has no row in an embedding of {vocabulary_size}; "
            "take the base model's own tokenizer"
        )
    ids = range(vocabulary_size)
    return GgufTokenizer(
        pre=_pre_tokenizer_name(file, spec),
        tokens=[tokens.get(index, f"[PAD{index}]") for index in ids],
        types=[types.get(index, int(TokenType.UNUSED)) for index in ids],
    )


def add_tokenizer(writer: "GGUFWriter", folder: Path, tokenizer: GgufTokenizer) -> None:
    """Write tokens, merges, special tokens, add_bos and the chat template into a GGUF header."""
    from gguf import SpecialVocab

    writer.add_tokenizer_model("gpt2")  # GGUF's name of byte-level BPE
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    special = SpecialVocab(folder, load_merges=True, n_vocab=len(tokenizer.tokens))
    # Left out, llama.cpp decides by the pre-tokenizer's name; and what tokenizer_config.json says is not what
    # transformers 5 does with every class. What training saw is what counts.
    special.add_special_token["bos"] = _adds_bos(folder)
    special.add_to_gguf(writer, quiet=True)


def _adds_bos(folder: Path) -> bool:
    """Tell whether the tokenizer, as training loads it, begins a text with its BOS token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids: list[int] = tokenizer("A")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id


def _looks_special(token: str) -> bool:
    """Tell a control token that its tokenizer does not mark as one, as llama.cpp's converter does.

    DeepSeek's `<｜User｜>` is such a token: as a user-defined one it would be parsed out of untrusted text.
    """
    return (token.startswith("<|") and token.endswith("|>")) or (token.startswith("<｜") and token.endswith("｜>"))


def _pre_tokenizer_name(file: Path, spec: dict[str, Any]) -> str:
    """Return llama.cpp's name of the tokenizer's splitting rule (`tokenizer.ggml.pre`)."""
    normalizer = spec.get("normalizer")
    if spec["model"].get("type") != "BPE":
        raise MedcodeError(f"{file}: a {spec['model'].get('type')} tokenizer; GGUF export knows byte-level BPE only")
    # llama.cpp does not normalise; prompts reach both in NFC (medcode_serving.prompts), so NFC changes
    # nothing.
    if normalizer not in (None, {"type": "NFC"}):
        raise MedcodeError(f"{file}: normalizer {normalizer.get('type')!r} has no counterpart in llama.cpp")
    rule = _splitting_rule(spec.get("pre_tokenizer"))
    known = PRE_TOKENIZERS.get(rule or "")
    if known is None or known[1] != bool(spec["model"].get("ignore_merges")):
        raise MedcodeError(
            f"{file}: its pre_tokenizer is none that llama.cpp is known to split alike; "
            "export supports the splitting rules of Qwen2, Llama 3 and GPT-2"
        )
    name = known[0]
    begins = {added["content"] for added in spec.get("added_tokens", ())}
    return "deepseek-r1-qwen" if name == "qwen2" and _R1_BEGIN in begins else name


def _splitting_rule(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """Return the Split regex, `ByteLevel` for GPT-2's built-in one, or None if the steps are any others."""
    if pre_tokenizer is None:
        return None
    match pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return _BYTE_LEVEL
        case [
            {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            return regex
    return None
