"""A model on an OpenAI-compatible server that answers in words."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from medcode_serving.bundle import DecodingSettings
from medcode_serving.engines.protocol import DEFAULT_OPTIONS, NoteOptions, Prediction, Writing, WrittenAnswer
from medcode_serving.engines.remote_model import Asked, RemoteModel, told_tokens, written_text
from medcode_serving.engines.writing import end_of_sentences
from medcode_serving.errors import OptionError
from medcode_serving.prompts import PromptTemplate
from medcode_serving.reasoned import without_thought
from medcode_serving.settings import RemoteSettings

NO_LENGTH_PENALTY = "engine litellm has no length penalty, for servers take none; ask for max_sentences or fewer tokens"


class LiteLLMWordsEngine:
    """Asks for a completion of the same prompt that training used; questions go whole.

    The confidence comes from the probabilities of the tokens that the server tells; some do not tell the end's.
    """

    name = "litellm"

    def __init__(self, prompt: PromptTemplate, decoding: DecodingSettings, remote: RemoteSettings) -> None:
        """Check the settings; nothing is sent yet.

        Raises:
            MedcodeError: model or address are missing, or questions may not be sent to that host.
        """
        self._model = RemoteModel(prompt, remote)
        self._max_tokens = decoding.max_answer_tokens

    def predict(
        self,
        notes: Sequence[str],
        *,
        options: Sequence[NoteOptions] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Prediction]:
        """Return the answer to each question as `Prediction.written`; there are no codes.

        Raises:
            OptionError: a length penalty is asked for.
            EngineTimeoutError: the server was too slow.
            MedcodeError: the server cannot answer.
        """
        chosen = options or [DEFAULT_OPTIONS] * len(notes)
        if any(option.writing.length_penalty for option in chosen):
            raise OptionError(NO_LENGTH_PENALTY)
        asked = [
            # llama.cpp's default penalty would punish every word that comes twice.
            Asked(note, option, self._fields(option.writing), {"repeat_penalty": 1.0})
            for note, option in zip(notes, chosen, strict=True)
        ]
        return self._model.predict(asked, _read, on_progress)

    def close(self) -> None:
        """Let go of the server; what was sent is not waited for."""
        self._model.close()

    def _fields(self, writing: Writing) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "max_tokens": min(writing.max_tokens or self._max_tokens, self._max_tokens),
            "temperature": writing.temperature,
        }
        if writing.temperature > 0:
            fields["top_p"] = 1.0  # whatever the server's default is
            if writing.seed is not None:
                fields["seed"] = writing.seed
        return fields


def _read(completion: Any, options: NoteOptions) -> Prediction:
    choice = completion.choices[0]
    text, told = written_text(choice), told_tokens(choice)
    end = None if (most := options.writing.max_sentences) is None else end_of_sentences(text, most)
    written = _up_to(told, len(text) if end is None else end)
    judged = told if end is None else written  # the end of the text is part of an answer
    known = [log_probability for _, log_probability in judged if log_probability is not None]
    return Prediction(
        (),
        written=WrittenAnswer(
            without_thought(text[:end].strip()),
            tokens=len(written) or completion.usage.completion_tokens,
            confidence=math.exp(math.fsum(known) / len(known)) if known else None,
            cut=end is None and choice.finish_reason == "length",
        ),
    )


def _up_to(told: list[tuple[str, float | None]], end: int) -> list[tuple[str, float | None]]:
    """Return the tokens of the first `end` characters."""
    length = 0
    for place, (token, _) in enumerate(told):
        if length >= end:
            return told[:place]
        length += len(token)
    return told
