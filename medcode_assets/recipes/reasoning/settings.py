"""Section `reasoning` of config/reasoning-stage-{1,2,3}.yaml: what a stage's examples are made of."""

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from medcode_assets.config import PROJECT, Settings, WarehouseSettings
from medcode_assets.recipes.reasoning.prompts import SYSTEM
from medcode_assets.training.settings import ComputeSettings
from medcode_serving.errors import MedcodeError
from medcode_serving.layers import Section, layered

STAGES = tuple(SYSTEM)
CONFIG = PROJECT / "config"
SHARED = (
    *(("model", "base"), ("model", "revision"), ("data", "max_prompt_tokens"), ("lora", "r"), ("lora", "alpha")),
    *(("compute", field) for field in ComputeSettings.model_fields),
    *(("warehouse", field) for field in WarehouseSettings.model_fields),
)
"""Settings that the stages must agree on: each adapter goes on from the one before, on the same machine."""


class ReasoningSettings(Section):
    """Where a stage's examples come from, and which of them it takes."""

    stage: int = Field(default=1, ge=1, le=3, description="1: code; 2: reasoning and code; 3: preferences (DPO).")
    sources: dict[str, float] = Field(
        default={"synthetic": 1.0},
        min_length=1,
        description="Weight of each source in the mix: `synthetic` (made from templates; `synthetic:brief`: "
        "short and few codes, for demos), `mimic:<version>` (principal "
        "diagnoses of a registered MIMIC version, stage 1 only), or a JSONL file of the stage's format.",
    )
    examples: int = Field(default=50_000, ge=10, description="Examples of all splits together.")
    seed: int = Field(default=0, ge=0, description="Of the templates, the mix and the splits.")
    top_icd10: int = Field(default=500, ge=0, description="ICD-10-CM codes in scope, by training frequency.")
    top_cpt: int = Field(default=200, ge=0, description="CPT codes in scope.")
    top_hcpcs: int = Field(default=100, ge=0, description="HCPCS Level II codes in scope.")
    validation_share: float = Field(default=0.1, gt=0, lt=0.5, description="Share of the validation split.")
    test_share: float = Field(default=0.1, gt=0, lt=0.5, description="Share of the test split.")
    near_duplicate: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Narratives that share this much (Jaccard, five-word shingles) are one.",
    )
    max_reasoning_words: int = Field(default=120, ge=5, description="Longer reasoning is refused.")
    cpt_descriptions: str | None = Field(
        default=None, description="CSV with the columns code and description, of a licensee of the AMA; none: no texts."
    )

    @model_validator(mode="after")
    def _weights_count(self) -> Self:
        for source, weight in self.sources.items():
            if not 0 < weight < inf:
                raise ValueError(f"sources: the weight of {source!r} is {weight}; give one above 0 or leave it out")
        return self


class StageSettings(Settings):
    """All settings of one stage."""

    reasoning: ReasoningSettings = ReasoningSettings()


CONFIG_FILE = "reasoning-stage-{stage}.yaml"
"""Name of a stage's settings file."""


def load_stage_settings(folder: Path | None = None, flags: Mapping[str, Any] | None = None) -> dict[int, StageSettings]:
    """Return the settings of all stages from a folder of settings files, overridden by environment and flags.

    Args:
        folder: Of `reasoning-stage-{1,2,3}.yaml`; none: the checkout's config/, or the defaults without one.
        flags: Values by dotted name: `lora.r` for all stages, `stage_2.lora.r` for one.

    Raises:
        MedcodeError: a file is missing or wrong, names another stage, or the stages differ in what they must share.
    """
    folder = folder or (CONFIG if CONFIG.is_dir() else None)
    for name in flags or {}:
        if name.startswith("stage_") and not any(is_for(name, stage) for stage in STAGES):
            raise MedcodeError(f"--set {name}: there is no such stage; choose one of {', '.join(map(str, STAGES))}")
    found = {stage: _load_stage(stage, folder, dict(flags or {})) for stage in STAGES}
    for section, field in SHARED:
        values = {stage: getattr(getattr(settings, section), field) for stage, settings in found.items()}
        if len(set(map(str, values.values()))) > 1:
            shown = ", ".join(f"stage {stage} {value}" for stage, value in values.items())
            raise MedcodeError(f"{section}.{field} differs ({shown}): give all stages of recipe reasoning the same")
    return found


def _load_stage(stage: int, folder: Path | None, flags: dict[str, Any]) -> StageSettings:
    own = {name.removeprefix(f"stage_{stage}."): value for name, value in flags.items() if is_for(name, stage)}
    file = folder / CONFIG_FILE.format(stage=stage) if folder else None
    settings = layered(StageSettings, file, own if file else {"reasoning.stage": stage, **own})
    if settings.reasoning.stage != stage:
        raise MedcodeError(f"{file}: reasoning.stage is {settings.reasoning.stage}; the file's name says {stage}")
    return settings


def is_for(name: str, stage: int) -> bool:
    """Whether a flag of this name counts for a stage."""
    return name.startswith(f"stage_{stage}.") or not name.startswith("stage_")
