"""Any OpenAI-compatible server (vLLM, llama.cpp, LM Studio, Ollama), through LiteLLM.

Notes go to a host only if it is this machine or the settings name it.
"""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

from medcode_serving.bundle import DecodingSettings
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.decoding import mention_probability, parse_answer
from medcode_serving.engines.constraints import CodeLanguage
from medcode_serving.engines.protocol import DEFAULT_OPTIONS, NoteOptions, Prediction, ScoredCode
from medcode_serving.engines.remote_hosts import direct_client, refuse_remote_host, served_by
from medcode_serving.errors import EngineTimeoutError, MedcodeError
from medcode_serving.prompts import PromptTemplate
from medcode_serving.reasoned import END_THINK, SPECIAL_TOKENS, THINK, read_answer
from medcode_serving.settings import RemoteSettings

logger = logging.getLogger(__name__)

Constraint = Literal["grammar", "regex", "none"]

CONSTRAINT_OF: dict[str | None, Constraint] = {"llamacpp": "grammar", "vllm": "regex"}
"""What a server understands, by what it says that it is."""

_TOO_LONG = re.compile(r"context|maximum model length|max_model_len|too long", re.IGNORECASE)
"""How servers refuse a prompt for its length, besides those that LiteLLM knows."""


class LiteLLMEngine:
    """Asks for a completion of the same prompt that training used, and keeps the codes of the vocabulary.

    Servers that can are held to lists of valid codes; whatever they write is parsed and validated, and what is no code
    is counted as dropped. A code's probability is the product of the probabilities of its tokens if the server tells
    them, else None: not renormalised over what was allowed, as `TransformersEngine`'s is. Notes go whole: how many
    tokens they have only the server knows.
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
        self._api_base = remote.api_base
        self._api_key = os.environ.get("MEDCODE_REMOTE_API_KEY", "none")
        self._vocabulary = vocabulary
        self._prompt = prompt
        self._decoding = decoding
        self._remote = remote
        # A chat template ends where it likes: with a space or without.
        texts = [code.text for code in vocabulary.codes]
        self._language = CodeLanguage(texts, leading_space=remote.protocol == "completions")
        self._constraint: Constraint | None = None if remote.constraint == "auto" else remote.constraint
        # llama.cpp's default penalty would punish the digits of a second code.
        self._plain: dict[str, Any] = {"repeat_penalty": 1.0}
        if prompt.answer != "codes":
            if self._constraint not in (None, "none"):
                logger.warning(
                    "remote.constraint %s is for lists of codes, and these answers are none", remote.constraint
                )
            self._constraint = "none"
            # Servers leave special tokens out of their texts: vLLM takes the first field, llama.cpp the second.
            self._plain |= {"skip_special_tokens": False, "preserved_tokens": list(SPECIAL_TOKENS)}
        self._http = direct_client(remote.timeout_s)
        self._pool = ThreadPoolExecutor(remote.concurrency, thread_name_prefix="medcode-remote")

    def predict(
        self,
        notes: Sequence[str],
        *,
        options: Sequence[NoteOptions] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Prediction]:
        """Ask for `remote.concurrency` answers at a time.

        A note's `ended` is asked before it is sent; a server is not interrupted. At the first failure, notes that were
        not sent yet are given up.

        Raises:
            EngineTimeoutError: the server was too slow.
            MedcodeError: the server is away or refuses, or reads less at once than a note that may not be refused has;
                the message never quotes what it said.
        """
        chosen = options or [DEFAULT_OPTIONS] * len(notes)
        extras = self._extras(chosen)
        futures = [
            self._pool.submit(self._predict_one, note, option, extra)
            for note, option, extra in zip(notes, chosen, extras, strict=True)
        ]
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

    def _extras(self, options: Sequence[NoteOptions]) -> list[dict[str, Any]]:
        """Return what is sent beside the standard fields, for each note."""
        kind = self._constraint_kind() if any(option.constrained for option in options) else "none"
        by_limit: dict[int, dict[str, Any]] = {}
        for limit in {self._limit(option) for option in options}:
            if kind == "grammar":
                by_limit[limit] = {"grammar": self._language.grammar(limit)}
            elif kind == "regex":
                by_limit[limit] = {"structured_outputs": {"regex": self._language.regex(limit)}}
        plain = self._plain
        return [plain | by_limit.get(self._limit(option), {}) if option.constrained else plain for option in options]

    def _limit(self, options: NoteOptions) -> int:
        return min(options.max_codes or self._decoding.max_codes, self._decoding.max_codes)

    def _constraint_kind(self) -> Constraint:
        """Return the constraint that the server takes; it is asked until it has told once."""
        if self._constraint is None:
            try:
                server = served_by(self._http, self._api_base, self._api_key)
            except MedcodeError as error:
                logger.warning(
                    "the server at %s: %s; it is not held to valid codes; set remote.constraint", self._host, error
                )
                return "none"
            self._constraint = CONSTRAINT_OF.get(server, "none")
        return self._constraint

    def _predict_one(self, note: str, options: NoteOptions, extra: dict[str, Any]) -> Prediction:
        if options.ended():
            return Prediction((), outcome="ended")
        choice = self._complete(note, extra)
        if choice is None:
            if options.long_notes == "refuse":
                return Prediction((), outcome="too_long")
            raise MedcodeError(
                f"the server at {self._host} reads less at once than a note has; start it with a longer context "
                "(llama-server -c, vllm --max-model-len), or ask with long_notes: refuse"
            )
        return self._parsed(choice, self._limit(options))

    def _parsed(self, choice: Any, limit: int) -> Prediction:
        text: str = (choice.text if self._remote.protocol == "completions" else choice.message.content) or ""
        parsed = parse_answer(text, self._vocabulary, cut=choice.finish_reason == "length")
        tokens = told_tokens(choice)
        # A server may tell the end's token as well, or strip a space that the first token has.
        begin = "".join(token for token, _ in tokens).find(text)
        codes = []
        for mention in parsed.mentions[:limit]:
            row = self._vocabulary.codes[mention.index]
            place = replace(mention, start=mention.start + begin, end=mention.end + begin)
            probability = mention_probability(place, tokens) if begin >= 0 else None
            codes.append(ScoredCode(row.system, row.code, row.description, probability))
        return Prediction(
            tuple(codes), dropped=parsed.dropped, reasoning=parsed.reasoning or self._set_apart(choice, text)
        )

    def _set_apart(self, choice: Any, text: str) -> str | None:
        """Return the reasoning that LiteLLM, or the server of a chat, took out of an answer's text."""
        thought = getattr(getattr(choice, "message", None), "reasoning_content", None)
        if self._prompt.answer != "reasoned" or not thought:
            return None
        return read_answer(f"{THINK}\n{thought.strip()}\n{END_THINK}\n{text}").reasoning

    def _complete(self, note: str, extra: dict[str, Any]) -> Any:
        """Return the server's choice; None if the note's prompt is too long for it."""
        litellm = import_litellm()
        failure: MedcodeError
        try:
            return self._ask(note, extra).choices[0]
        except litellm.ContextWindowExceededError:
            return None
        except litellm.Timeout:
            failure = EngineTimeoutError(
                f"the server at {self._host} gave no answer within {self._remote.timeout_s:g} s; raise remote.timeout_s"
            )
        except Exception as error:  # noqa: BLE001 - LiteLLM raises from several hierarchies; texts quote the note
            if isinstance(error, litellm.BadRequestError) and _TOO_LONG.search(str(error)):
                return None
            failure = MedcodeError(
                f"the server at {self._host} did not answer ({type(error).__name__}); check that it runs and serves "
                f"{self._remote.model!r}"
            )
        raise failure  # outside, so that no traceback shows what the server said

    @cached_property
    def _ask(self) -> Callable[[str, dict[str, Any]], Any]:
        """LiteLLM's call for `remote.protocol`: it takes a note and what goes beside the standard fields."""
        litellm = import_litellm()
        import openai

        fields: dict[str, Any] = {
            "model": f"hosted_vllm/{self._remote.model}",
            "api_base": self._api_base,
            "api_key": self._api_key,
            "max_tokens": self._remote.max_tokens,
            "temperature": 0,
            "timeout": self._remote.timeout_s,
            "max_retries": 0,
        }
        if self._remote.protocol == "chat":
            handler = litellm.HTTPHandler(client=self._http)
            return lambda note, extra: litellm.completion(
                messages=self._prompt.chat(note),
                logprobs=True,
                top_logprobs=1,
                client=handler,
                extra_body=extra,
                **fields,
            )
        client = openai.OpenAI(
            api_key=self._api_key,
            base_url=self._api_base,
            http_client=self._http,
            timeout=self._remote.timeout_s,
            max_retries=0,
        )
        return lambda note, extra: litellm.text_completion(
            prompt=self._prompt.render(note), logprobs=1, client=client, extra_body=extra, **fields
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
