"""llama.cpp itself: the server that the wheel `xllamacpp` (extra `llamacpp`) runs inside this process."""

import importlib.util
import json
import secrets
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np

TOLD_TOKENS = 512
"""Likeliest tokens whose probabilities one request asks for; the rest is judged by its mass. The server
takes 30 µs for each, so that the embedded model's 2,048 would take 64 ms a position, of which 5 ms are the model."""

_TIMEOUT_SECONDS = 600
_FORCING_BIAS = 1e4


def llamacpp_available() -> bool:
    """Tell whether the extra `llamacpp` is installed."""
    return importlib.util.find_spec("xllamacpp") is not None


class LlamaCppModel:
    """A GGUF file in llama.cpp on the CPU, as `LanguageModel`; use it in a `with` statement.

    KV cache in f32 and flash attention off: what is judged is the file, not a server's economies. The server
    listens on the loopback interface only, and answers to a key that nobody else has, because prompts may be
    notes.
    """

    def __init__(self, file: Path, context_length: int) -> None:
        """Load a file for prompts and answers of together at most `context_length` tokens.

        Raises:
            MedcodeError: llama.cpp does not load the file.
        """
        import torch
        import xllamacpp

        self._key = secrets.token_hex(16)
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(file)
        parameters.n_ctx = context_length
        parameters.n_parallel = 1
        parameters.n_gpu_layers = 0
        # Its threads wait by spinning: more of them than the process was given would stall everything.
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = torch.get_num_threads()
        parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.warmup = False
        parameters.verbosity = -1  # its log would quote prompts
        parameters.port = 0
        parameters.api_keys = [self._key]
        try:
            self._server: Any = xllamacpp.Server(parameters)
        except RuntimeError:
            raise MedcodeError(f"{file}: llama.cpp does not load it; truncated or changed? export it again") from None
        # Not through a proxy that the environment may name.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        self._forced = self._post("/tokenize", content="A")["tokens"][0]

    def __enter__(self) -> "LlamaCppModel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server = None  # stops the server and frees the model

    def tokenize(self, text: str) -> list[int]:
        """See `LanguageModel.tokenize`; special tokens in a text stay text: a note could inject a turn."""
        answer = self._post("/tokenize", content=text, add_special=True, parse_special=False)
        ids: list[int] = answer["tokens"]
        return ids

    def greedy(self, prompt: list[int], new_tokens: int) -> list[int]:
        """See `LanguageModel.greedy`."""
        ids: list[int] = self._complete(prompt, new_tokens)["tokens"]
        return ids

    def log_probabilities(self, tokens: list[int], positions: list[int]) -> "np.ndarray":
        """See `LanguageModel.log_probabilities`.

        One request a position, each reusing the cache of the one before. The server tells probabilities (of
        the raw logits, before any bias) only with a token whose text is valid UTF-8, so each request is made
        to answer a plain letter.
        """
        import numpy as np

        rows = []
        for position in positions:
            answer = self._complete(
                tokens[: position + 1], 1, n_probs=TOLD_TOKENS, logit_bias=[[self._forced, _FORCING_BIAS]]
            )
            told = answer["completion_probabilities"][0]["top_logprobs"]
            rows.append({entry["id"]: entry["logprob"] for entry in told})
        table = np.full((len(positions), self._vocabulary_size()), np.nan)
        for row, told in zip(table, rows, strict=True):
            row[list(told)] = list(told.values())
        return table

    def _vocabulary_size(self) -> int:
        size: int = self._get("/v1/models")["data"][0]["meta"]["n_vocab"]
        return size

    def _complete(self, prompt: list[int], new_tokens: int, **options: Any) -> dict[str, Any]:
        return self._post(
            "/completion",
            prompt=prompt,
            n_predict=new_tokens,
            temperature=0,
            repeat_penalty=1.0,
            return_tokens=True,
            cache_prompt=True,
            **options,
        )

    def _post(self, path: str, **body: Any) -> dict[str, Any]:
        return self._ask(path, json.dumps(body).encode())

    def _get(self, path: str) -> dict[str, Any]:
        return self._ask(path, None)

    def _ask(self, path: str, body: bytes | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        request = urllib.request.Request(self._server.listening_address + path, body, headers)
        with self._open(request, timeout=_TIMEOUT_SECONDS) as response:
            answer: dict[str, Any] = json.loads(response.read())
        return answer
