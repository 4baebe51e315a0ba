"""What an engine with a language model does around the model: notes become prompts, and answers become predictions."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_serving.bundle import DecodingSettings
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.decoding import DecodedCode, cached_trie, mention_probability, parse_answer
from medcode_serving.engines.protocol import DEFAULT_OPTIONS, NoteOptions, Prediction, ScoredCode
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import (
    FramedTokenizer,
    PromptTemplate,
    backend_of,
    encode_completions,
    encode_prompts,
)
from medcode_serving.reasoned import END_THINK, THINK
from medcode_serving.windows import join_windows, split_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Piece:
    """A prompt to answer: a note, or one of its windows."""

    place: int
    """Its number among the pieces."""
    note: int
    """The note's number."""
    prompt: list[int]
    """Token ids."""
    options: NoteOptions
    truncated: bool
    sections_cut: tuple[str, ...] = ()


@dataclass(frozen=True)
class Thought:
    """Reasoning that a model wrote before its code."""

    tokens: list[int]
    """Without the tags."""
    text: str | None
    """A point a line; None: it wrote nothing."""


@dataclass(frozen=True)
class Thinking:
    """The frame of a model's reasoning, in tokens."""

    begin: list[int]
    """Opens it."""
    end: int
    """The closing tag."""
    close: list[int]
    """Closes it; the code's line follows."""

    def __len__(self) -> int:
        """Tokens around the reasoning, with the line break that may have to end it."""
        return len(self.begin) + len(self.close) + 1


