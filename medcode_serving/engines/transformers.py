"""A base model with an adapter, on this machine, writing constrained answers.

Precision: float32 on the CPU and on MPS, bfloat16 on CUDA. In float32 the adapter is merged into the weights, which
saves a seventh of the time; in bfloat16 it stays beside them, because rounding would swallow its small updates.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medcode_serving.bundle import DecodingSettings
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.decoding import GreedyAnswers, given_answer
from medcode_serving.engines.adapted import AdaptedModel
from medcode_serving.engines.generation import (
    ConstrainedWriter,
    FreeWriter,
    SharedPrefix,
    Writer,
    generate,
    shared_prefix,
)
from medcode_serving.engines.protocol import NoteOptions, Prediction
from medcode_serving.engines.reading import NoteReader, Piece, Thought
from medcode_serving.engines.scoring import log_confidences
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import FramedTokenizer, PromptTemplate, encode_prompts

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from medcode_serving.engines.shared_base import SharedBase

FREE = NoteOptions(constrained=False)


class TransformersEngine:
    """Greedy generation in batches of notes of similar length, constrained unless a note's options say otherwise.

    A code's probability is its confidence as `DecodedCode` defines it; written freely, it is that of its tokens. Not
    safe for use by two threads at once.
    """

    def __init__(
        self,
        name: str,
        model_path: Path,
        adapter: Path | None,
        vocabulary: Vocabulary,
        prompt: PromptTemplate,
        decoding: DecodingSettings,
        *,
        device: str = "auto",
        batch_size: int = 16,
        dtype: str | None = None,
        base_revision: str | None = None,
        shared: "SharedBase | None" = None,
        trie_folders: Sequence[Path] = (),
    ) -> None:
        """Load the model.

        Args:
            name: What predictions and metrics call this engine.
            model_path: Folder of the base model: config.json, safetensors, tokenizer.
            adapter: Folder that training wrote (`medcode_serving.adapters`); None for the untuned base.
            vocabulary: The codes that can be predicted.
            prompt: The words around a note, as in training.
            decoding: Limits of prompt and answer.
            device: auto, cpu, cuda or mps.
            batch_size: Notes in one forward pass.
            dtype: float32, bfloat16 or float16; None takes the device's default.
            base_revision: Revision of the base model, which the adapter must name if it names one; None: not known.
            shared: The base model in memory that the adapter is laid over, on its device and in its precision; None:
                the engine loads one of its own.
            trie_folders: Where tries are kept (`cached_trie`).

        Raises:
            MedcodeError: model, adapter, tokenizer, device and limits do not fit together, or are not to be had.
        """
        self.name = name
        self.batch_size = batch_size
        self._reader = NoteReader(load_tokenizer(model_path), vocabulary, prompt, decoding, trie_folders)
        self._adapted = AdaptedModel(
            name, model_path, adapter, device=device, dtype=dtype, base_revision=base_revision, shared=shared
        )
        self.device = self._adapted.device
        try:
            self._max_answer_tokens = self._reader.answer_tokens(self._adapted.context)
        except MedcodeError:
            self.close()
            raise

    def close(self) -> None:
        """Give up the model; the base model only if it is not shared."""
        self._adapted.close()
        self.__dict__.pop("_prefix", None)

    @cached_property
    def _prefix(self) -> SharedPrefix | None:
        """What all prompts begin with, if it is long enough to be kept. It belongs to this engine's weights alone."""
        return shared_prefix(FramedTokenizer(self._reader.tokenizer, self._reader.prompt))

    def predict(
        self,
        notes: Sequence[str],
        *,
        options: Sequence[NoteOptions] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Prediction]:
        """Return the codes of each note in the order that the model wrote them; those of windows by probability.

        Raises:
            MedcodeError: the model gives no finite numbers.
        """
        return self._reader.predict(notes, options, self._answers, on_progress)

    def _answers(self, pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Prediction]]:
        for batch in in_batches(pieces, self.batch_size):
            yield from zip(batch, self._answer(batch), strict=True)

    def _answer(self, batch: Sequence[Piece]) -> list[Prediction]:
        limits = [self._reader.limit(piece.options) for piece in batch]
        if not batch[0].options.constrained:
            free = FreeWriter(len(batch), ends=self._ends, max_tokens=self._max_answer_tokens)
            ended = self._generate(batch, free)
            predictions = [
                self._reader.parsed(answer.tokens, answer.log_probabilities, limit, cut=answer.cut)
                for answer, limit in zip(free.answers, limits, strict=True)
            ]
        else:
            thoughts: Sequence[Thought | None] = [None] * len(batch)
            if self._reader.thinks:
                batch, thoughts = self._think(batch)
            answers = GreedyAnswers(self._reader.trie, len(batch), max_codes=limits, max_tokens=self._max_answer_tokens)
            ended = self._generate(batch, ConstrainedWriter(answers))
            predictions = [
                self._reader.scored(answer, thought) for answer, thought in zip(answers.answers, thoughts, strict=True)
            ]
        return [
            Prediction((), outcome="ended") if gone else prediction
            for prediction, gone in zip(predictions, ended, strict=True)
        ]

    def _think(self, batch: Sequence[Piece]) -> tuple[list[Piece], list[Thought | None]]:
        """Let the model reason about each piece; return the pieces with what it wrote behind their prompts."""
        thinking = self._reader.thinking
        opened = [replace(piece, prompt=[*piece.prompt, *thinking.begin]) for piece in batch]
        free = FreeWriter(len(batch), ends={thinking.end, *self._ends}, max_tokens=self._reader.reasoning_tokens)
        self._generate(opened, free)
        thoughts = [self._reader.thought(answer.tokens) for answer in free.answers]
        thought_out = [
            replace(piece, prompt=[*piece.prompt, *thought.tokens, *thinking.close])
            for piece, thought in zip(opened, thoughts, strict=True)
        ]
        return thought_out, list(thoughts)

    def write(
        self, notes: Sequence[str], max_tokens: int, *, on_progress: Callable[[int], None] | None = None
    ) -> list[str]:
        """Return what the model writes freely about each note, tags and markers included, without the end of text."""
        limit = self._reader.decoding.max_prompt_tokens
        prompts = encode_prompts(self._reader.tokenizer, self._reader.prompt, list(notes), limit)
        pieces = [Piece(place, place, prompt.input_ids, FREE, prompt.truncated) for place, prompt in enumerate(prompts)]
        texts = [""] * len(notes)
        for batch in in_batches(pieces, self.batch_size):
            free = FreeWriter(len(batch), ends=self._ends, max_tokens=max_tokens)
            self._generate(batch, free)
            for piece, answer in zip(batch, free.answers, strict=True):
                texts[piece.place] = self._reader.text(answer.tokens)
            if on_progress:
                on_progress(len(batch))
        return texts

    @cached_property
    def _ends(self) -> set[int]:
        """The tokens that end a free answer; an untuned model may end a turn instead of the text."""
        return self._adapted.ends(self._reader.trie.end)

    def _generate(self, batch: Sequence[Piece], writer: Writer) -> list[bool]:
        return generate(
            self._adapted.get(),
            [piece.prompt for piece in batch],
            writer,
            pad=self._reader.tokenizer.pad_token_id,
            ended=[piece.options.ended for piece in batch],
            prefix=self._prefix,
        )

    def log_probabilities(self, notes: Sequence[str], codes: Sequence[tuple[str, str]]) -> "NDArray[np.float64]":
        """Return how sure the model is of the codes of a given answer, without writing one.

        Args:
            notes: Raw text; long ones are shortened.
            codes: System and code, each once, in the order of the answer.

        Returns:
            [notes, codes] The logarithm of each code's confidence as `DecodedCode` defines it, given the codes before.

        Raises:
            ValueError: a code is not of this vocabulary or comes twice, or the answer leaves no room for a note.
        """
        if not codes or not notes:
            return np.zeros((len(notes), len(codes)))
        reader = self._reader
        wanted = [reader.index_of[code] for code in codes if code in reader.index_of]
        if len(wanted) < len(codes):
            raise ValueError(f"{len(codes) - len(wanted)} of {len(codes)} codes are not in the vocabulary")
        most = max(reader.decoding.max_codes, len(codes))
        answer = given_answer(reader.trie, wanted, max_codes=most, max_tokens=most * (reader.trie.longest + 1))
        limit, context = reader.decoding.max_prompt_tokens, self._adapted.context
        if context is not None:
            limit = min(limit, context - len(answer.tokens))
        prompts = [found.input_ids for found in encode_prompts(reader.tokenizer, reader.prompt, list(notes), limit)]
        return log_confidences(
            self._adapted.get,
            prompts,
            answer,
            pad=reader.tokenizer.pad_token_id,
            batch_size=self.batch_size,
            prefix=self._prefix,
        )


def in_batches(pieces: Sequence[Piece], batch_size: int) -> Iterator[list[Piece]]:
    """Put pieces into batches of similar length, longest first: what does not fit into memory fails at once.

    What is written freely is apart. A prompt of less than half the longest one's length begins a new batch: it would
    be padding for the most part.
    """
    batch: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: (piece.options.constrained, -len(piece.prompt))):
        if batch and (
            len(batch) == batch_size
            or piece.options.constrained != batch[0].options.constrained
            or 2 * len(piece.prompt) < len(batch[0].prompt)
        ):
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def load_tokenizer(model_path: Path) -> "PreTrainedTokenizerBase":
    """Load a local model's tokenizer; one without a padding token pads with its end-of-text token.

    Raises:
        MedcodeError: the folder holds no tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            model_path, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise MedcodeError(
            f"{model_path}: no tokenizer that transformers can load ({type(error).__name__}); "
            "the folder needs tokenizer.json and tokenizer_config.json"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
