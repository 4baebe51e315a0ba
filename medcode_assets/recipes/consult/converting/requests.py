"""What a model is asked that converts: a pure function of the conversation and of what was wrong before."""

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from string import Template
from typing import NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.recipes.consult.sources import Conversation
from medcode_assets.synthesis.requests import Request

_PROMPTS = resources.files(__package__).joinpath("prompts.yaml")


class Prompts(BaseModel):
    """prompts.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(ge=0, le=2)
    max_tokens: int = Field(ge=1)
    system: str
    ask: str
    again: str
    unreadable: dict[str, str]


class Earlier(NamedTuple):
    """A reply that was refused."""

    answer: str
    problems: Sequence[str]


def conversion_request(number: int, attempt: int, conversation: Conversation, earlier: Earlier | None) -> Request:
    """Return the request that has one answer converted.

    Args:
        number: Of the row, from 0.
        attempt: From 0.
        conversation: What is sent.
        earlier: The reply before and what was wrong with it; None at first.
    """
    prompts = read_prompts()
    # The texts last and as they are: they may hold a $ of their own.
    asked = prompts.ask.replace("$question", "\0").replace("$answer", conversation.doctor)
    messages = [
        {"role": "system", "content": prompts.system},
        {"role": "user", "content": asked.replace("\0", conversation.question)},
    ]
    if earlier is not None:
        problems = "\n".join(f"- {problem}" for problem in earlier.problems)
        again = Template(prompts.again).safe_substitute(problems=problems)
        said = [{"role": "assistant", "content": earlier.answer}] if earlier.answer.strip() else []
        messages += [*said, {"role": "user", "content": again}]
    seed = int.from_bytes(hashlib.sha256(f"consult {number} {attempt}".encode()).digest()[:3])
    return Request(
        number,
        attempt,
        code=None,
        narrative=None,
        messages=tuple(messages),
        max_tokens=prompts.max_tokens,
        temperature=prompts.temperature,
        seed=seed,
    )


@cache
def read_prompts() -> Prompts:
    """Return what prompts.yaml holds."""
    return Prompts.model_validate(yaml.safe_load(_PROMPTS.read_text(encoding="utf-8")))
