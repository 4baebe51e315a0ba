"""How a prompt and its completion look: once, for training, evaluation and serving.

A prompt ends with ``Codes:`` and a completion begins with a space, so that tokenizing the two apart gives the tokens
of the joined text with every byte-level tokenizer; a client that sends the joined text sees what training saw.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEPARATOR = ", "


class PromptTemplate(BaseModel):
    """The words around a note. A bundle carries the template that its adapter was trained with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction: str = Field(
        default="Predict the medical codes for the following text: {note}",
        description="Prompt; {note} stands for the note.",
    )
    answer_header: str = Field(default="\n\nCodes:", description="Closes the prompt; the completion follows it.")

    def render(self, note: str) -> str:
        """Return the prompt for one note, normalised as `normalise_note` does."""
        return self.instruction.replace("{note}", normalise_note(note)) + self.answer_header

    def completion(self, codes: Iterable[str]) -> str:
        """Return the answer that training teaches: `` I10, E11.9``, in the order given."""
        return " " + SEPARATOR.join(codes)


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids of one prompt, and how long it was before its note was shortened to fit."""

    input_ids: list[int]
    whole_length: int
    """Tokens of the prompt with the whole note."""

    @property
    def truncated(self) -> bool:
        """Whether the note was shortened."""
        return self.whole_length > len(self.input_ids)


def normalise_note(note: str) -> str:
    """Return the note in NFC without outer white space.

    llama.cpp does not normalise and Qwen2's tokenizer does: with NFC text both see the same tokens.
    """
    return unicodedata.normalize("NFC", note).strip()


def encode_prompts(
    tokenizer: "PreTrainedTokenizerBase", template: PromptTemplate, notes: list[str], max_tokens: int
) -> list[EncodedPrompt]:
    """Tokenize the prompts of a list of notes, each at most `max_tokens` tokens long.

    A note that is too long is cut at its end, inside the text and before tokens exist, so that instruction and answer
    header always stay; the result says so.

    Raises:
        ValueError: `max_tokens` leaves no room for the note beside instruction and answer header.
    """
    encoded = tokenizer([template.render(note) for note in notes], add_special_tokens=True)["input_ids"]
    return [
        EncodedPrompt(
            ids if len(ids) <= max_tokens else _encode_shortened(tokenizer, template, note, max_tokens), len(ids)
        )
        for note, ids in zip(notes, encoded, strict=True)
    ]


def _encode_shortened(
    tokenizer: "PreTrainedTokenizerBase", template: PromptTemplate, note: str, max_tokens: int
) -> list[int]:
    note = normalise_note(note)
    frame = len(tokenizer(template.render(""), add_special_tokens=True)["input_ids"])
    budget = max_tokens - frame
    ends = tokenizer(note, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    # A cut may split a word and so cost a token more than was counted: give back one token at a time until it fits.
    while budget > 0:
        shortened = note[: ends[min(budget, len(ends)) - 1][1]]
        ids: list[int] = tokenizer(template.render(shortened), add_special_tokens=True)["input_ids"]
        if len(ids) <= max_tokens:
            return ids
        budget -= len(ids) - max_tokens
    raise ValueError(f"a prompt of at most {max_tokens} tokens has no room for a note beside its {frame} fixed tokens")


def encode_completion(tokenizer: "PreTrainedTokenizerBase", completion: str) -> list[int]:
    """Return the token ids of a completion, closed by the end-of-text token."""
    ids: list[int] = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id]
