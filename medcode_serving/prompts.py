"""How a prompt and its completion look: once, for training, evaluation and serving.

A prompt ends with ``Codes:`` and a completion begins with a space, so that tokenizing the two apart gives the tokens
of the joined text with every byte-level tokenizer; a client that sends the joined text sees what training saw.

A recipe that chats has its prompt from the base model's chat template (`chat_prompt`): its words around the note may be
special tokens, and its completions begin with one.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, Field

from medcode_serving.errors import MedcodeError
from medcode_serving.reasoned import SPECIAL_TOKENS
from medcode_serving.sections import join_parts, plan, split_note

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerBase

AnswerForm = Literal["codes", "line", "reasoned", "words"]
SEPARATOR = ", "
LONGEST_WORD = 40
"""A cut goes back by at most so many characters to the end of a word."""
SAMPLE = 2_000
"""Characters that are enough to tell how many there are to a token."""


class PromptTemplate(BaseModel):
    """The words around a note. A bundle carries the template that its adapter was trained with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction: str = Field(
        default="Predict the medical codes for the following text: {note}",
        description="Prompt; {note} stands for the note.",
    )
    answer_header: str = Field(default="\n\nCodes:", description="Closes the prompt; the completion follows it.")
    markup: bool = Field(
        default=False,
        description="What these words spell out of the tokenizer's special tokens is one, as in chat templates; what "
        "a note spells out is text in any case.",
    )
    answer: AnswerForm = Field(
        default="codes",
        description="codes: a list; line: one code in a line of its own; reasoned: the same behind the reasoning "
        "(medcode_serving/reasoned.py); words: free text.",
    )
    messages: tuple[tuple[str, str], ...] = Field(
        default=(),
        description="Role and content of what a server gets that has the base model's chat template of its own; "
        "empty: the whole prompt as the user's message.",
    )

    def render(self, note: str) -> str:
        """Return the prompt for one note, normalised as `normalise_note` does."""
        return self.instruction.replace("{note}", normalise_note(note)) + self.answer_header

    def chat(self, note: str) -> list[dict[str, str]]:
        """Return the messages of a chat about one note, for a server that puts its own words around them."""
        messages = self.messages or (("user", self.instruction + self.answer_header),)
        return [
            {"role": role, "content": content.replace("{note}", normalise_note(note))} for role, content in messages
        ]

    def completion(self, codes: Iterable[str]) -> str:
        """Return the answer that training teaches: `` I10, E11.9``, in the order given; a whole answer as it is."""
        return " " + SEPARATOR.join(codes) if self.answer == "codes" else "".join(codes)


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids of one prompt, and what was cut to make it fit."""

    input_ids: list[int]
    whole_length: int
    """Tokens of the prompt with the whole note."""
    cut: tuple[str, ...] = ()
    """Names of the note's sections that were shortened or dropped, as `sections.yaml` has them; never note text."""

    @property
    def truncated(self) -> bool:
        """Whether the note was shortened."""
        return self.whole_length > len(self.input_ids)


def normalise_note(note: str) -> str:
    """Return the note in NFC without outer white space.

    llama.cpp does not normalise and Qwen2's tokenizer does: with NFC text both see the same tokens.
    """
    if not note.isascii() and not unicodedata.is_normalized("NFC", note):
        note = unicodedata.normalize("NFC", note)
    return note.strip()


def encode_prompts(
    tokenizer: "PreTrainedTokenizerBase", template: PromptTemplate, notes: list[str], max_tokens: int
) -> list[EncodedPrompt]:
    """Tokenize the prompts of a list of notes, each at most `max_tokens` tokens long.

    Of a note that is too long, the sections that say most about its codes are kept (`medcode_serving.sections`), in
    the note's order; the last that has room is cut at its end, and so is a note without sections. The text is cut
    before tokens exist, so instruction and answer header always stay and the ids are those of the shortened text.

    Raises:
        ValueError: `max_tokens` leaves no room for the note beside instruction and answer header.
        MedcodeError: the tokenizer is no fast one.
    """
    framed = FramedTokenizer(tokenizer, template)
    notes = [normalise_note(note) for note in notes]
    encoded = _encode(framed, notes, max_tokens)
    long_notes = {
        place: framed.long_note(notes[place], encoding)
        for place, encoding in enumerate(encoded)
        if len(encoding) > max_tokens
    }
    shortened = _encode_shortened(framed, long_notes, max_tokens)
    return [
        shortened.get(place) or EncodedPrompt(encoding.ids, len(encoding)) for place, encoding in enumerate(encoded)
    ]


