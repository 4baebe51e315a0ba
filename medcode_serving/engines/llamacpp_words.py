"""A bundle's GGUF file in llama.cpp, on this machine, answering in words.

The same answers and confidences as `WordsEngine`, up to what the number format loses. Where tokens are drawn, the
distribution is the same, the draws are llama.cpp's own: a seed gives other words here than there.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medcode_serving.bundle import DecodingSettings
from medcode_serving.engines.llamacpp_slots import LlamaCppSlots, read_config, told_tokens
from medcode_serving.engines.protocol import NoteOptions, Prediction, Writing
from medcode_serving.engines.questions import QuestionReader, answered
from medcode_serving.engines.reading import Piece
from medcode_serving.engines.transformers import load_tokenizer
from medcode_serving.engines.writing import Draft
from medcode_serving.prompts import PromptTemplate

WRITTEN_AT_ONCE = 16
"""Tokens that one request asks for: between requests an answer can be given up, or end with its last sentence."""
_SEED_BITS = 31  # llama.cpp takes the largest of 32 bits for "any seed"


class LlamaCppWordsEngine:
    """Answers `slots` questions side by side; safe for use by one thread at a time."""

    name = "llamacpp"

    def __init__(
        self,
        file: Path,
        tokenizer: Path,
        prompt: PromptTemplate,
        decoding: DecodingSettings,
        *,
        slots: int = 4,
        threads: int | None = None,
        gpu_layers: int = 0,
    ) -> None:
        """Load the model.

        Args:
            file: The GGUF file.
            tokenizer: Folder of the base model's tokenizer and config.json.
            prompt: The words around a question, as in training.
            decoding: Limits of prompt and answer.
            slots: Questions that are answered side by side.
            threads: CPU threads; None: as many as torch takes.
            gpu_layers: Layers that a GPU holds.

        Raises:
            MedcodeError: the extra `llamacpp` is not installed, llama.cpp does not load the file, or file, tokenizer
                and limits do not fit together.
        """
        self._reader = reader = QuestionReader(load_tokenizer(tokenizer), prompt, decoding)
        told = read_config(tokenizer).get("eos_token_id")
        self._ends = sorted({int(reader.tokenizer.eos_token_id), *([told] if isinstance(told, int) else told or [])})
        self._slots = LlamaCppSlots(
            file,
            tokenizer,
            reader.tokenizer,
            prompt,
            max_prompt_tokens=decoding.max_prompt_tokens,
            answer_tokens=reader.answer_tokens,
            slots=slots,
            threads=threads,
            gpu_layers=gpu_layers,
        )

    def predict(
        self,
        notes: Sequence[str],
        *,
        options: Sequence[NoteOptions] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Prediction]:
        """Return the answer to each question as `Prediction.written`; there are no codes.

        Raises:
            MedcodeError: llama.cpp gives no answer.
        """
        self._slots.refuse_closed()
        found, pieces = self._reader.pieces(notes, options)
        if on_progress and len(pieces) < len(notes):
            on_progress(len(notes) - len(pieces))
        for piece, prediction in self._slots.answers(pieces, self._answer):
            found[piece.place] = prediction
            if on_progress:
                on_progress(1)
        return found

    def close(self) -> None:
        """Give up the model; questions that are waiting for a slot end in an error."""
        self._slots.close()

    def _answer(self, piece: Piece, slot: int) -> Prediction:
        writing = piece.options.writing
        draft = Draft(writing, max_tokens=self._slots.max_answer_tokens, decode=self._reader.decode)
        draws = random.Random(writing.seed)
        while not piece.options.ended():
            # A penalty that grows with each token is another bias for each.
            wanted = 1 if writing.length_penalty else min(WRITTEN_AT_ONCE, draft.limit - len(draft.tokens))
            sampling = self._sampling(writing, len(draft.tokens), draws)
            answer = self._slots.complete([*piece.prompt, *draft.tokens], wanted, slot, n_probs=1, **sampling)
            if not _goes_on(draft, answer):
                return answered(piece, draft.answer)
        return Prediction((), outcome="ended")

    def _sampling(self, writing: Writing, written: int, draws: random.Random) -> dict[str, Any]:
        """Return how the next tokens are chosen: as `WordWriter` does."""
        chosen: dict[str, Any] = {}
        if bias := writing.length_penalty * written:
            chosen["logit_bias"] = [[end, bias] for end in self._ends]
        if writing.temperature > 0:
            chosen |= {
                "temperature": writing.temperature,
                "samplers": ["temperature"],
                "seed": draws.getrandbits(_SEED_BITS),
            }
        return chosen


def _goes_on(draft: Draft, answer: dict[str, Any]) -> bool:
    """Give a draft the tokens that the server wrote; return whether more are wanted."""
    told = told_tokens(answer)
    end = None if answer["stop_type"] == "limit" else told.pop()
    for token, log_probability in told:
        if not draft.add(token, log_probability):
            return False
    if end is not None:
        draft.finish(end[1])
    return end is None
