"""Section `reasoning` of config/reasoning-stage-{1,2,3}.yaml: what a stage's examples are made of."""

from typing import Literal, Self

from pydantic import Field, model_validator

from medcode_assets.config import Section, Settings


class ReasoningSettings(Section):
    """Where a stage's examples come from, and which of them it takes."""

    stage: Literal[1, 2, 3] = Field(default=1, description="1: code; 2: reasoning and code; 3: preferences (DPO).")
    sources: dict[str, float] = Field(
        default={"synthetic": 1.0},
        min_length=1,
        description="Weight of each source in the mix: `synthetic` (made from templates), `mimic:<version>` (principal "
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
            if weight <= 0:
                raise ValueError(f"sources: the weight of {source!r} is {weight}; give one above 0 or leave it out")
        return self


class StageSettings(Settings):
    """All settings of one stage."""

    reasoning: ReasoningSettings = ReasoningSettings()
