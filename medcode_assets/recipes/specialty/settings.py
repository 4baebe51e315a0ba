"""Section `specialty` of config/specialty.yaml: where questions come from, how they are drawn, who gets more."""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from medcode_assets.config import PROJECT, ModelSettings, Settings
from medcode_assets.training.settings import LoraSettings, TrainingSettings
from medcode_serving.layers import Section, layered

CONFIG = PROJECT / "config" / "specialty.yaml"
SAMPLING = ("holdout", "train_share", "eval_share", "seed")
"""What iteration 1 settles for all that follow."""
MOST = 1000.0
"""Factor by which training samples grow in one iteration."""
MEASURES = (
    "exact_match",
    "token_f1",
    "bleu_1",
    "bleu_2",
    "bleu_3",
    "bleu_4",
    "rouge_1",
    "rouge_2",
    "rouge_l",
    "meteor",
    "meteor_exact_stem",
)
"""What a specialty may be found weak by; each in [0, 1]."""


class SpecialtySection(Section):
    """Where questions come from, how they are drawn, and which specialties get more of them."""

    source: str | None = Field(
        default=None,
        description="Folder of dataset_with_answers_{specialty}.json files, or `synthetic`; none: where this "
        "iteration or the one before had them from.",
    )
    synthetic_per_specialty: int = Field(
        default=120, ge=20, description="Questions of each specialty, if source is `synthetic`."
    )
    holdout: int = Field(default=10, ge=1, description="Questions of each specialty that only ever measure.")
    train_share: float = Field(
        default=0.5, gt=0, le=1, description="Share of the rest that iteration 1 takes, for train and eval; else: pool."
    )
    eval_share: float = Field(default=0.2, gt=0, lt=1, description="Share of these that becomes eval, and stays it.")
    seed: int = Field(default=0, ge=0, description="Of the order in which questions are drawn.")
    adjustments: dict[str, float] = Field(
        default={},
        description="Factor by which a specialty's training samples grow in this iteration, as {cardiology: 1.5}; "
        "wins over what the iteration before recommends; 1: no more; empty: those that it was drawn with, if it was.",
    )
    measure: str = Field(
        default="token_f1", description=f"By which specialties are found weak, of {', '.join(MEASURES)}."
    )
    below_mean: float = Field(
        default=0.9, ge=0, description="A specialty below this times the mean of all specialties is weak; 0: unused."
    )
    below: float = Field(default=0.0, ge=0, le=1, description="A specialty below this is weak; 0: unused.")
    increase: float = Field(
        default=1.5, gt=1, le=MOST, description="Factor recommended for a weak specialty, as far as its pool reaches."
    )
    bertscore_model: str | None = Field(
        default="FacebookAI/roberta-large",
        description="Encoder of BERTScore, a local folder or a hub id; where it is not to be had, BERTScore is left "
        "out, and the results say why; none: it is left out.",
    )
    bertscore_layer: int | None = Field(
        default=None, ge=1, description="Its layer; none: bert-score's own choice, of encoders that it knows."
    )

    @model_validator(mode="after")
    def _can_be_meant(self) -> Self:
        for specialty, factor in self.adjustments.items():
            if not 1 <= factor <= MOST:
                raise ValueError(f"adjustments: {specialty}: {factor}; samples are only added: give 1 to {MOST:g}")
        if not isfinite(self.below_mean):
            raise ValueError("below_mean must be finite")
        if self.measure not in MEASURES:
            raise ValueError(f"unknown measure {self.measure!r}; choose from {', '.join(MEASURES)}")
        return self


class SpecialtySettings(Settings):
    """All settings of the recipe."""

    model: ModelSettings = ModelSettings(base="dmis-lab/llama-3-meerkat-8b-v1.0")
    lora: LoraSettings = LoraSettings(r=8, alpha=16, target_modules=["q_proj", "v_proj"])
    training: TrainingSettings = TrainingSettings(mode="qlora")
    specialty: SpecialtySection = SpecialtySection()


def load_specialty_settings(path: Path | None = None, flags: Mapping[str, Any] | None = None) -> SpecialtySettings:
    """Return the recipe's settings from a file, overridden by environment and flags.

    Args:
        path: The YAML file; none: config/specialty.yaml of the checkout, or the defaults without one.
        flags: Values by dotted name, as `{"lora.r": 16}`.

    Raises:
        MedcodeError: the file is missing or wrong, or a setting is unknown or out of bounds.
    """
    return layered(SpecialtySettings, path or (CONFIG if CONFIG.exists() else None), dict(flags or {}))
