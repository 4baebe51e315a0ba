"""Rendered prompts as tokens: as training splits them, and as a chat in another program does."""

from typing import TYPE_CHECKING

from medcode_serving.prompts import FramedTokenizer, PromptTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def opening_token(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the text of the token that a tokenizer begins every text with; empty: it begins with none.

    Programs add that token themselves: a prompt that spells it out, as chat templates do, would have it twice.
    """
    first = tokenizer("")["input_ids"][:1]
    return str(tokenizer.bos_token) if first and first == [tokenizer.bos_token_id] else ""


def training_tokens(tokenizer: "PreTrainedTokenizerBase", text: str, prompt: PromptTemplate | None) -> list[int]:
    """Return the token ids of a rendered prompt as training has them.

    With markup, what the template's words spell out of the special tokens is one, and what the note does is text.

    Args:
        tokenizer: The model's.
        text: `PromptTemplate.render` of a note.
        prompt: The template; None: one without markup.
    """
    if prompt is None or not prompt.markup:
        ids: list[int] = tokenizer(text, split_special_tokens=True)["input_ids"]
        return ids
    before, _, after = prompt.instruction.partition("{note}")
    note = text.removeprefix(before).removesuffix(after + prompt.answer_header)
    return FramedTokenizer(tokenizer, prompt).encode([note])[0].ids


def joined_tokens(tokenizer: "PreTrainedTokenizerBase", prompt: PromptTemplate, note: str) -> list[int]:
    """Return the token ids of a prompt as a chat in another program has them: split at once, special tokens read."""
    text = prompt.render(note).removeprefix(opening_token(tokenizer))
    ids: list[int] = tokenizer(text, split_special_tokens=False)["input_ids"]
    return ids