def encode_completions(tokenizer: "PreTrainedTokenizerBase", completions: list[str]) -> list[list[int]]:
    """Return the token ids of completions, each closed by the end-of-text token.

    The tags and markers of reasoned answers are tokens of their own where the tokenizer has them.
    """
    end = tokenizer.eos_token_id
    backend = backend_of(tokenizer)
    markers = {text: token for text in SPECIAL_TOKENS if (token := backend.token_to_id(text)) is not None}
    if not any(marker in completion for completion in completions for marker in markers):
        return [[*encoding.ids, end] for encoding in backend.encode_batch_fast(completions, add_special_tokens=False)]
    between = re.compile(f"({'|'.join(map(re.escape, markers))})")
    pieces = [between.split(completion) for completion in completions]
    texts = [text for parts in pieces for text in parts[::2]]
    encoded = iter(backend.encode_batch_fast(texts, add_special_tokens=False))
    return [
        [token for place, part in enumerate(parts) for token in ([markers[part]] if place % 2 else next(encoded).ids)]
        + [end]
        for parts in pieces
    ]


def _framed(frame: "tuple[Encoding, Encoding]", notes: "list[Encoding]") -> "list[Encoding]":
    from tokenizers import Encoding

    before, after = frame
    return [Encoding.merge([before, note, after], growing_offsets=True) for note in notes]


class FramedTokenizer:
    """Tokenizes notes with a template's words around them."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", template: PromptTemplate) -> None:
        """Take what belongs together. Raises MedcodeError if the tokenizer is no fast one."""
        self._backend = backend_of(tokenizer)
        self._template = template
        self._frame = _frame(tokenizer, template) if template.markup else None

    def encode(self, notes: list[str]) -> "list[Encoding]":
        """Return the prompts' tokens without offsets, in a quarter of the time."""
        if self._frame is None:
            return self._backend.encode_batch_fast([self._template.render(note) for note in notes])
        return _framed(self._frame, self._backend.encode_batch_fast(notes, add_special_tokens=False))

    def encode_with_offsets(self, notes: list[str]) -> "list[Encoding]":
        """Return the prompts' tokens, and the characters of `template.render(note)` that each stands for.

        Of a template with markup there are no characters: what was merged is looked up wrongly.
        """
        if self._frame is None:
            return self._backend.encode_batch([self._template.render(note) for note in notes])
        return self.encode(notes)

    def long_note(self, note: str, encoding: "Encoding") -> "LongNote":
        """Return a note that is too long, given its prompt's tokens as `encode_with_offsets` does."""
        if self._frame is None:
            return LongNote(note, encoding, self._template.instruction.find("{note}"), len(encoding))
        return LongNote(note, self._backend.encode(note, add_special_tokens=False), 0, len(encoding))

    @cached_property
    def fixed_tokens(self) -> int:
        """Number of tokens of a prompt without its note."""
        return len(self.encode([""])[0])


_FRAMES: "WeakKeyDictionary[PreTrainedTokenizerBase, dict[PromptTemplate, tuple[Encoding, Encoding]]]"
_FRAMES = WeakKeyDictionary()


def _frame(tokenizer: "PreTrainedTokenizerBase", template: PromptTemplate) -> "tuple[Encoding, Encoding]":
    """Return the tokens before and behind the note, special tokens among them."""
    known = _FRAMES.setdefault(tokenizer, {})
    if template not in known:
        from tokenizers import Tokenizer

        # A copy: the tokenizer itself is in use by other threads, which leave special tokens as text.
        backend = Tokenizer.from_str(backend_of(tokenizer).to_str())
        backend.encode_special_tokens = False
        before, _, after = template.instruction.partition("{note}")
        texts = [before, after + template.answer_header]
        known[template] = tuple(backend.encode_batch(texts, add_special_tokens=False))  # type: ignore[assignment]
    return known[template]


