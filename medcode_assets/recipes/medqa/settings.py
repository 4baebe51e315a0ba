"""config/medqa.yaml: which exam questions are learned from, and how the answers look."""

from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Any, Literal

from pydantic import Field, field_validator

from medcode_assets.config import PROJECT, DataSettings, ModelSettings, Settings
from medcode_assets.training.settings import LoraSettings, TrainingSettings
from medcode_serving.layers import Section, layered

CONFIG = PROJECT / "config" / "medqa.yaml"
SYNTHETIC = "synthetic"


class MedqaSection(Section):
    """Where the questions come from, which of them are taken, and how an answer looks."""

    source: str = Field(
        default="openlifescienceai/medmcqa",
        min_length=1,
        description="A Hugging Face data set of MedMCQA's shape, a local JSON, JSONL, parquet or arrow file of that "
        "shape, a folder of such files named train, validation (or dev) and test, or `synthetic` (made from facts).",
    )
    revision: str | None = Field(default=None, description="Hub branch, tag or commit; none: the default branch.")
    synthetic_questions: int = Field(default=2_000, ge=30, description="Questions to make, if the source is synthetic.")
    cop_base: Literal["auto", "0", "1"] = Field(
        default="auto",
        description="Whether the column cop counts options from 0 (the hub) or 1 (the JSON files of the authors); "
        "auto: as the source tells, and an error where it does not.",
    )
    limit: int = Field(default=0, ge=0, description="Training questions at most, subjects in proportion; 0: all.")
    held_out: int = Field(
        default=0, ge=0, description="Questions of the validation and of the test split at most, each; 0: all."
    )
    validation_share: float = Field(
        default=0.1, gt=0, lt=0.5, description="Share of the validation split, where the source has none of its own."
    )
    test_share: float = Field(
        default=0.1, gt=0, lt=0.5, description="Share of the test split, where the source has none of its own."
    )
    seed: int = Field(default=0, ge=0, description="Of the sample, the splits and the augmentation.")
    augmentation: int = Field(
        default=1,
        ge=1,
        le=24,
        description="Training examples made of each training question: itself, and others with the options shuffled "
        "and the question asked in other words.",
    )
    answer_template: str = Field(
        default="{label}. {option}", description="How an answer looks: {label} is the letter, {option} the text."
    )
    explanations: bool = Field(
        default=False, description="Train on the explanation, too: it follows the answer in the next paragraph."
    )

    @field_validator("cop_base", mode="before")
    @classmethod
    def _number_or_word(cls, base: Any) -> Any:
        return str(base) if isinstance(base, int) else base  # 1 in YAML is a number

    @field_validator("answer_template")
    @classmethod
    def _tells_the_option(cls, template: str) -> str:
        try:
            fields = {field for _, field, spec, conversion in Formatter().parse(template) if field is not None}
        except ValueError:
            fields = {"?"}
        if not fields or not fields <= {"label", "option"} or template.format(label="A", option="b").strip() == "":
            raise ValueError("give a template with {label}, {option} or both, such as '{label}. {option}'")
        return template


class BrevitySection(Section):
    """What asset `medqa/brevity` tries on the validation split: every combination of these."""

    questions: int = Field(default=64, ge=4, description="Validation questions asked, the same ones each time.")
    length_penalties: list[float] = Field(
        default=[0.0, 0.25, 1.0],
        min_length=1,
        description="Nats added to the end's logit for each token written; 0: none. Answers of about ten tokens need "
        "about 1, longer ones less: 0.1 ends them by about token 100.",
    )
    max_sentences: list[int] = Field(default=[0, 1], min_length=1, description="Sentences at most; 0: no limit.")
    max_tokens: list[int] = Field(
        default=[0, 24], min_length=1, description="Tokens at most; 0: as many as the longest answer of training."
    )
    may_lose: float = Field(
        default=0.01, ge=0, le=1, description="Accuracy and ROUGE-L that a recommended setting may lose."
    )

    @field_validator("length_penalties", "max_sentences", "max_tokens")
    @classmethod
    def _each_once_and_none_at_all(cls, values: list[Any]) -> list[Any]:
        if 0 not in values or len(set(values)) < len(values) or min(values) < 0:
            raise ValueError("give each value once, none below 0, and 0 itself, with which the others are compared")
        return values


class ErrorsSection(Section):
    """How asset `medqa/errors` looks at wrong answers."""

    confident: float = Field(default=0.8, gt=0, lt=1, description="From this calibrated confidence on, it is sure.")
    too_long: float = Field(default=2.0, gt=1, description="Answers of so many times the reference's words are long.")
    least: int = Field(default=5, ge=1, description="Wrong answers that a pattern needs to be told as a finding.")
    examples: int = Field(default=5, ge=0, description="Examples named for each pattern, by number only.")


class MedqaSettings(Settings):
    """All settings of recipe `medqa`."""

    model: ModelSettings = ModelSettings(base="microsoft/phi-2")
    lora: LoraSettings = LoraSettings(r=16, alpha=32)
    data: DataSettings = DataSettings(max_prompt_tokens=512)
    training: TrainingSettings = TrainingSettings(
        mode="qlora", epochs=2.0, batch_size=8, gradient_accumulation=4, metric_documents=0
    )
    medqa: MedqaSection = MedqaSection()
    brevity: BrevitySection = BrevitySection()
    errors: ErrorsSection = ErrorsSection()


def load_medqa_settings(path: Path | None = None, flags: Mapping[str, Any] | None = None) -> MedqaSettings:
    """Return the settings of a YAML file, overridden by the environment and then by flags.

    Args:
        path: The file; none: config/medqa.yaml of the checkout, or the defaults without one.
        flags: Values by dotted name, e.g. `{"medqa.limit": 1000}`.

    Raises:
        MedcodeError: the file is missing or no YAML mapping, or a setting is unknown or out of bounds.
    """
    return layered(MedqaSettings, path or (CONFIG if CONFIG.is_file() else None), dict(flags or {}))
