"""Any OpenAI-compatible server (vLLM, llama.cpp, LM Studio, Ollama), through LiteLLM.

Notes go to a host only if it is this machine or the settings name it.
"""

import ipaddress
import logging
import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from medcode_serving.bundle import DecodingSettings
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.decoding import parse_codes
from medcode_serving.engines.protocol import Prediction, ScoredCode
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate
from medcode_serving.settings import RemoteSettings


class LiteLLMEngine:
    """Asks for a completion of the same prompt that training used, and keeps the codes of the vocabulary.

    A code's probability is the product of the probabilities of its tokens if the server tells them, else None. The
    server cannot be held to the vocabulary: what is no code of it is counted as dropped.
    """

    name = "litellm"

    def __init__(
        self, vocabulary: Vocabulary, prompt: PromptTemplate, decoding: DecodingSettings, remote: RemoteSettings
    ) -> None:
        """Check the settings; nothing is sent yet.

        Raises:
            MedcodeError: model or address are missing, or notes may not be sent to that host.
        """
        if not remote.model or not remote.api_base:
            raise MedcodeError("the litellm engine needs remote.model and remote.api_base; set both")
        self._host = refuse_remote_host(remote.api_base, remote.allowed_hosts)
        _go_around_proxies(self._host)
        self._vocabulary = vocabulary
        self._prompt = prompt
        self._decoding = decoding
        self._remote = remote

    def predict(self, notes: Sequence[str], *, on_progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Ask for one answer after the other.

        Raises:
            MedcodeError: the server is away, too slow, or refuses; the message never quotes what it said.
        """
        predictions = []
        for note in notes:
            predictions.append(self._predict_one(note))
            if on_progress:
                on_progress(1)
        return predictions

    def _predict_one(self, note: str) -> Prediction:
        choice = self._complete(self._prompt.render(note))
        answer = choice.text or ""
        cut = choice.finish_reason == "length"
        if cut:  # the last code may be half of one, and half of E11.65 is a code as well
            answer = answer[: max(answer.rfind(","), answer.rfind("\n"), 0)]
        indices, dropped = parse_codes(answer, self._vocabulary)
        rows = [self._vocabulary.codes[index] for index in indices[: self._decoding.max_codes]]
        return Prediction(
            codes=tuple(
                ScoredCode(row.system, row.code, row.description, _probability(row.text, choice)) for row in rows
            ),
            dropped=dropped + cut,
        )

    def _complete(self, prompt: str) -> Any:
        litellm = _import_litellm()
        try:
            response = litellm.text_completion(
                model=f"hosted_vllm/{self._remote.model}",
                prompt=prompt,
                api_base=self._remote.api_base,
                api_key=os.environ.get("MEDCODE_REMOTE_API_KEY", "none"),
                max_tokens=self._remote.max_tokens,
                temperature=0,
                logprobs=1,
                timeout=self._remote.timeout_s,
                max_retries=0,
                extra_body={"repeat_penalty": 1.0},  # llama.cpp's default would punish the digits of a second code
            )
            return response.choices[0]
        except Exception as error:  # noqa: BLE001 - LiteLLM raises from several hierarchies; texts quote the note
            reason = type(error).__name__
        raise MedcodeError(
            f"the server at {self._host} did not answer ({reason}); check that it runs and serves "
            f"{self._remote.model!r}"
        )


def _import_litellm() -> Any:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else its import asks the network
    import litellm

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    for name in ("LiteLLM", "httpx", "openai"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they log requests and answers
    return litellm


def _go_around_proxies(host: str) -> None:
    """Reach a host directly: a proxy that the environment names would see the notes."""
    exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if host not in exempt.split(","):
        os.environ["no_proxy"] = f"{exempt},{host}".strip(",")  # the lower-case one is read first


def refuse_remote_host(api_base: str, allowed: Sequence[str]) -> str:
    """Return the host of an address if notes may be sent there.

    Raises:
        MedcodeError: it is neither this machine nor allowed by name, or the address is none.
    """
    try:
        parts = urlsplit(api_base)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in {"http", "https"}:
        raise MedcodeError("remote.api_base is no address; write it as http://127.0.0.1:8080/v1")
    if host in allowed or host == "localhost":
        return host
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise MedcodeError(
            f"remote.api_base: notes would leave this machine for {host}; if that is permitted, name it in "
            "remote.allowed_hosts"
        )
    return host


def _probability(code: str, choice: Any) -> float | None:
    """Multiply the probabilities of the tokens that a code was written with."""
    logprobs = choice.logprobs
    tokens: list[str] | None = getattr(logprobs, "tokens", None)
    values: list[float | None] | None = getattr(logprobs, "token_logprobs", None)
    if not tokens or not values or len(tokens) != len(values):
        return None
    # A code is not part of a longer one: E11 is not looked for in E11.9.
    found = re.search(rf"(?<![A-Z0-9.]){re.escape(code)}(?!\.?[A-Z0-9])", "".join(tokens), flags=re.IGNORECASE)
    if not found:
        return None
    start, total = 0, 0.0
    for token, value in zip(tokens, values, strict=True):
        if start < found.end() and start + len(token) > found.start() and value is not None:
            total += value
        start += len(token)
    return math.exp(min(0.0, total))
