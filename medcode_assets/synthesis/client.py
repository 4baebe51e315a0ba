"""Asking a model through LiteLLM: one request, again and again with growing pauses until it is answered."""

import email.utils
import random
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from threading import Event
from typing import Any

from medcode_assets.synthesis.endpoints import Endpoint
from medcode_assets.synthesis.requests import Request
from medcode_serving.engines.remote_hosts import direct_client
from medcode_serving.engines.remote_model import import_litellm
from medcode_serving.errors import MedcodeError

REQUEST_HEADER = "X-Medcode-Request"
"""Carries the request's name, for the servers' logs."""
FIRST_PAUSE = 0.5
"""Seconds before the first retry; doubled with each."""
LONGEST_PAUSE = 60.0
LONGEST_TOLD_PAUSE = 300.0
"""Seconds that a server may make us wait."""

LONGEST_ANSWER = 50_000
"""Characters; the longest that is asked for has a fifth of them."""
LEAST_KEY = 8
"""Characters from which on a key is one; `none`, say, may stand in a text."""

_AGAIN = frozenset({408, 409, 425, 429})
"""Refusals (4xx) that pass."""
_TOO_LARGE = 413
_BAD_REQUEST = frozenset({400, 422})
_TOO_LONG = re.compile(r"context|maximum model length|max_model_len|too long", re.IGNORECASE)


class UnansweredError(Exception):
    """A request that no try got an answer to; `retries` of them were repeated."""

    def __init__(self, reason: str, retries: int) -> None:
        super().__init__(reason)
        self.retries = retries


class StoppedError(Exception):
    """The run ends; the request was not answered."""


@dataclass(frozen=True)
class Reply:
    """What a server said."""

    text: str
    kind: str | None = None
    """A key of `replies.REJECTIONS` if the text is of no use."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    """US dollars; None: no price is known."""
    retries: int = 0

    def spent(self) -> dict[str, float | None]:
        """Return what it cost, as records of a journal tell it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost": self.cost,
            "retries": self.retries,
        }


