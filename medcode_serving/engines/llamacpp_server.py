"""llama.cpp's own server, out of the wheel `xllamacpp` (extra `llamacpp`), run inside this process."""

import http.client
import importlib.util
import json
import os
import secrets
import threading
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from medcode_serving.errors import MedcodeError

_TIMEOUT_SECONDS = 600


def llamacpp_available() -> bool:
    """Tell whether the extra `llamacpp` is installed."""
    return importlib.util.find_spec("xllamacpp") is not None


class LlamaCppServer:
    """A GGUF file in llama.cpp; use it in a `with` statement, or close it.

    The server listens on the loopback interface only, answers to a key that nobody else has, logs nothing and keeps
    no prompt beyond its slots, because prompts may be notes. Safe for use by several threads.
    """

    def __init__(
        self,
        file: Path,
        *,
        context_length: int,
        slots: int = 1,
        threads: int | None = None,
        gpu_layers: int = 0,
        exact: bool = False,
        lora: Path | None = None,
    ) -> None:
        """Load a file.

        Args:
            file: The model.
            context_length: Tokens of prompt and answer together, in each slot.
            slots: Requests that are answered side by side.
            threads: CPU threads; None: as many as torch takes.
            gpu_layers: Layers that a GPU holds, if the installed wheel knows one.
            exact: Keys and values in f32 and no flash attention: what is judged is the file, not a server's economies.
            lora: An adapter as GGUF to lay over the model.

        Raises:
            MedcodeError: the extra is not installed, or llama.cpp does not load the file.
        """
        if not llamacpp_available():
            raise MedcodeError("llama.cpp is not installed; install it: pip install 'medcode[llamacpp]'")
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # else it starts a debugger where it fails: prompts on stderr
        import torch
        import xllamacpp

        if not file.exists():
            raise MedcodeError(f"{file}: no such file; export it: medcode export")
        self._key = secrets.token_hex(16)
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(file)
        parameters.n_ctx = context_length * slots
        parameters.n_parallel = slots
        parameters.n_gpu_layers = gpu_layers
        # Its threads wait by spinning: more of them than the process was given would stall everything.
        count = threads or torch.get_num_threads()
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = count
        if exact:
            parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if lora is not None:
            parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora), 1.0)]
        parameters.warmup = False
        parameters.ctx_shift = False  # a prompt that does not fit is refused, not cut
        parameters.cache_ram_mib = 0  # by default it keeps eight gigabytes of old prompts
        parameters.endpoint_slots = parameters.endpoint_props = parameters.endpoint_metrics = parameters.ui = False
        parameters.verbosity = -1  # its log would quote prompts
        parameters.port = 0
        parameters.api_keys = [self._key]
        try:
            self._server: Any = xllamacpp.Server(parameters)
        except RuntimeError:
            raise MedcodeError(
                f"{file}: llama.cpp does not load it; truncated, or changed, its chat template perhaps? export it again"
            ) from None
        self._address = urlsplit(self._server.listening_address).netloc
        self._connections = threading.local()
        # Until its loop has taken a task, a server that is closed waits for ever, and the interpreter with it:
        # xllamacpp 2026.10 tells the end to a loop that forgets it when it begins.
        self.post("/completion", prompt=[0], n_predict=1)

    def __enter__(self) -> "LlamaCppServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server and free the model."""
        self._server = None

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Ask with a JSON body. Raises MedcodeError if the server refuses; what it said is not quoted."""
        return self._ask("POST", path, json.dumps(body))

    def get(self, path: str) -> dict[str, Any]:
        """Ask without a body. Raises as `post` does."""
        return self._ask("GET", path, None)

    def complete(self, prompt: list[int] | str, new_tokens: int, **options: Any) -> dict[str, Any]:
        """Continue a prompt greedily; `tokens` of the answer holds the ids. Raises as `post` does."""
        plain = {"temperature": 0, "repeat_penalty": 1.0, "return_tokens": True, "cache_prompt": True}
        return self.post("/completion", prompt=prompt, n_predict=new_tokens, **(plain | options))

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text; special tokens in it stay text: a note could inject a turn."""
        ids: list[int] = self.post("/tokenize", content=text, add_special=True, parse_special=False)["tokens"]
        return ids

    def special_token(self, text: str) -> int | None:
        """Return the id of a special token; None if the file has none of that text."""
        body = {"content": text, "add_special": False, "parse_special": True}
        ids: list[int] = self.post("/tokenize", **body)["tokens"]
        return ids[0] if len(ids) == 1 else None

    def _ask(self, method: str, path: str, body: str | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        for last in (False, True):  # the server closes a connection that was silent for five seconds
            connection = self._connection()
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                raw = response.read()
                break
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if last or isinstance(error, TimeoutError):
                    raise MedcodeError(
                        f"llama.cpp's server gave no answer ({type(error).__name__}); start anew"
                    ) from None
        if response.status != 200:
            raise MedcodeError(f"llama.cpp's server refuses {path} with status {response.status}")
        answer: dict[str, Any] = json.loads(raw)
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        """Return this thread's connection; a new one for every request would take longer than a small model."""
        if not hasattr(self._connections, "own"):
            self._connections.own = http.client.HTTPConnection(self._address, timeout=_TIMEOUT_SECONDS)
        connection: http.client.HTTPConnection = self._connections.own
        return connection