class NoteReader:
    """Turns notes into pieces that fit the model, and what the model wrote into one prediction a note."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        vocabulary: Vocabulary,
        prompt: PromptTemplate,
        decoding: DecodingSettings,
        trie_folders: Sequence[Path] = (),
    ) -> None:
        """Take what the bundle says; `trie_folders` is where tries are kept (`cached_trie`)."""
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.decoding = decoding
        self.trie = cached_trie(tokenizer, [code.text for code in vocabulary.codes], trie_folders)
        self._vocabulary = vocabulary
        self.reasoning_tokens = decoding.max_reasoning_tokens
        """Tokens of the reasoning at most; `answer_tokens` takes away what the model has no room for."""

    def answer_tokens(self, context: int | None) -> int:
        """Return how many tokens an answer may have; where the model cannot hold all, reasoning is shortened first.

        Args:
            context: Tokens of prompt and answer together that the model can hold; None: it does not say.

        Raises:
            MedcodeError: the limits leave no room for a note, or none for a code.
        """
        limit = self.decoding.max_prompt_tokens
        if FramedTokenizer(self.tokenizer, self.prompt).fixed_tokens >= limit:
            raise MedcodeError(f"max_prompt_tokens {limit} leaves no room for a note; raise it")
        code, frame = self.trie.longest + 1, len(self.thinking) if self.thinks else 0
        wanted = self.decoding.max_reasoning_tokens + frame + self.decoding.max_codes * code
        if context is None:
            return wanted
        least = code + frame + min(1, self.decoding.max_reasoning_tokens)
        if context - limit < least:
            raise MedcodeError(
                f"max_prompt_tokens {limit} leaves {context - limit} of the model's {context} tokens for the answer "
                f"and one with a code needs {least}; lower it"
            )
        self.reasoning_tokens = min(self.decoding.max_reasoning_tokens, context - limit - frame - code)
        return min(wanted, context - limit)

    def predict(
        self,
        notes: Sequence[str],
        options: Sequence[NoteOptions] | None,
        answers: Callable[[list[Piece]], Iterable[tuple[Piece, Prediction]]],
        on_progress: Callable[[int], None] | None,
    ) -> list[Prediction]:
        """Return one prediction a note, in order.

        Args:
            notes: Raw text.
            options: One a note; None: the defaults for all.
            answers: Answers pieces, in any order, each as soon as it is done.
            on_progress: Is told how many more notes are done.
        """
        chosen = options or [DEFAULT_OPTIONS] * len(notes)
        pieces = self._pieces(notes, chosen)
        unanswered = Counter(piece.note for piece in pieces)
        if on_progress and len(unanswered) < len(notes):
            on_progress(len(notes) - len(unanswered))
        found: dict[int, Prediction] = {}
        for piece, prediction in answers(pieces):
            found[piece.place] = prediction
            unanswered[piece.note] -= 1
            if on_progress and not unanswered[piece.note]:
                on_progress(1)
        by_note: list[list[Prediction]] = [[] for _ in notes]
        for piece in pieces:
            by_note[piece.note].append(_told(found[piece.place], piece))
        return [self._joined(predictions, option) for predictions, option in zip(by_note, chosen, strict=True)]

    def limit(self, options: NoteOptions) -> int:
        """Return how many codes an answer may have."""
        return min(options.max_codes or self.decoding.max_codes, self.decoding.max_codes)

    @cached_property
    def thinks(self) -> bool:
        """Whether answers begin with reasoning."""
        return self.prompt.answer == "reasoned"

    @cached_property
    def thinking(self) -> Thinking:
        """The frame of the reasoning. Raises MedcodeError if the tokenizer has no tokens for its tags."""
        begin, close = (ids[:-1] for ids in encode_completions(self.tokenizer, [f"{THINK}\n", f"{END_THINK}\n"]))
        end = backend_of(self.tokenizer).token_to_id(END_THINK)
        if end is None:
            raise MedcodeError(f"the tokenizer has no token {END_THINK}; take the base model that the bundle names")
        return Thinking(begin, end, close)

    def thought(self, tokens: Sequence[int]) -> Thought:
        """Return freely written reasoning, ended by a line break as training ended it."""
        text = self.text(tokens).rstrip()
        ids = encode_completions(self.tokenizer, [f"{text}\n"])[0][:-1] if text else []
        return Thought(ids, text.strip() or None)

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, with tags and markers."""
        return str(self.tokenizer.backend_tokenizer.decode(list(tokens), skip_special_tokens=False))

    def scored(self, codes: Iterable[DecodedCode], thought: Thought | None = None) -> Prediction:
        """Return a constrained answer as a prediction."""
        found = []
        for code in codes:
            row = self._vocabulary.codes[code.index]
            found.append(ScoredCode(row.system, row.code, row.description, code.confidence, support=code.support))
        return Prediction(tuple(found), reasoning=thought.text if thought else None)

    def parsed(
        self, tokens: Sequence[int], log_probabilities: Sequence[float | None], limit: int, *, cut: bool
    ) -> Prediction:
        """Return a freely written answer as a prediction of at most `limit` codes.

        Args:
            tokens: Without the end of text.
            log_probabilities: One a token; None where it is not told.
            limit: Codes at most.
            cut: Whether the answer was broken off.
        """
        # Token by token: half of a character becomes a replacement character, and a code has none.
        decode = self.tokenizer.backend_tokenizer.decode
        texts = [decode([token], skip_special_tokens=False) for token in tokens]
        parsed = parse_answer("".join(texts), self._vocabulary, cut=cut)
        told = list(zip(texts, log_probabilities, strict=True))
        codes = []
        for mention in parsed.mentions[:limit]:
            row = self._vocabulary.codes[mention.index]
            codes.append(ScoredCode(row.system, row.code, row.description, mention_probability(mention, told)))
        return Prediction(tuple(codes), dropped=parsed.dropped, reasoning=parsed.reasoning)

    @cached_property
    def index_of(self) -> dict[tuple[str, str], int]:
        """Rows of the vocabulary by system and code."""
        return {(row.system, row.code): index for index, row in enumerate(self._vocabulary.codes)}

    def _pieces(self, notes: Sequence[str], options: Sequence[NoteOptions]) -> list[Piece]:
        """Return what is to be answered: none of a note that is refused, several of one that is read in windows."""
        limit = self.decoding.max_prompt_tokens
        pieces: list[Piece] = []
        prompts = encode_prompts(self.tokenizer, self.prompt, list(notes), limit)
        for note, (prompt, option) in enumerate(zip(prompts, options, strict=True)):
            if not prompt.truncated or option.long_notes == "shorten":
                pieces.append(Piece(len(pieces), note, prompt.input_ids, option, prompt.truncated, prompt.cut))
            elif option.long_notes == "windows":
                texts = filter(str.strip, split_windows(self.tokenizer, self.prompt, notes[note], limit))
                for window in encode_prompts(self.tokenizer, self.prompt, list(texts), limit):
                    pieces.append(Piece(len(pieces), note, window.input_ids, option, truncated=False))
        return pieces

    def _joined(self, predictions: list[Prediction], options: NoteOptions) -> Prediction:
        if not predictions:
            return Prediction((), outcome="too_long")
        if any(prediction.outcome == "ended" for prediction in predictions):
            return Prediction((), outcome="ended")
        return predictions[0] if len(predictions) == 1 else join_windows(predictions, self.limit(options))


def _told(prediction: Prediction, piece: Piece) -> Prediction:
    """Return a prediction that tells how its note was shortened."""
    if prediction.outcome == "ended":
        return prediction
    return replace(prediction, truncated=piece.truncated, sections_cut=piece.sections_cut)
