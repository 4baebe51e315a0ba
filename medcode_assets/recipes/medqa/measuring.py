"""The adapter asked validation questions: for the confidence of its answers, and under the controls of their length."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medcode_assets.recipes.medqa.brevity import BrevityReport, try_controls
from medcode_assets.recipes.medqa.settings import BrevitySection
from medcode_assets.recipes.words.answers import TUNED, Answered
from medcode_assets.recipes.words.asking import ask_model
from medcode_assets.recipes.words.questions import Asked
from medcode_assets.warehouse import fingerprint
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import DecodingSettings
from medcode_serving.engines.protocol import Writing
from medcode_serving.prompts import PromptTemplate

ONE_TOKEN = Writing(max_tokens=1)
"""Where only the options' likelihoods are asked for, nothing needs to be written."""


@dataclass(frozen=True)
class Tuned:
    """The adapter that is measured, and how."""

    prompt: PromptTemplate
    """The recipe's, for this base model."""
    base: LocalModel
    weights: Path
    decoding: DecodingSettings
    device: str
    batch_size: int

    def ask(
        self, asked: Sequence[Asked], writing: Writing, parts: Path, on_progress: Callable[[int], None] | None = None
    ) -> list[Answered]:
        """Return its answers; what is kept in a folder below `parts` belongs to these questions and this writing."""
        made_from = fingerprint(questions=[vars(one) for one in asked], writing=vars(writing))
        return ask_model(
            asked,
            TUNED,
            self.prompt,
            self.base,
            self.weights,
            self.decoding,
            device=self.device,
            batch_size=self.batch_size,
            writing=writing,
            parts=parts / made_from[:12],
            on_progress=on_progress,
        )


def option_answers(
    tuned: Tuned, asked: Sequence[Asked], parts: Path, on_progress: Callable[[int], None] | None = None
) -> list[Answered]:
    """Return the options' likelihoods; the texts are broken off and stand for nothing."""
    return tuned.ask(asked, ONE_TOKEN, parts, on_progress)


def measure_brevity(
    tuned: Tuned,
    asked: Sequence[Asked],
    section: BrevitySection,
    parts: Path,
    on_progress: Callable[[int], None] | None = None,
) -> BrevityReport:
    """Return what every control of the length does to the adapter's answers."""
    return try_controls(asked, section, lambda questions, writing: tuned.ask(questions, writing, parts, on_progress))
