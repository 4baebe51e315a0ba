"""Where a model answers: its address, whether it may be asked, and under which key.

A server at --api-base, and every hosted provider that speaks OpenAI's protocol, is asked in that protocol through one
client that goes to that address and nowhere else. Keys come from the environment only.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from medcode_serving.engines.remote_hosts import refuse_remote_host
from medcode_serving.engines.remote_model import import_litellm
from medcode_serving.errors import MedcodeError

KEY = "MEDCODE_REMOTE_API_KEY"
"""Environment variable: the key of a server at --api-base."""

COMPATIBLE = "hosted_vllm"
"""LiteLLM's name for: any server with OpenAI's protocol."""
NATIVE = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}
"""Providers that LiteLLM asks in their own way; it tells no address for them."""
ADDRESS = {
    "gemini": "https://generativelanguage.googleapis.com/v1beta/openai",
    "openrouter": "https://openrouter.ai/api/v1",
    "ollama": "http://127.0.0.1:11434/v1",
    "ollama_chat": "http://127.0.0.1:11434/v1",
}
"""Where other providers speak OpenAI's protocol, if LiteLLM tells no address or that of another protocol."""


@dataclass(frozen=True)
class Endpoint:
    """A model at an address."""

    model: str
    """As LiteLLM is asked for it."""
    api_base: str
    host: str
    priced_as: str
    """As LiteLLM's price list has it."""
    key: str = field(repr=False)

    @property
    def address(self) -> str:
        """Host and, if one is told, port."""
        try:
            port = urlsplit(self.api_base).port
        except ValueError:  # none that there can be
            port = None
        return self.host if port is None else f"{self.host}:{port}"


def resolve_endpoint(model: str, api_base: str | None, allowed: Sequence[str]) -> Endpoint:
    """Return where a model is asked, if that is permitted.

    Args:
        model: Name as LiteLLM has it: `deepseek/deepseek-chat`; with `api_base` also one that only that server knows.
        api_base: Address of a server with OpenAI's protocol; None: the provider's.
        allowed: Hosts that may be asked besides this machine.

    Raises:
        MedcodeError: nobody knows the address, the host is not allowed, or the provider's key is not set.
    """
    if api_base is not None:
        host = _allowed(api_base, allowed)  # before anything that takes time
        litellm = import_litellm()
        return Endpoint(f"{COMPATIBLE}/{_bare(litellm, model)}", api_base, host, model, os.environ.get(KEY) or "none")
    litellm = import_litellm()
    try:
        bare, provider, key, told = litellm.get_llm_provider(model)
    except litellm.BadRequestError:
        bare, provider, key, told = model, "", None, None
    address = NATIVE.get(provider) or ADDRESS.get(provider) or told
    if not address:
        raise MedcodeError(f"--model {model}: its address is not known; name it with --api-base, as https://host/v1")
    host = _allowed(address, allowed)
    name = f"{provider}/{bare}" if provider in NATIVE else f"{COMPATIBLE}/{bare}"
    return Endpoint(name, address, host, model, key or _key(litellm, model, provider))


def _bare(litellm: Any, model: str) -> str:
    """Return a model's name without LiteLLM's name of a provider before it."""
    provider, slash, rest = model.partition("/")
    return rest if slash and provider in litellm.provider_list else model


def _allowed(api_base: str, allowed: Sequence[str]) -> str:
    """Return an address's host if it may be asked; in this command's words if not."""
    try:
        return refuse_remote_host(api_base, allowed)
    except MedcodeError:
        try:
            parts = urlsplit(api_base)
            host = parts.hostname if parts.scheme in {"http", "https"} else None
        except ValueError:
            host = None
    if not host:
        raise MedcodeError("--api-base is no address; write it as http://127.0.0.1:8080/v1")
    raise MedcodeError(f"requests would leave this machine for {host}; if that is permitted: --allow-host {host}")


def _key(litellm: Any, model: str, provider: str) -> str:
    """Return the key of a provider from the environment variable in which LiteLLM looks for it."""
    if provider.startswith("ollama"):
        return "none"
    missing = litellm.validate_environment(model=model)["missing_keys"] or [f"{provider.upper()}_API_KEY"]
    for name in (f"{provider.upper()}_API_KEY", *missing):
        if os.environ.get(name):
            return os.environ[name]
    raise MedcodeError(f"--model {model}: no key in the environment; set {missing[0]}")
