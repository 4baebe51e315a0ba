"""An exported file in llama.cpp, as verification asks it."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from medcode_serving.engines.llamacpp_server import LlamaCppServer

if TYPE_CHECKING:
    import numpy as np

TOLD_TOKENS = 128
"""Likeliest tokens whose probabilities one request asks for; the rest is judged by its mass. The server takes 15 to 30
µs for each. On the embedded model (2,048 tokens), 128 told nine tenths of the KL divergence that all of them told."""

_FORCING_BIAS = 1e4


class LlamaCppModel:
    """A GGUF file in llama.cpp on the CPU, as `LanguageModel`; use it in a `with` statement."""

    def __init__(self, file: Path, context_length: int, lora: Path | None = None) -> None:
        """Load a file for prompts and answers of together at most `context_length` tokens, with an adapter over it.

        Raises:
            MedcodeError: llama.cpp is not installed, or does not load a file.
        """
        self.server = LlamaCppServer(file, context_length=context_length, exact=True, lora=lora)
        self._vocabulary_size: int = self.server.get("/v1/models")["data"][0]["meta"]["n_vocab"]
        self._forced = self.server.tokenize("A")[-1]

    def __enter__(self) -> "LlamaCppModel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.close()

    def tokenize(self, text: str) -> list[int]:
        """See `LanguageModel.tokenize`."""
        return self.server.tokenize(text)

    def greedy(self, prompt: list[int], new_tokens: int) -> list[int]:
        """See `LanguageModel.greedy`."""
        ids: list[int] = self.server.complete(prompt, new_tokens)["tokens"]
        return ids

    def log_probabilities(self, tokens: list[int], positions: list[int]) -> "np.ndarray":
        """See `LanguageModel.log_probabilities`.

        One request a position, each reusing the cache of the one before. The server tells probabilities (of the raw
        logits, before any bias) only with a token whose text is valid UTF-8, so each request is made to answer a plain
        letter.
        """
        import numpy as np

        table = np.full((len(positions), self._vocabulary_size), np.nan)
        for row, position in zip(table, positions, strict=True):
            answer = self.server.complete(
                tokens[: position + 1], 1, n_probs=TOLD_TOKENS, logit_bias=[[self._forced, _FORCING_BIAS]]
            )
            for told in answer["completion_probabilities"][0]["top_logprobs"]:
                row[told["id"]] = np.nan if told["logprob"] is None else told["logprob"]
        return table
