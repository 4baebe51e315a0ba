"""What a recipe says: where its examples come from and how its prompt looks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from dagster import AssetKey, PartitionsDefinition

from medcode_assets.config import DataSettings
from medcode_assets.warehouse import Built
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import DataVersion
from medcode_serving.chat import chat_prompt
from medcode_serving.prompts import AnswerForm, PromptTemplate

if TYPE_CHECKING:
    import duckdb

    from medcode_assets.recipes.words.answers import Answered
    from medcode_assets.recipes.words.questions import Asked


class BuildExamples(Protocol):
    """Makes a recipe's tables, in the schema of its name.

    - `labels`: label (0-based), system, code, text, description, frequency; those of frequency > 0 come first.
    - `examples`: example_id, subject_id, split, gold (labels), answer (texts that training teaches).
    - view `notes`: example_id, note.
    - view `dictionary`: system, code, description of every code that may be asked for, in training or not.
    """

    def __call__(self, con: "duckdb.DuckDBPyConnection", settings: DataSettings, rebuild: bool = False) -> Built:
        """Make them, unless nothing changed; return how `examples` was made."""
        ...


class TellDataVersion(Protocol):
    """Says which data a warehouse holds."""

    def __call__(
        self, con: "duckdb.DuckDBPyConnection", home: Path, partition: str, train_documents: int
    ) -> DataVersion:
        """Return it; `home` is MEDCODE_HOME."""
        ...


@dataclass(frozen=True)
class Chat:
    """A prompt in the base model's own chat template."""

    system: str
    """The system message; the note is the user's."""
    answer: AnswerForm
    """How the completion looks (`PromptTemplate.answer`)."""


@dataclass(frozen=True)
class Stage:
    """One of the trainings that follow each other, each adapter starting from the one before."""

    number: int
    objective: Literal["sft", "dpo"]
    chat: Chat
    learns: str

    @property
    def name(self) -> str:
        """Name of its asset."""
        return f"stage_{self.number}"


class ScoreAnswers(Protocol):
    """Scores answers in words by a recipe's own measures."""

    def __call__(self, asked: "Sequence[Asked]", answers: "Sequence[Answered]") -> Mapping[str, Sequence[float]]:
        """Return each measure's score of each answer, a finite number, in the order given; more is better."""
        ...


@dataclass(frozen=True)
class Words:
    """How a recipe's answers in words are measured."""

    score: ScoreAnswers
    measures: Mapping[str, str]
    """What `score` returns, by name: a sentence for people."""
    headline: str
    """The measure, or text metric that is a mean, by which the adapter must be better than the untuned base."""
    rules: tuple[Path, ...] = ()
    """Data files that `score` reads: with others, answers are measured anew."""
    form: str | None = None
    """The measure that is 1 of a written answer in the form that the recipe asks for; None: any form will do."""


@dataclass(frozen=True)
class Recipe:
    """One thing to learn; `recipes.factory` gives it its chain of assets."""

    name: str
    learns: str
    """In a few words, for people."""
    prompt: PromptTemplate
    """Of a recipe that chats, `for_base` gives the one that is meant."""
    partitions: PartitionsDefinition
    sources: Sequence[AssetKey]
    """Assets that the examples are made from."""
    build_examples: BuildExamples
    data_version: TellDataVersion
    chat: Chat | None = None
    added_tokens: tuple[str, ...] = ()
    """Special tokens that the base model's tokenizer gets; their embeddings are trained with the adapter."""
    stages: tuple[Stage, ...] = ()
    """Trainings one after the other; none: one, of the recipe's tokens."""
    words: Words | None = None
    """Of a recipe that answers in words; None: it answers with codes."""

    def for_base(self, base: LocalModel) -> "Recipe":
        """Return the recipe with the prompt that belongs to a base model."""
        if self.chat is None:
            return self
        return replace(self, prompt=chat_prompt(base.path, self.chat.system, self.chat.answer))
