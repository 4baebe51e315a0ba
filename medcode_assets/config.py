"""training-config.yaml as pydantic models: every setting of the asset side, its default and what it means.

Sources in rising priority: the defaults below, the YAML file, the environment
(``MEDCODE_TRAIN_<SECTION>__<FIELD>``, e.g. ``MEDCODE_TRAIN_LORA__R=16``), flags of the command line.
The Dagster launchpad shows the same fields (`medcode_assets.launchpad`). Sections about training are in
`medcode_assets.training.settings`.
"""

import os
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from medcode_assets.export.quantizations import QUANTIZATIONS
from medcode_assets.training.settings import (
    ComputeSettings,
    LoraSettings,
    PreferenceSettings,
    SearchSettings,
    TrainingSettings,
)
from medcode_serving.errors import MedcodeError
from medcode_serving.layers import Section, layered

PROJECT = Path(__file__).resolve().parent.parent
DEFAULT_CONFIG = PROJECT / "config" / "training-config.yaml"
ENVIRONMENT_PREFIX = "MEDCODE_TRAIN_"

ICD_SYSTEMS = ("icd9cm", "icd9pcs", "icd10cm", "icd10pcs")
SYSTEMS = (*ICD_SYSTEMS, "hcpcs", "cpt")
"""CPT and HCPCS are read too, and are no targets by default: MIMIC has them for few admissions."""


class ModelSettings(Section):
    """Which base model is fine-tuned."""

    base: str = Field(
        default="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        description="A Hugging Face id, a local folder, or `embedded` for the small model that medcode ships.",
    )
    revision: str | None = Field(default=None, description="Hub branch, tag or commit; none: the default branch.")


class DataSettings(Section):
    """What is read, asked for and tokenized."""

    num_patients: int = Field(
        default=0, ge=0, description="Patients at most, those with a discharge note first; 0: all."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the patient sample and of the splits.")
    split_method: Literal["random", "stratified", "file"] = Field(
        default="random",
        description="How patients come to train, validation and test: random, 80/10/10; stratified: the same shares of "
        "the carriers of every rare code; file: as `split_file` says.",
    )
    split_file: str | None = Field(
        default=None,
        description="Published splits: a CSV, TSV, parquet or feather file with a column split and one of subject_id, "
        "hadm_id, note_id or _id, or CAML's folder of *_hadm_ids.csv. Admissions that it does not name are left out.",
    )
    systems: list[str] = Field(
        default=list(ICD_SYSTEMS),
        min_length=1,
        description=f"Code systems to predict, of {', '.join(SYSTEMS)}.",
    )
    min_frequency: int = Field(
        default=0,
        ge=0,
        description="Codes in fewer admissions leave the task, in the gold too; 0: all stay, unseen ones "
        "included. The literature uses 10.",
    )
    frequency_over: Literal["train", "all"] = Field(
        default="train",
        description="Where min_frequency and top_codes count: train, or all splits as the literature does, "
        "which tells training a little of the test.",
    )
    top_codes: int = Field(default=0, ge=0, description="Only the N most frequent codes; 0: all.")
    max_prompt_tokens: int = Field(
        default=4096, ge=64, description="Longer notes are shortened, least telling sections first, and counted."
    )

    @field_validator("systems")
    @classmethod
    def _known(cls, systems: list[str]) -> list[str]:
        # Not a Literal: Dagster's launchpad knows no list of those.
        for system in systems:
            if system not in SYSTEMS:
                raise ValueError(f"unknown code system {system!r}; choose from {', '.join(SYSTEMS)}")
        return systems

    @model_validator(mode="after")
    def _split_file_belongs_to_its_method(self) -> Self:
        if (self.split_method == "file") != (self.split_file is not None):
            raise ValueError("split_method: file and split_file go together; give both or neither")
        return self


class WarehouseSettings(Section):
    """How DuckDB works on a MIMIC version's file."""

    memory_limit: str = Field(
        default="1GB",
        pattern=r"^\d+(\.\d+)?\s*[KMGT]i?B$",
        description="Memory for tables and queries; what needs more goes through the temp folder.",
    )
    threads: int = Field(default=0, ge=0, description="Threads; 0: one a core.")
    temp_folder: str | None = Field(
        default=None, description="Folder for what does not fit into memory; none: beside the warehouse."
    )
    wait_minutes: float = Field(
        default=60.0, ge=0, description="How long to wait for another process that uses the same version."
    )


class AutomationSettings(Section):
    """What happens by itself when a new MIMIC release appears."""

    watch_folder: str | None = Field(
        default=None, description="Folder into which new releases are downloaded; none: nothing is watched."
    )
    watch_seconds: int = Field(
        default=300, ge=5, description="Between two looks at it; a release is complete once two looks agree."
    )
    retrain: bool = Field(
        default=False, description="A new release is trained on, evaluated and published; else it is only tokenized."
    )
    cron_schedule: str = Field(
        default="0 3 * * 0",
        pattern=r"^(\S+\s+){4}\S+$|^@(hourly|daily|weekly|monthly)$",
        description="When versions that are missing or whose files changed are requested again.",
    )


class EvaluationSettings(Section):
    """How much is evaluated, and how fast."""

    batch_size: int = Field(default=16, ge=1, description="Notes that are decoded together.")
    max_documents: int = Field(default=0, ge=0, description="Documents a split, the same each time; 0: all.")
    untuned_base: bool = Field(default=True, description="Also evaluate the base model without the adapter.")
    calibration: Literal["auto", "temperature", "isotonic", "none"] = Field(
        default="auto",
        description="How probabilities are calibrated on validation; auto: isotonic where there are enough codes.",
    )
    resamples: int = Field(default=1000, ge=100, le=100_000, description="Bootstrap samples behind each interval.")


GATES = {
    "outputs_parse": "What the adapter writes is codes.",
    "not_collapsed": "Metrics are finite and the adapter does not give every document the same codes.",
    "above_frequency_prior": "Test micro F1 above the frequency prior.",
    "above_untuned_base": "Test micro F1 above the untuned base.",
    "no_regression": "Not significantly below the served adapter on the same test split (paired bootstrap).",
}
"""What a bundle must pass before LATEST names it (medcode_assets/evaluation/gates.py)."""
WORD_GATES = {
    "not_collapsed": "Answers have words, differ between questions, and are likely to end.",
    "readable": "What is written has the form that the recipe asks for (medqa: it chooses an option; consult: it is a "
    "valid list), often enough and not surely less often than the untuned base's.",
    "above_untuned_base": "Surely above the untuned base by the recipe's headline measure, on the same questions.",
    "no_regression": "Not below the served adapter by the headline measure, on the same test questions.",
}
"""The same of a bundle that answers in words (medcode_assets/recipes/words/gates.py)."""


class GateSettings(Section):
    """What decides whether a bundle is published."""

    relax: list[str] = Field(
        default=[],
        description=f"Gates that may fail and be published all the same, of {', '.join(GATES)}; of recipes in words: "
        f"{', '.join(WORD_GATES)}.",
    )
    most_dropped: float = Field(
        default=0.05, ge=0, le=1, description="outputs_parse: fragments that are no code, of all that was answered."
    )
    least_readable: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="readable, of recipes in words: share of the written answers that must have the recipe's form.",
    )

    @field_validator("relax")
    @classmethod
    def _known(cls, relax: list[str]) -> list[str]:
        for gate in relax:
            if gate not in {**GATES, **WORD_GATES}:
                raise ValueError(f"unknown gate {gate!r}; choose from {', '.join({**GATES, **WORD_GATES})}")
        return relax


