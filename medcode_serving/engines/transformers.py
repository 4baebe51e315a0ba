"""A base model with an adapter, on this machine, writing constrained answers.

Precision: float32 on the CPU and on MPS, bfloat16 on CUDA. In float32 the adapter is merged into the weights, which
saves a seventh of the time; in bfloat16 it stays beside them, because rounding would swallow its small updates.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medcode_serving.adapters import load_adapted_model
from medcode_serving.bundle import DecodingSettings
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.decoding import (
    DecodedCode,
    GreedyAnswers,
    cached_trie,
    given_answer,
    mention_probability,
    parse_answer,
)
from medcode_serving.device import resolve_device
from medcode_serving.engines.generation import (
    ConstrainedWriter,
    FreeAnswer,
    FreeWriter,
    SharedPrefix,
    Writer,
    generate,
)
from medcode_serving.engines.protocol import DEFAULT_OPTIONS, NoteOptions, Prediction, ScoredCode
from medcode_serving.engines.scoring import log_confidences
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate, encode_prompts
from medcode_serving.windows import join_windows, split_windows

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from medcode_serving.engines.shared_base import SharedBase

SHORTEST_PREFIX = 16
"""Tokens that all prompts must begin with for their keys and values to be kept.

With 19, notes of 20 words took 0.90 of the CPU time, with 60 they took 0.72; longer notes gain less, none lost.
"""


@dataclass(frozen=True)
class _Piece:
    """A prompt to answer: a note, or one of its windows."""

    note: int
    prompt: list[int]
    options: NoteOptions
    truncated: bool
    sections_cut: tuple[str, ...] = ()


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
        import torch

        self.name = name
        self.device = resolve_device(device)
        self.batch_size = batch_size
        self._vocabulary = vocabulary
        self._prompt = prompt
        self._decoding = decoding
        self._tokenizer = load_tokenizer(model_path)
        self._trie = cached_trie(self._tokenizer, [code.text for code in vocabulary.codes], trie_folders)
        self._shared = shared if adapter is not None else None
        self._own: PreTrainedModel | None = None
        if shared is not None and adapter is not None:
            self._weights = shared.add(adapter)
        else:
            precision = dtype or default_dtype(self.device)
            own = load_adapted_model(
                model_path, adapter, dtype=precision, merge=precision == "float32", base_revision=base_revision
            )
            self._own = own.to(torch.device(self.device)).eval()  # type: ignore[arg-type]
        try:
            self._max_answer_tokens = self._check_limits()
        except MedcodeError:
            self.close()
            raise

    def _check_limits(self) -> int:
        """Return how many tokens an answer may have."""
        frame = self._tokenizer(self._prompt.render(""))["input_ids"]
        limit = self._decoding.max_prompt_tokens
        if len(frame) >= limit:
            raise MedcodeError(f"max_prompt_tokens {limit} leaves no room for a note; raise it")
        wanted, context = self._decoding.max_codes * (self._trie.longest + 1), self._context()
        if context is None:
            return wanted
        if context - limit < self._trie.longest + 1:
            raise MedcodeError(
                f"max_prompt_tokens {limit} leaves {context - limit} of the model's {context} tokens for the answer "
                f"and a code needs {self._trie.longest + 1}; lower it"
            )
        return min(wanted, context - limit)

    def _context(self) -> int | None:
        """Return how many tokens prompt and answer may have together, if the model says."""
        context: int | None = getattr(self._model().config, "max_position_embeddings", None)
        return context

    def _model(self) -> Any:
        """Return the model; to be asked for anew before each batch."""
        if self._shared is not None:
            return self._shared.activate(self._weights)
        if self._own is None:
            raise MedcodeError(f"engine {self.name} was closed; load it anew")
        return self._own

    def close(self) -> None:
        """Give up the model; the base model only if it is not shared."""
        if self._shared is not None:
            self._shared.remove(self._weights)
        self._shared = self._own = None
        self.__dict__.pop("_prefix", None)

    @cached_property
    def _prefix(self) -> SharedPrefix | None:
        """What all prompts begin with, if it is long enough to be kept. It belongs to this engine's weights alone."""
        backend = self._tokenizer.backend_tokenizer
        one, other = (backend.encode(self._prompt.render(note)).ids for note in ("Patient", "1"))
        pairs = zip(one, other, strict=False)
        length = next((place for place, (left, right) in enumerate(pairs) if left != right), 0)
        return SharedPrefix(one[:length]) if length >= SHORTEST_PREFIX else None

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
        chosen = options or [DEFAULT_OPTIONS] * len(notes)
        pieces = self._pieces(notes, chosen)
        open_pieces = Counter(piece.note for piece in pieces)
        answered: list[list[Prediction]] = [[] for _ in notes]
        if on_progress and len(open_pieces) < len(notes):
            on_progress(len(notes) - len(open_pieces))
        for batch in in_batches(pieces, self.batch_size):
            for piece, prediction in zip(batch, self._answer(batch), strict=True):
                answered[piece.note].append(prediction)
            open_pieces.subtract(piece.note for piece in batch)
            done = [note for note, number in open_pieces.items() if not number]
            for note in done:
                del open_pieces[note]
            if on_progress and done:
                on_progress(len(done))
        return [self._joined(found, option) for found, option in zip(answered, chosen, strict=True)]

    def _pieces(self, notes: Sequence[str], options: Sequence[NoteOptions]) -> list[_Piece]:
        """Return what is to be answered: none of a note that is refused, several of one that is read in windows."""
        limit = self._decoding.max_prompt_tokens
        pieces: list[_Piece] = []
        prompts = encode_prompts(self._tokenizer, self._prompt, list(notes), limit)
        for place, (prompt, option) in enumerate(zip(prompts, options, strict=True)):
            if not prompt.truncated or option.long_notes == "shorten":
                pieces.append(_Piece(place, prompt.input_ids, option, prompt.truncated, prompt.cut))
            elif option.long_notes == "windows":
                texts = filter(str.strip, split_windows(self._tokenizer, self._prompt, notes[place], limit))
                windows = encode_prompts(self._tokenizer, self._prompt, list(texts), limit)
                pieces += [_Piece(place, window.input_ids, option, truncated=False) for window in windows]
        return pieces

    def _joined(self, predictions: list[Prediction], options: NoteOptions) -> Prediction:
        if not predictions:
            return Prediction((), outcome="too_long")
        if any(prediction.outcome == "ended" for prediction in predictions):
            return Prediction((), outcome="ended")
        return predictions[0] if len(predictions) == 1 else join_windows(predictions, self._limit(options))

    def _limit(self, options: NoteOptions) -> int:
        return min(options.max_codes or self._decoding.max_codes, self._decoding.max_codes)

    def _answer(self, batch: Sequence[_Piece]) -> list[Prediction]:
        limits = [self._limit(piece.options) for piece in batch]
        if not batch[0].options.constrained:
            free = FreeWriter(len(batch), ends=self._ends, max_tokens=self._max_answer_tokens)
            ended = self._generate(batch, free)
            predictions = [self._parsed(answer, limit) for answer, limit in zip(free.answers, limits, strict=True)]
        else:
            answers = GreedyAnswers(self._trie, len(batch), max_codes=limits, max_tokens=self._max_answer_tokens)
            ended = self._generate(batch, ConstrainedWriter(answers))
            predictions = [Prediction(tuple(map(self._scored, answer))) for answer in answers.answers]
        return [
            Prediction((), outcome="ended")
            if gone
            else replace(prediction, truncated=piece.truncated, sections_cut=piece.sections_cut)
            for piece, prediction, gone in zip(batch, predictions, ended, strict=True)
        ]

    @cached_property
    def _ends(self) -> set[int]:
        """The tokens that end a free answer; an untuned model may end a turn instead of the text."""
        told = self._model().generation_config.eos_token_id
        return {self._trie.end, *([told] if isinstance(told, int) else told or [])}

    def _generate(self, batch: Sequence[_Piece], writer: Writer) -> list[bool]:
        return generate(
            self._model(),
            [piece.prompt for piece in batch],
            writer,
            pad=self._tokenizer.pad_token_id,
            ended=[piece.options.ended for piece in batch],
            prefix=self._prefix,
        )

    def _scored(self, decoded: DecodedCode) -> ScoredCode:
        row = self._vocabulary.codes[decoded.index]
        return ScoredCode(row.system, row.code, row.description, decoded.confidence, support=decoded.support)

    def _parsed(self, answer: FreeAnswer, limit: int) -> Prediction:
        # Token by token: half of a character becomes a replacement character, and a code has none.
        decode = self._tokenizer.backend_tokenizer.decode
        texts = [decode([token], skip_special_tokens=False) for token in answer.tokens]
        parsed = parse_answer("".join(texts), self._vocabulary, cut=answer.cut)
        tokens = list(zip(texts, answer.log_probabilities, strict=True))
        codes = []
        for mention in parsed.mentions[:limit]:
            row = self._vocabulary.codes[mention.index]
            codes.append(ScoredCode(row.system, row.code, row.description, mention_probability(mention, tokens)))
        return Prediction(tuple(codes), dropped=parsed.dropped)

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
        wanted = [self._index_of[code] for code in codes if code in self._index_of]
        if len(wanted) < len(codes):
            raise ValueError(f"{len(codes) - len(wanted)} of {len(codes)} codes are not in the vocabulary")
        most = max(self._decoding.max_codes, len(codes))
        answer = given_answer(self._trie, wanted, max_codes=most, max_tokens=most * (self._trie.longest + 1))
        limit, context = self._decoding.max_prompt_tokens, self._context()
        if context is not None:
            limit = min(limit, context - len(answer.tokens))
        prompts = [found.input_ids for found in encode_prompts(self._tokenizer, self._prompt, list(notes), limit)]
        return log_confidences(
            self._model,
            prompts,
            answer,
            pad=self._tokenizer.pad_token_id,
            batch_size=self.batch_size,
            prefix=self._prefix,
        )

    @cached_property
    def _index_of(self) -> dict[tuple[str, str], int]:
        return {(row.system, row.code): index for index, row in enumerate(self._vocabulary.codes)}


def in_batches(pieces: Sequence[_Piece], batch_size: int) -> Iterator[list[_Piece]]:
    """Put pieces into batches of similar length, longest first: what does not fit into memory fails at once.

    What is written freely is apart. A prompt of less than half the longest one's length begins a new batch: it would
    be padding for the most part.
    """
    batch: list[_Piece] = []
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


def default_dtype(device: str) -> str:
    """Return the precision that models answer in on a device."""
    return "bfloat16" if device == "cuda" else "float32"


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