class LongNote:
    """A note that is too long, with the number of tokens of each of its sections."""

    def __init__(self, note: str, encoding: "Encoding", start: int, whole_length: int) -> None:
        """Measure the sections by one tokenization.

        Args:
            note: The normalised note.
            encoding: Tokens with offsets of the prompt with the whole note, or of the note alone.
            start: Where the note begins in what was tokenized.
            whole_length: Tokens of the prompt with the whole note.
        """
        self.whole_length = whole_length
        self._note = note
        self._encoding = encoding
        self._start = start
        self._parts = split_note(note)
        bounds = [part.start for part in self._parts] + [len(note)]
        self._first_tokens = [self._first_token(bound) for bound in bounds]

    def shortened(self, budget: int) -> tuple[str, tuple[str, ...]]:
        """Return what is kept of the note within about `budget` tokens, and the names of the sections cut."""
        firsts = self._first_tokens
        lengths = [after - first for first, after in zip(firsts, firsts[1:], strict=False)]
        chosen = plan(self._parts, lengths, budget)
        texts = []
        for part, first, length, kept in zip(self._parts, firsts, lengths, chosen.kept, strict=False):
            if kept == length:
                texts.append(self._note[part.start : part.end])
            elif kept:
                characters = self._encoding.token_to_chars(first + kept - 1)
                end = characters[1] - self._start if characters else part.start
                texts.append(whole_words(self._note[part.start : part.end], end - part.start))
        return join_parts(texts), chosen.cut

    def _first_token(self, character: int) -> int:
        """Return the first token at or after a character of the note; white space may be in no token."""
        for place in range(self._start + character, self._start + len(self._note) + 1):
            token = self._encoding.char_to_token(place)
            if token is not None:
                return int(token)
        return len(self._encoding)


def whole_words(text: str, end: int) -> str:
    """Return a text up to about `end`, not inside a word: of `120 mg` a cut must not leave `12`."""
    kept = text[:end]
    if text[end : end + 1].isspace():
        return kept
    space = max(kept.rfind(blank, max(end - LONGEST_WORD, 0)) for blank in " \n")
    return kept[: max(space, 0)] if kept[: max(space, 0)].strip() else kept


def backend_of(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer":
    """Return the tokenizer in Rust, which encodes a batch on all cores, set to neither cut nor pad.

    A special token that a note spells out stays text: `<|endoftext|>` in a note would end it, for the model.
    """
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise MedcodeError(
            f"{tokenizer.name_or_path}: {type(tokenizer).__name__} is no fast tokenizer; "
            "the folder needs a tokenizer.json"
        )
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def _encode(framed: FramedTokenizer, notes: list[str], max_tokens: int) -> "list[Encoding]":
    """Encode prompts; those of more than `max_tokens` tokens with offsets."""
    encoded: dict[int, Encoding] = {}
    limit = _characters(framed, notes, max_tokens)
    fitting = [place for place, note in enumerate(notes) if len(note) <= limit]
    for place, encoding in zip(fitting, framed.encode([notes[place] for place in fitting]), strict=True):
        if len(encoding) <= max_tokens:
            encoded[place] = encoding
    rest = [place for place in range(len(notes)) if place not in encoded]
    encoded.update(zip(rest, framed.encode_with_offsets([notes[place] for place in rest]), strict=True))
    return [encoded[place] for place in range(len(notes))]


def _characters(framed: FramedTokenizer, notes: list[str], tokens: int) -> int:
    """Return about how many characters have that many tokens, after a sample from the longest note's middle."""
    longest = max(notes, key=len, default="")
    middle = max(len(longest) - SAMPLE, 0) // 2
    sample = longest[middle : middle + SAMPLE]
    return len(sample) * tokens // max(len(framed.encode([sample])[0]) - framed.fixed_tokens, 1)


def _encode_shortened(
    framed: FramedTokenizer, long_notes: dict[int, LongNote], max_tokens: int
) -> dict[int, EncodedPrompt]:
    if not long_notes:
        return {}
    budgets = dict.fromkeys(long_notes, max_tokens - framed.fixed_tokens)
    encoded: dict[int, EncodedPrompt] = {}
    # Where text was taken out, tokens may differ from those counted: give back what is too much until all fit.
    while budgets:
        if min(budgets.values()) <= 0:
            raise ValueError(
                f"a prompt of at most {max_tokens} tokens has no room for a note beside its {framed.fixed_tokens} "
                "fixed tokens"
            )
        shortened = {place: long_notes[place].shortened(budget) for place, budget in budgets.items()}
        encodings = framed.encode([text for text, _ in shortened.values()])
        for (place, (_, cut)), encoding in zip(shortened.items(), encodings, strict=True):
            if len(encoding) > max_tokens:
                budgets[place] -= len(encoding) - max_tokens
            else:
                encoded[place] = EncodedPrompt(encoding.ids, long_notes[place].whole_length, cut)
                del budgets[place]
    return encoded
