"""The JSONL lines of the three stages as pydantic models: in training files, `medcode synth`, `medcode data check`.

Stage 1 teaches the code, stage 2 the code with its reasoning, stage 3 to prefer accurate, concise reasoning.
A line's system message is not trained on: the recipe's own prompt is (`prompts.py`), so that serving asks as training
did.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from medcode_assets.recipes.reasoning.prompts import SYSTEM
from medcode_serving.reasoned import SYSTEM_OF, ReasonedAnswer, answer_text, code_line, read_answer

STAGES = tuple(SYSTEM)


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Message(_Line):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1)


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


CodeType = Annotated[Literal["ICD10", "CPT", "HCPCS"], BeforeValidator(_upper)]


class Origin(_Line):
    """Where a line is from."""

    source: str = Field(default="", description="e.g. synthetic, mimic, mtsamples")
    group: str | None = Field(
        default=None, description="Lines of one group, of one patient say, come to the same split."
    )


class Stage1Metadata(Origin):
    """`_metadata` of a line of stage 1."""

    code_type: CodeType
    code: str
    code_valid: bool


class Stage2Metadata(Origin):
    """`_metadata` of a line of stage 2."""

    code_type: CodeType
    code: str
    reasoning_present: bool
    reasoning_quality: float = Field(ge=0, le=1, description="Share of the points that the narrative supports.")


class _Conversation(_Line):
    messages: tuple[Message, Message, Message]

    @model_validator(mode="after")
    def _in_turn(self) -> Self:
        roles = [message.role for message in self.messages]
        if roles != ["system", "user", "assistant"]:
            raise ValueError(f"messages: roles are {', '.join(roles)}, expected system, user, assistant")
        return self

    @property
    def narrative(self) -> str:
        """The clinical text."""
        return self.messages[1].content

    @property
    def completion(self) -> str:
        """The answer."""
        return self.messages[2].content

    @property
    def answer(self) -> ReasonedAnswer:
        """What the answer says."""
        return read_answer(self.completion)


class Stage1Line(_Conversation):
    """Narrative to code."""

    metadata: Stage1Metadata = Field(alias="_metadata")


class Stage2Line(_Conversation):
    """Narrative to reasoning and code."""

    metadata: Stage2Metadata = Field(alias="_metadata")


class Stage3Line(_Line):
    """A narrative with an answer that is better than another."""

    prompt: tuple[Message, Message]
    chosen: str = Field(min_length=1)
    rejected: str = Field(min_length=1)
    metadata: Origin = Field(default=Origin(), alias="_metadata")

    @property
    def narrative(self) -> str:
        """The clinical text."""
        return self.prompt[1].content

    @property
    def completion(self) -> str:
        """The better answer."""
        return self.chosen

    @property
    def answer(self) -> ReasonedAnswer:
        """What the better answer says."""
        return read_answer(self.chosen)


Line = Stage1Line | Stage2Line | Stage3Line
LINE_OF: dict[int, type[Stage1Line] | type[Stage2Line] | type[Stage3Line]] = {
    1: Stage1Line,
    2: Stage2Line,
    3: Stage3Line,
}


def stage_1_line(
    narrative: str, system: str, code: str, description: str | None, *, source: str, group: str | None = None
) -> Stage1Line:
    """Return a line of stage 1 for a valid code."""
    return Stage1Line(
        messages=_messages(1, narrative, code_line(system, code, description)),
        metadata=Stage1Metadata(code_type=_type_of(system), code=code, code_valid=True, source=source, group=group),
    )


def stage_2_line(
    narrative: str,
    points: Sequence[str],
    system: str,
    code: str,
    description: str | None,
    *,
    quality: float,
    source: str,
    group: str | None = None,
) -> Stage2Line:
    """Return a line of stage 2."""
    return Stage2Line(
        messages=_messages(2, narrative, answer_text(points, code_line(system, code, description))),
        metadata=Stage2Metadata(
            code_type=_type_of(system),
            code=code,
            reasoning_present=bool(points),
            reasoning_quality=quality,
            source=source,
            group=group,
        ),
    )


def stage_3_line(narrative: str, chosen: str, rejected: str, *, source: str, group: str | None = None) -> Stage3Line:
    """Return a line of stage 3; the answers are whole ones (`medcode_serving.reasoned.answer_text`)."""
    return Stage3Line(
        prompt=_messages(3, narrative, "-")[:2],
        chosen=chosen,
        rejected=rejected,
        metadata=Origin(source=source, group=group),
    )


def written(line: Line) -> str:
    """Return a line as JSON, without its line break."""
    return line.model_dump_json(by_alias=True, exclude_none=True)


def _messages(stage: int, narrative: str, answer: str) -> tuple[Message, Message, Message]:
    return (
        Message(role="system", content=SYSTEM[stage]),
        Message(role="user", content=narrative),
        Message(role="assistant", content=answer),
    )


def _type_of(system: str) -> Any:
    return next(name for name, value in SYSTEM_OF.items() if value == system)