class Client:
    """Asks one endpoint; safe for use by several threads."""

    def __init__(self, endpoint: Endpoint, *, retries: int, timeout_s: float, stop: Event) -> None:
        """Send nothing yet.

        Args:
            endpoint: Who is asked.
            retries: Repetitions of a request that was not answered, at most.
            timeout_s: Seconds that a server may be silent.
            stop: Set from outside: pauses end, and nothing more is sent.
        """
        self._endpoint = endpoint
        self._retries = retries
        self._timeout_s = timeout_s
        self._stop = stop
        self.prices = prices(endpoint.priced_as)
        """US dollars of a token of the prompt and of one of the answer; None: not known."""
        self._http = direct_client(timeout_s)
        self._plain = False
        self._known_good = False

    def ask(self, request: Request) -> Reply:
        """Return the server's answer.

        Raises:
            UnansweredError: time-outs, broken connections, refusals for now, errors of the server, each time.
            StoppedError: the run ends.
            MedcodeError: the server refuses, and would again: no key, no such model.
        """
        retries = 0
        jitter = random.Random(f"{request.seed} {time.monotonic_ns()}")  # servers are not to meet all at once again
        while True:
            if self._stop.is_set():
                raise StoppedError
            outcome = self._try(request, retries)
            if isinstance(outcome, Reply):
                return outcome
            reason, told = outcome
            if retries == self._retries:
                raise UnansweredError(reason, retries)
            self._stop.wait(pause(retries, told, jitter))
            retries += 1

    def close(self) -> None:
        """Let go of the server."""
        self._http.close()

    def _try(self, request: Request, retries: int) -> Reply | tuple[str, str | None]:
        """Return the answer, or why there is none for now and when the server wants to be asked again."""
        plain = self._plain
        try:
            return self._reply(self._complete(request, plain), retries)
        except Exception as error:  # noqa: BLE001 - LiteLLM raises from several hierarchies; texts quote the request
            status = getattr(error, "status_code", None)
            if not isinstance(status, int) or status < 400 or status >= 500 or status in _AGAIN:
                headers = getattr(error, "litellm_response_headers", None) or {}
                return self._reason(error, status), _retry_after(headers)
            if kind := self._kind(error, status):
                return Reply("", kind=kind, retries=retries)
            reason = type(error).__name__
        if status in _BAD_REQUEST and not plain and not self._known_good:
            self._plain = True  # for good: the server knows response_format or seed not
            return self._try(request, retries)
        raise MedcodeError(_refusal(self._endpoint, status, reason))

    def _reason(self, error: Exception, status: object) -> str:
        """Return why there was no answer, by types of errors alone: their texts quote the request."""
        import httpx

        where = self._endpoint.address
        causes = list(_causes(error))
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            return f"connection refused by {where}"
        if any(isinstance(cause, httpx.ConnectError) for cause in causes):
            return f"no connection to {where}"
        if any(isinstance(cause, httpx.TimeoutException) for cause in causes):
            return f"{where} was silent for {self._timeout_s:g} s"
        if any(isinstance(cause, httpx.TransportError) for cause in causes):
            return f"connection broken by {where}"
        return f"{type(error).__name__}, status {status}"

    def _complete(self, request: Request, plain: bool) -> Any:
        more = {} if plain else {"response_format": {"type": "json_object"}, "seed": request.seed}
        return import_litellm().completion(
            model=self._endpoint.model,
            api_base=self._endpoint.api_base,
            api_key=self._endpoint.key,
            messages=list(request.messages),
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            timeout=self._timeout_s,
            max_retries=0,
            drop_params=True,
            extra_headers={REQUEST_HEADER: request.name},
            client=self._handler,
            **more,
        )

    def _reply(self, response: Any, retries: int) -> Reply | tuple[str, str | None]:
        if not response.choices:
            return "an answer without choices", None
        self._known_good = True
        choice, usage = response.choices[0], getattr(response, "usage", None)
        prompt, completion = (max(getattr(usage, name, 0) or 0, 0) for name in ("prompt_tokens", "completion_tokens"))
        text = self._text(choice.message.content or "")
        too_long = "oversized" if len(text) > LONGEST_ANSWER else None
        return Reply(
            text[:LONGEST_ANSWER],
            kind="cut" if choice.finish_reason == "length" else too_long,
            prompt_tokens=prompt,
            completion_tokens=completion,
            cost=self._cost(prompt, completion),
            retries=retries,
        )

    def _text(self, content: str) -> str:
        """Return an answer as the journal may hold it: text in UTF-8, without the key, which a server may send back."""
        text = content.encode(errors="replace").decode()
        key = self._endpoint.key
        return text.replace(key, "(key)") if len(key) >= LEAST_KEY else text

    def _cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        if self.prices is None:
            return None
        return self.prices[0] * prompt_tokens + self.prices[1] * completion_tokens

    @staticmethod
    def _kind(error: Exception, status: int) -> str | None:
        """Return the kind of rejection if a refusal is of this request and not of all."""
        litellm = import_litellm()
        if isinstance(error, litellm.ContentPolicyViolationError):
            return "refused"
        if status == _TOO_LARGE or isinstance(error, litellm.ContextWindowExceededError):
            return "too_long"
        return "too_long" if status in _BAD_REQUEST and _TOO_LONG.search(str(error)) else None

    @cached_property
    def _handler(self) -> Any:
        """The client that goes to the endpoint and nowhere else, as LiteLLM wants it for the provider."""
        if not self._endpoint.model.startswith("openai/"):
            return import_litellm().HTTPHandler(client=self._http)
        import openai

        return openai.OpenAI(
            api_key=self._endpoint.key,
            base_url=self._endpoint.api_base,
            http_client=self._http,
            timeout=self._timeout_s,
            max_retries=0,
        )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what it came from, and so on."""
    known: set[int] = set()
    while error is not None and id(error) not in known:
        known.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def pause(retries: int, told: str | None, jitter: random.Random) -> float:
    """Return the seconds to wait before a retry.

    Args:
        retries: How many there were.
        told: The header Retry-After: seconds, or a date.
        jitter: Spreads retries over the second half of the pause, so that they do not come all at once.
    """
    growing = min(FIRST_PAUSE * 2.0**retries, LONGEST_PAUSE) * jitter.uniform(0.5, 1)
    asked = min(_seconds(told), LONGEST_TOLD_PAUSE) if told else 0.0
    return asked + growing if asked > 0 else growing


def _seconds(told: str) -> float:
    """Return how long a server wants to be left alone; 0 if it cannot be read."""
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(told).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return max(seconds, 0.0) if seconds == seconds else 0.0  # nan is a float, too


def _retry_after(headers: Mapping[str, str]) -> str | None:
    return next((str(value) for name, value in headers.items() if name.lower() == "retry-after"), None)


def prices(model: str) -> tuple[float, float] | None:
    """Return what a token of the prompt and one of the answer cost in US dollars; None if LiteLLM's list lacks it."""
    litellm = import_litellm()
    try:
        prompt, completion = litellm.cost_per_token(model, prompt_tokens=1, completion_tokens=1)
    except Exception:  # noqa: BLE001 - plain ones among them
        return None
    return float(prompt), float(completion)


def _refusal(endpoint: Endpoint, status: int, reason: str) -> str:
    way_out = {
        401: "set the right key in the environment (MEDCODE_REMOTE_API_KEY with --api-base)",
        402: "the account has no credit left",
        403: "the key may not use this model",
        404: f"check that it serves {endpoint.model.partition('/')[2]!r} and that --api-base ends as it wants (/v1)",
    }.get(status, "check --model and --api-base")
    return f"the server at {endpoint.host} refuses ({status}, {reason}): {way_out}; the same command goes on from here"
