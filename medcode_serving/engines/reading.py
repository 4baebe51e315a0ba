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
from medcode_serving.prompts import PromptTemplate, backend_of, encode_prompts
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

    def answer_tokens(self, context: int | None) -> int:
        """Return how many tokens an answer may have.

        Args:
            context: Tokens of prompt and answer together that the model can hold; None: it does not say.

        Raises:
            MedcodeError: the limits leave no room for a note, or none for a code.
        """
        frame = backend_of(self.tokenizer).encode(self.prompt.render("")).ids
        limit = self.decoding.max_prompt_tokens
        if len(frame) >= limit:
            raise MedcodeError(f"max_prompt_tokens {limit} leaves no room for a note; raise it")
        wanted = self.decoding.max_codes * (self.trie.longest + 1)
        if context is None:
            return wanted
        if context - limit < self.trie.longest + 1:
            raise MedcodeError(
                f"max_prompt_tokens {limit} leaves {context - limit} of the model's {context} tokens for the answer "
                f"and a code needs {self.trie.longest + 1}; lower it"
            )
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

    def scored(self, codes: Iterable[DecodedCode]) -> Prediction:
        """Return a constrained answer as a prediction."""
        found = []
        for code in codes:
            row = self._vocabulary.codes[code.index]
            found.append(ScoredCode(row.system, row.code, row.description, code.confidence, support=code.support))
        return Prediction(tuple(found))

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
        return Prediction(tuple(codes), dropped=parsed.dropped)

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
