"""A base model with an adapter, on this machine, answering in words."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_serving.bundle import DecodingSettings
from medcode_serving.engines.adapted import AdaptedModel
from medcode_serving.engines.generation import SharedPrefix, generate, shared_prefix
from medcode_serving.engines.protocol import NoteOptions, Prediction
from medcode_serving.engines.questions import QuestionReader, answered
from medcode_serving.engines.reading import Piece
from medcode_serving.engines.transformers import in_batches, load_tokenizer
from medcode_serving.engines.writing import WordWriter
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate

if TYPE_CHECKING:
    from medcode_serving.engines.shared_base import SharedBase


class WordsEngine:
    """Writes answers in batches of questions of similar length. Not safe for use by two threads at once."""

    def __init__(
        self,
        name: str,
        model_path: Path,
        adapter: Path | None,
        prompt: PromptTemplate,
        decoding: DecodingSettings,
        *,
        device: str = "auto",
        batch_size: int = 16,
        dtype: str | None = None,
        base_revision: str | None = None,
        shared: "SharedBase | None" = None,
    ) -> None:
        """Load the model.

        Args:
            name: What answers and metrics call this engine.
            model_path: Folder of the base model: config.json, safetensors, tokenizer.
            adapter: Folder that training wrote (`medcode_serving.adapters`); None for the untuned base.
            prompt: The words around a question, as in training.
            decoding: Limits of prompt and answer.
            device: auto, cpu, cuda or mps.
            batch_size: Questions in one forward pass.
            dtype: float32, bfloat16 or float16; None takes the device's default.
            base_revision: Revision of the base model, which the adapter must name if it names one; None: not known.
            shared: The base model in memory that the adapter is laid over; None: the engine loads one of its own.

        Raises:
            MedcodeError: model, adapter, tokenizer, device and limits do not fit together, or are not to be had.
        """
        self.name = name
        self.batch_size = batch_size
        self.reader = QuestionReader(load_tokenizer(model_path), prompt, decoding)
        self._adapted = AdaptedModel(
            name, model_path, adapter, device=device, dtype=dtype, base_revision=base_revision, shared=shared
        )
        self.device = self._adapted.device
        try:
            self.max_tokens = self.reader.answer_tokens(self.context)
        except MedcodeError:
            self.close()
            raise

    @property
    def model(self) -> Any:
        """The transformers model, in evaluation mode. Raises MedcodeError once the engine is closed."""
        return self._adapted.get()

    @property
    def context(self) -> int | None:
        """How many tokens prompt and answer may have together, if the model says."""
        return self._adapted.context

    def close(self) -> None:
        """Give up the model; the base model only if it is not shared."""
        self._adapted.close()
        self.__dict__.pop("_prefix", None)

    @cached_property
    def _prefix(self) -> SharedPrefix | None:
        """What all prompts begin with, if it is long enough. It belongs to this engine's weights alone."""
        return shared_prefix(self.reader.framed)

    def predict(
        self,
        notes: Sequence[str],
        *,
        options: Sequence[NoteOptions] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Prediction]:
        """Return the answer to each question as `Prediction.written`; there are no codes.

        Raises:
            MedcodeError: the model gives no finite numbers.
        """
        found, pieces = self.reader.pieces(notes, options)
        if on_progress and len(pieces) < len(notes):
            on_progress(len(notes) - len(pieces))
        for batch in in_batches(pieces, self.batch_size):
            for piece, prediction in zip(batch, self._answer(batch), strict=True):
                found[piece.place] = prediction
            if on_progress:
                on_progress(len(batch))
        return found

    def _answer(self, batch: Sequence[Piece]) -> list[Prediction]:
        writer = WordWriter(
            [piece.options.writing for piece in batch],
            ends=self._adapted.ends(int(self.reader.tokenizer.eos_token_id)),
            max_tokens=self.max_tokens,
            decode=self.reader.decode,
        )
        ended = generate(
            self.model,
            [piece.prompt for piece in batch],
            writer,
            pad=int(self.reader.tokenizer.pad_token_id),
            ended=[piece.options.ended for piece in batch],
            prefix=self._prefix,
        )
        return [
            Prediction((), outcome="ended") if gone else answered(piece, answer)
            for piece, answer, gone in zip(batch, writer.answers, ended, strict=True)
        ]
