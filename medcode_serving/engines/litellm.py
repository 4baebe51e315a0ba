"""A model on an OpenAI-compatible server that answers with codes."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from medcode_serving.bundle import DecodingSettings
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.decoding import mention_probability, parse_answer
from medcode_serving.engines.constraints import CodeLanguage
from medcode_serving.engines.protocol import DEFAULT_OPTIONS, NoteOptions, Prediction, ScoredCode
from medcode_serving.engines.remote_model import Asked, RemoteModel, told_tokens, written_text
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate
from medcode_serving.reasoned import END_THINK, SPECIAL_TOKENS, THINK, read_answer
from medcode_serving.settings import RemoteSettings

logger = logging.getLogger(__name__)

Constraint = Literal["grammar", "regex", "none"]

CONSTRAINT_OF: dict[str | None, Constraint] = {"llamacpp": "grammar", "vllm": "regex"}
"""What a server understands, by what it says that it is."""


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
        self._model = RemoteModel(prompt, remote)
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

    def predict(
        self,
        notes: Sequence[str],
        *,
        options: Sequence[NoteOptions] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Prediction]:
        """Return the codes of each note in the order that the server wrote them (`RemoteModel.predict`).

        Raises:
            EngineTimeoutError: the server was too slow.
            MedcodeError: the server cannot answer.
        """
        chosen = options or [DEFAULT_OPTIONS] * len(notes)
        fields = {"max_tokens": self._remote.max_tokens, "temperature": 0}
        asked = [
            Asked(note, option, fields, extra)
            for note, option, extra in zip(notes, chosen, self._extras(chosen), strict=True)
        ]
        return self._model.predict(asked, self._parsed, on_progress)

    def close(self) -> None:
        """Let go of the server; what was sent is not waited for."""
        self._model.close()

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
                server = self._model.served_by()
            except MedcodeError as error:
                logger.warning(
                    "the server at %s: %s; it is not held to valid codes; set remote.constraint",
                    self._model.host,
                    error,
                )
                return "none"
            self._constraint = CONSTRAINT_OF.get(server, "none")
        return self._constraint

    def _parsed(self, completion: Any, options: NoteOptions) -> Prediction:
        choice = completion.choices[0]
        text = written_text(choice)
        parsed = parse_answer(text, self._vocabulary, cut=choice.finish_reason == "length")
        tokens = told_tokens(choice)
        # A server may tell the end's token as well, or strip a space that the first token has.
        begin = "".join(token for token, _ in tokens).find(text)
        codes = []
        for mention in parsed.mentions[: self._limit(options)]:
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
