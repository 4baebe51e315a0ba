"""Section `consult` of config/consult.yaml: where conversations come from, who converts them, what is compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from medcode_assets.config import PROJECT, DataSettings, EvaluationSettings, ModelSettings, Settings
from medcode_assets.training.settings import LoraSettings, TrainingSettings
from medcode_serving.layers import Section, layered

CONFIG = PROJECT / "config" / "consult.yaml"
SYNTHETIC = "synthetic"
"""The source that is made and not read."""


class ConsultSection(Section):
    """Where conversations come from, who converts the answers, and what is compared."""

    source: str = Field(
        default="mahfoos/Patient-Doctor-Conversation",
        min_length=1,
        description="A data set on the hub; a CSV, JSONL, JSON, Arrow or parquet file, or a folder of a data set, with "
        f"the columns Description, Patient, Doctor, Status; or `{SYNTHETIC}` (made from templates).",
    )
    revision: str | None = Field(
        default=None, description="Of a hub data set: branch, tag or commit; none: the newest."
    )
    count: int = Field(default=1000, ge=20, description=f"Conversations that source: {SYNTHETIC} makes.")
    seed: int = Field(default=0, ge=0, description="Of made conversations, the splits and the rating sheet.")
    validation_share: float = Field(default=0.1, gt=0, lt=0.5, description="Share of the validation split.")
    test_share: float = Field(default=0.1, gt=0, lt=0.5, description="Share of the test split.")
    converter: Literal["llm", "outline"] = Field(
        default="outline",
        description="Who makes hierarchical lists of the doctors' answers. llm: the model below; outline: sentences "
        "grouped by cue words, offline and always the same.",
    )
    converter_model: str = Field(
        default="deepseek/deepseek-chat", description="With converter: llm, the model as LiteLLM names it."
    )
    api_base: str | None = Field(
        default=None, description="Address of a server with OpenAI's protocol; none: the provider's own."
    )
    allowed_hosts: list[str] = Field(
        default=[], description="Hosts that conversations may be sent to, besides this machine."
    )
    workers: int = Field(default=8, ge=1, le=100, description="Requests to the model at a time.")
    attempts: int = Field(
        default=3, ge=1, le=10, description="Answers to a row, each told what was wrong with the one before."
    )
    retries: int = Field(default=5, ge=0, description="Repetitions of a request that got no answer.")
    timeout_s: float = Field(default=60.0, gt=0, description="Seconds that the model's server may be silent.")
    least_valid: float = Field(
        default=0.9, ge=0, le=1, description="Share of converted answers that must be valid for the check to pass."
    )
    keep_unconverted: bool = Field(
        default=False, description="Also train and test on answers that could not be converted, as they are."
    )
    compare_models: list[str] = Field(
        default=["Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B-Instruct"],
        description="Models that answer the test split untuned, beside the adapter (asset `comparison`).",
    )
    rated: int = Field(default=50, ge=1, description="Questions of the sheet for human raters.")

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Self:
        if self.validation_share + self.test_share >= 0.9:
            raise ValueError("validation_share and test_share leave less than a tenth to train on")
        if len(set(self.compare_models)) < len(self.compare_models):
            raise ValueError("compare_models: a model is named twice")
        return self


class ConsultSettings(Settings):
    """All settings of recipe `consult`."""

    model: ModelSettings = ModelSettings(base="Qwen/Qwen2.5-0.5B")
    lora: LoraSettings = LoraSettings(r=16, alpha=32)
    training: TrainingSettings = TrainingSettings(
        learning_rate=2e-4, batch_size=8, gradient_accumulation=2, metric_documents=0, keep="best"
    )
    data: DataSettings = DataSettings(max_prompt_tokens=1024)
    evaluation: EvaluationSettings = EvaluationSettings(batch_size=8)
    consult: ConsultSection = ConsultSection()


def load_consult_settings(path: Path | None = None, flags: Mapping[str, Any] | None = None) -> ConsultSettings:
    """Return the recipe's settings from a YAML file, overridden by environment and flags.

    Args:
        path: The file; none: config/consult.yaml of the checkout, or the defaults without one.
        flags: Values by dotted name, e.g. `{"lora.r": 16}`.

    Raises:
        MedcodeError: the file is missing or wrong, or a setting is unknown or out of bounds.
    """
    return layered(ConsultSettings, path or (CONFIG if CONFIG.is_file() else None), dict(flags or {}))