class ExportSettings(Section):
    """Which GGUF files are made, and how each is held against the model."""

    quantizations: list[str] = Field(
        default=["f16", "q8_0", "q4_k_m"],
        min_length=1,
        description=f"Number formats of the GGUF files, of {', '.join(QUANTIZATIONS)}.",
    )
    prompts: int = Field(
        default=10,
        ge=3,  # the positions of one are too few to tell how often the likeliest token is the same
        description="Validation notes whose next-token distributions and greedy answers are compared.",
    )
    f1_notes: int = Field(
        default=100,
        ge=0,
        description="Validation notes on which file and model are scored; 0: micro F1 is not measured.",
    )
    most_f1_lost: float = Field(
        default=0.03, ge=0, le=1, description="Micro F1 that a file may lose against the model and still be delivered."
    )

    @field_validator("quantizations")
    @classmethod
    def _known(cls, quantizations: list[str]) -> list[str]:
        # Not a Literal: Dagster's launchpad knows no list of those.
        for name in quantizations:
            if name not in QUANTIZATIONS:
                raise ValueError(f"unknown quantization {name!r}; choose from {', '.join(QUANTIZATIONS)}")
        if len(set(quantizations)) < len(quantizations):
            raise ValueError("a quantization is named twice")
        return quantizations


class LoggingSettings(Section):
    """Where training reports to."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="WARNING", description="Least level shown.")
    steps: int = Field(default=10, ge=1, description="Training steps between two logged losses.")
    mlflow_uri: str | None = Field(
        default=None, description="MLflow tracking server; none: a sqlite file below MEDCODE_HOME."
    )


class Settings(BaseSettings):
    """All settings of the asset side, in the sections of training-config.yaml."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        env_parse_none_str="null",
        extra="forbid",
        frozen=True,
    )

    model: ModelSettings = ModelSettings()
    compute: ComputeSettings = ComputeSettings()
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    preference: PreferenceSettings = PreferenceSettings()
    search: SearchSettings = SearchSettings()
    data: DataSettings = DataSettings()
    warehouse: WarehouseSettings = WarehouseSettings()
    automation: AutomationSettings = AutomationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    gates: GateSettings = GateSettings()
    export: ExportSettings = ExportSettings()
    logging: LoggingSettings = LoggingSettings()


def load_settings(path: Path | None = None, flags: dict[str, Any] | None = None) -> Settings:
    """Return the settings of a YAML file, overridden by the environment and then by flags.

    Args:
        path: The YAML file; none: MEDCODE_CONFIG, or config/training-config.yaml of the checkout if it is there.
        flags: Values by dotted name, e.g. `{"lora.r": 16}`.

    Raises:
        MedcodeError: the file is missing or no YAML mapping, or a setting is unknown or out of bounds.
    """
    path = path or (Path(os.environ["MEDCODE_CONFIG"]) if "MEDCODE_CONFIG" in os.environ else None)
    if path is None and DEFAULT_CONFIG.exists():
        path = DEFAULT_CONFIG
    return layered(Settings, path, flags or {})


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Turn `["lora.r=16"]` into `{"lora.r": 16}`; values are YAML. Raises MedcodeError on anything else."""
    flags = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or "." not in name:
            raise MedcodeError(f"--set {assignment}: expected section.field=value, e.g. --set lora.r=16")
        try:
            flags[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise MedcodeError(f"--set {assignment}: the value is not YAML") from None
    return flags
