"""What is sent and answered under /v1, in the form of OpenAI's API."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from medcode_serving.answers import PredictionResponse, WrittenResponse
from medcode_serving.api.problems import ProblemError

HARMLESS: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "tools": (None, []),
    "functions": (None, []),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "response_format": (None, {"type": "text"}),
}
"""Parameters that would ask for another kind of answer, and the values with which they do not. All others that are
not described, as top_p and user, change nothing."""

FinishReason = Literal["stop", "length"]


class OpenAIError(BaseModel):
    """What went wrong."""

    message: str
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = None
    code: str | None = Field(examples=["model_not_found"])


class ErrorResponse(BaseModel):
    """An error in OpenAI's form."""

    error: OpenAIError


class StreamOptions(BaseModel):
    """What a stream has besides the answer."""

    include_usage: bool | None = False


class OpenAIRequest(BaseModel):
    """What chat and plain completions have in common. Parameters that are not described change nothing.

    Temperature, tokens, seed and stops are for recipes that answer in words; codes do not change by them.
    Lists end at their first wrong item: a body of a million of them would else be as many errors.
    """

    model: str = Field(description="A recipe, or `recipe@version`, as /v1/models lists them.", examples=["icd"])
    stream: bool | None = Field(
        default=False, description="Answer by server-sent events; all codes, or all words, come at once."
    )
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="Of an answer in words; 0 always takes the likeliest word."
    )
    max_tokens: int | None = Field(
        default=None,
        description="Tokens of an answer in words at most, never above the bundle's limit, which 0 and -1 mean too.",
    )
    seed: int | None = Field(default=None, description="Of the draws, with a temperature above 0.")
    stop: str | Annotated[list[str], Field(max_length=16, fail_fast=True)] | None = Field(
        default=None, description="An answer in words ends before the first of these texts."
    )

    @model_validator(mode="before")
    @classmethod
    def _is_supported(cls, sent: Any) -> Any:
        """Refuse a parameter that asks for another kind of answer."""
        for name, harmless in HARMLESS.items():
            if isinstance(sent, dict) and sent.get(name) not in harmless:
                message = "{name}: not supported here; leave it out"
                raise PydanticCustomError("unsupported_parameter", message, {"name": name})
        return sent

    @property
    def most_tokens(self) -> int | None:
        """Tokens that the answer may have; None if the request sets no limit."""
        return self.max_tokens if self.max_tokens is not None and self.max_tokens > 0 else None

    @property
    def stops(self) -> list[str]:
        """Texts before which the answer ends."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in given if text]


class ContentPart(BaseModel):
    """A piece of a message."""

    type: str = Field(examples=["text"])
    text: str | None = None


class Message(BaseModel):
    """A message; only the last one with the role `user` is read."""

    role: str = Field(examples=["user"])
    content: str | Annotated[list[ContentPart], Field(fail_fast=True)] | None = None

    def text(self) -> str:
        """Return what it says; raises ProblemError 400 if that is not all text."""
        if isinstance(self.content, list):
            if any(part.type != "text" for part in self.content):
                raise ProblemError(400, "unsupported_content", "messages: only parts of type text can be read")
            return "\n".join(part.text or "" for part in self.content)
        return self.content or ""


class ChatRequest(OpenAIRequest):
    """A request for a chat completion."""

    messages: list[Message] = Field(
        fail_fast=True,
        min_length=1,
        examples=[[{"role": "user", "content": "Type 2 diabetes, hypertension. No fever."}]],
    )
    logprobs: bool | None = Field(
        default=False, description="Whether the answer tells log probabilities; those in words have none."
    )
    max_completion_tokens: int | None = Field(default=None, description="The newer name of max_tokens.")

    @property
    def most_tokens(self) -> int | None:
        """Tokens that the answer may have, by either name; None if the request sets no limit."""
        newer = self.max_completion_tokens
        return newer if newer is not None and newer > 0 else super().most_tokens

    def text(self) -> str:
        """Return the last user message; raises ProblemError 400 if there is none that can be read."""
        for message in reversed(self.messages):
            if message.role == "user":
                return message.text()
        raise ProblemError(400, "no_user_message", "messages: none has the role user; the note goes there")


class CompletionRequest(OpenAIRequest):
    """A request for a plain completion."""

    prompt: (
        Annotated[str, Field(examples=["Type 2 diabetes, hypertension."])]
        | Annotated[list[str], Field(min_length=1, max_length=1, fail_fast=True)]
    ) = Field(description="The note, or the whole prompt that training saw around it; one only.")
    logprobs: int | None = Field(
        default=None, description="Whether the answer tells log probabilities; those in words have none."
    )

    def text(self) -> str:
        """Return the prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


class Usage(BaseModel):
    """Words of the note, and codes (or tokens, in words) of the answer: medcode's engines do not all have tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Token(BaseModel):
    """A piece of the answer: a code, or what stands between two."""

    token: str = Field(examples=["E11.9"])
    logprob: float = Field(description="Logarithm of the code's calibrated probability; 0 between codes.")
    bytes: list[int]
    top_logprobs: list[dict[str, Any]] = []


class ChatLogprobs(BaseModel):
    """Log probabilities of a chat completion."""

    content: list[Token]
    refusal: None = None


class AssistantMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str = Field(description="The codes, most probable first; or the answer in words.", examples=["I10, E11.9"])


class ChatChoice(BaseModel):
    """The only choice."""

    index: int = 0
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason = Field(default="stop", description="length: an answer in words was broken off.")


class CompletionLogprobs(BaseModel):
    """Log probabilities of a plain completion."""

    tokens: list[str]
    token_logprobs: list[float]
    text_offset: list[int]
    top_logprobs: None = None


class CompletionChoice(BaseModel):
    """The only choice."""

    index: int = 0
    text: str = Field(examples=[" I10, E11.9"])
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason = Field(default="stop", description="length: an answer in words was broken off.")


class Answered(BaseModel):
    """What both kinds of completion have."""

    id: str
    created: int = Field(description="Seconds since 1970.")
    model: str
    usage: Usage
    medcode: PredictionResponse | WrittenResponse = Field(
        description="The whole answer of /predict or /generate, with its safety report; no part of OpenAI's API."
    )


class ChatCompletion(Answered):
    """A chat completion."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class Completion(Answered):
    """A plain completion."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]


class ModelCard(BaseModel):
    """A model that can be asked."""

    id: str = Field(examples=["icd"])
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "medcode"


class ModelList(BaseModel):
    """The models that can be asked."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
