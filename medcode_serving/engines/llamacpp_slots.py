"""A GGUF file in llama.cpp on this machine, with room for several prompts side by side."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from medcode_serving.engines.llamacpp_server import LlamaCppServer
from medcode_serving.engines.protocol import Prediction
from medcode_serving.engines.reading import Piece
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate, backend_of
from medcode_serving.reasoned import SPECIAL_TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLE = "Pt c/o SOB; [** 2150-3-14 **] ___ HR 112, 0.25 mcg/kg/min\n\n2. J18.9"
"""A text that tokenizers split in different ways."""

Answer = Callable[[Piece, int], Prediction]
"""Answers a prompt in a slot, where it keeps to it: there, what was read of the prompt is kept."""


class LlamaCppSlots:
    """The server of one file, and the threads that ask it; safe for use by one thread at a time."""

    def __init__(
        self,
        file: Path,
        folder: Path,
        tokenizer: "PreTrainedTokenizerBase",
        prompt: PromptTemplate,
        *,
        max_prompt_tokens: int,
        answer_tokens: Callable[[int | None], int],
        slots: int,
        threads: int | None,
        gpu_layers: int,
    ) -> None:
        """Load the file.

        Args:
            file: The GGUF file.
            folder: Of the base model's tokenizer and config.json.
            tokenizer: What was loaded from it.
            prompt: The words around a note or question, as in training.
            max_prompt_tokens: Of a prompt.
            answer_tokens: Tells how many tokens an answer may have where prompt and answer have so many together
                (None: any number), or raises MedcodeError.
            slots: Prompts that are answered side by side.
            threads: CPU threads; None: as many as torch takes.
            gpu_layers: Layers that a GPU holds.

        Raises:
            MedcodeError: the extra `llamacpp` is not installed, llama.cpp does not load the file, or file, tokenizer
                and limits do not fit together.
        """
        wanted = max_prompt_tokens + answer_tokens(None)
        if (short := _short_context(folder)) is not None:
            wanted = min(wanted, short)
            answer_tokens(wanted)  # refuses before hundreds of megabytes are loaded
        self._server = LlamaCppServer(file, context_length=wanted, slots=slots, threads=threads, gpu_layers=gpu_layers)
        try:
            trained: dict[str, Any] = self._server.get("/v1/models")["data"][0]["meta"]
            self.max_answer_tokens = answer_tokens(min(wanted, trained["n_ctx_train"]))
            self._refuse_other_tokenizer(file, folder, tokenizer, prompt)
        except MedcodeError:
            self._server.close()
            raise
        self._free: SimpleQueue[int] = SimpleQueue()
        for slot in range(slots):
            self._free.put(slot)
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="medcode-llamacpp")
        self._closed = False

    def _refuse_other_tokenizer(
        self, file: Path, folder: Path, tokenizer: "PreTrainedTokenizerBase", prompt: PromptTemplate
    ) -> None:
        """Raise MedcodeError if the file does not split the prompt's own words, or a note's, as the tokenizer does."""
        backend = backend_of(tokenizer)
        text = SAMPLE if prompt.markup else prompt.render(SAMPLE)  # markup is sent as tokens
        special = [(text, token) for text in SPECIAL_TOKENS if (token := backend.token_to_id(text)) is not None]
        if self._server.tokenize(text) != backend.encode(text).ids or any(
            self._server.special_token(name) != token for name, token in special
        ):
            raise MedcodeError(
                f"{file}: splits text otherwise than the tokenizer in {folder}; export it anew: medcode export"
            )

    def complete(self, tokens: list[int], new_tokens: int, slot: int, **options: Any) -> dict[str, Any]:
        """Continue a prompt in its slot (`LlamaCppServer.complete`)."""
        return self._server.complete(tokens, new_tokens, id_slot=slot, **options)

    def answers(self, pieces: Sequence[Piece], answer: Answer) -> Iterator[tuple[Piece, Prediction]]:
        """Answer all pieces, as many at a time as there are slots, and give each as soon as it is answered.

        Raises:
            MedcodeError: llama.cpp gives no answer, or the model was closed.
        """
        futures: dict[Future[Prediction], Piece] = {}
        try:
            for piece in pieces:
                futures[self._submitted(piece, answer)] = piece
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            for future in futures:
                future.cancel()

    def _submitted(self, piece: Piece, answer: Answer) -> "Future[Prediction]":
        try:
            return self._pool.submit(self._in_a_slot, piece, answer)
        except RuntimeError:  # closed by another thread since it was looked at
            self.refuse_closed()
            raise

    def _in_a_slot(self, piece: Piece, answer: Answer) -> Prediction:
        self.refuse_closed()
        slot = self._free.get()
        try:
            return answer(piece, slot)
        finally:
            self._free.put(slot)

    def refuse_closed(self) -> None:
        """Raise MedcodeError once it was closed."""
        if self._closed:
            raise MedcodeError("engine llamacpp was closed; load it anew")

    def close(self) -> None:
        """Give up the model; what is waiting for a slot ends in an error."""
        self._closed = True
        self._pool.shutdown()
        self._server.close()


def told_tokens(answer: dict[str, Any]) -> list[tuple[int, float | None]]:
    """Return the tokens of an answer with the log-probabilities that the server told, the end's included.

    Asked for with `n_probs=1`; None: it leaves out tokens that are half of a character.
    """
    told = iter(answer.get("completion_probabilities", []))
    entry = next(told, None)
    found: list[tuple[int, float | None]] = []
    for token in answer["tokens"]:
        known = entry is not None and entry["id"] == token
        found.append((token, entry["logprob"] if known and entry else None))
        entry = next(told, None) if known else entry
    return found


def _short_context(folder: Path) -> int | None:
    """Return how long a context may be before a longrope model (Phi-4-mini) computes otherwise; None: as long as it is.

    llama.cpp takes the factors for long texts where the context has room for one, transformers where the text is long.
    """
    config = read_config(folder)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type")) != "longrope":
        return None
    length: int | None = rope.get("original_max_position_embeddings", config.get("original_max_position_embeddings"))
    return length


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model's config.json; empty if the folder has none."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return config
