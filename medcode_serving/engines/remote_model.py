"""A model on an OpenAI-compatible server (vLLM, llama.cpp, LM Studio, Ollama), asked through LiteLLM.

Notes and questions go to a host only if it is this machine or the settings name it.
"""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from medcode_serving.engines.protocol import NoteOptions, Prediction
from medcode_serving.engines.remote_hosts import direct_client, refuse_remote_host, served_by
from medcode_serving.errors import EngineTimeoutError, MedcodeError
from medcode_serving.prompts import PromptTemplate
from medcode_serving.settings import RemoteSettings

_TOO_LONG = re.compile(r"context|maximum model length|max_model_len|too long", re.IGNORECASE)
"""How servers refuse a prompt for its length, besides those that LiteLLM knows."""


@dataclass(frozen=True)
class Asked:
    """A note or question, and how its completion is asked for."""

    text: str
    options: NoteOptions
    fields: Mapping[str, Any]
    """Of OpenAI's API: `max_tokens`, `temperature`, ..."""
    extra: Mapping[str, Any]
    """What is sent beside them: servers have fields of their own."""


class RemoteModel:
    """Asks for completions of the same prompts that training used, several at a time."""

    def __init__(self, prompt: PromptTemplate, remote: RemoteSettings) -> None:
        """Check the settings; nothing is sent yet.

        Raises:
            MedcodeError: model or address are missing, or notes may not be sent to that host.
        """
        if not remote.model or not remote.api_base:
            raise MedcodeError("the litellm engine needs remote.model and remote.api_base; set both")
        self.host = refuse_remote_host(remote.api_base, remote.allowed_hosts)
        self._api_base = remote.api_base
        self._api_key = os.environ.get("MEDCODE_REMOTE_API_KEY", "none")
        self._prompt = prompt
        self._remote = remote
        self._http = direct_client(remote.timeout_s)
        self._pool = ThreadPoolExecutor(remote.concurrency, thread_name_prefix="medcode-remote")

    def served_by(self) -> str | None:
        """Return what the server says that it is; raises MedcodeError if it tells nothing (`remote_hosts`)."""
        return served_by(self._http, self._api_base, self._api_key)

    def predict(
        self,
        asked: Sequence[Asked],
        read: Callable[[Any, NoteOptions], Prediction],
        on_progress: Callable[[int], None] | None,
    ) -> list[Prediction]:
        """Ask for `remote.concurrency` completions at a time; `read` makes predictions of them.

        A note's `ended` is asked before it is sent; a server is not interrupted. At the first failure, notes that were
        not sent yet are given up.

        Raises:
            EngineTimeoutError: the server was too slow.
            MedcodeError: the server is away or refuses, or reads less at once than a note that may not be refused has;
                the message never quotes what it said.
        """
        futures = [self._pool.submit(self._predict_one, one, read) for one in asked]
        try:
            for future in as_completed(futures):
                future.result()
                if on_progress:
                    on_progress(1)
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Let go of the server; what was sent is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._http.close()

    def _predict_one(self, asked: Asked, read: Callable[[Any, NoteOptions], Prediction]) -> Prediction:
        if asked.options.ended():
            return Prediction((), outcome="ended")
        completion = self._complete(asked)
        if completion is not None:
            return read(completion, asked.options)
        if asked.options.long_notes == "refuse":
            return Prediction((), outcome="too_long")
        raise MedcodeError(
            f"the server at {self.host} reads less at once than a note has; start it with a longer context "
            "(llama-server -c, vllm --max-model-len), or ask with long_notes: refuse"
        )

    def _complete(self, asked: Asked) -> Any:
        """Return the server's completion; None if the note's prompt is too long for it."""
        litellm = import_litellm()
        failure: MedcodeError
        try:
            return self._ask(asked)
        except litellm.ContextWindowExceededError:
            return None
        except litellm.Timeout:
            failure = EngineTimeoutError(
                f"the server at {self.host} gave no answer within {self._remote.timeout_s:g} s; raise remote.timeout_s"
            )
        except Exception as error:  # noqa: BLE001 - LiteLLM raises from several hierarchies; texts quote the note
            if isinstance(error, litellm.BadRequestError) and _TOO_LONG.search(str(error)):
                return None
            failure = MedcodeError(
                f"the server at {self.host} did not answer ({type(error).__name__}); check that it runs and serves "
                f"{self._remote.model!r}"
            )
        raise failure  # outside, so that no traceback shows what the server said

    @cached_property
    def _ask(self) -> Callable[[Asked], Any]:
        """LiteLLM's call for `remote.protocol`."""
        litellm = import_litellm()
        import openai

        common: dict[str, Any] = {
            "model": f"hosted_vllm/{self._remote.model}",
            "api_base": self._api_base,
            "api_key": self._api_key,
            "timeout": self._remote.timeout_s,
            "max_retries": 0,
        }
        if self._remote.protocol == "chat":
            handler = litellm.HTTPHandler(client=self._http)
            return lambda asked: litellm.completion(
                messages=self._prompt.chat(asked.text),
                logprobs=True,
                top_logprobs=1,
                client=handler,
                extra_body=dict(asked.extra),
                **common,
                **asked.fields,
            )
        client = openai.OpenAI(
            api_key=self._api_key,
            base_url=self._api_base,
            http_client=self._http,
            timeout=self._remote.timeout_s,
            max_retries=0,
        )
        return lambda asked: litellm.text_completion(
            prompt=self._prompt.render(asked.text),
            logprobs=1,
            client=client,
            extra_body=dict(asked.extra),
            **common,
            **asked.fields,
        )


def import_litellm() -> Any:
    """Import LiteLLM (seconds) so that it asks no network, reads no .env, and neither prints nor logs what is said."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else its import asks the network
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")  # else its import reads a .env of the working folder
    import litellm

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    for name in ("LiteLLM", "httpx", "openai"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they log requests and answers
    return litellm


def written_text(choice: Any) -> str:
    """Return what a completion, or the message of a chat, says."""
    message = getattr(choice, "message", None)
    text: str | None = choice.text if message is None else message.content
    return text or ""


def told_tokens(choice: Any) -> list[tuple[str, float | None]]:
    """Return the tokens that a server told with an answer and their log-probabilities; empty if it told none."""
    logprobs = getattr(choice, "logprobs", None)
    content = getattr(logprobs, "content", None)  # chats, and llama.cpp's completions as well
    if content:
        entries = [entry if isinstance(entry, Mapping) else vars(entry) for entry in content]
        return [(entry["token"], entry["logprob"]) for entry in entries]
    tokens = getattr(logprobs, "tokens", None) or []
    values = getattr(logprobs, "token_logprobs", None) or []
    return list(zip(tokens, values, strict=True)) if len(tokens) == len(values) else []
