"""The recipes that answer in words, with what each brings beside the factory's chain."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import dagster as dg
from pydantic import BaseModel

from medcode_assets.config import Settings
from medcode_assets.recipes.consult import assets as consult
from medcode_assets.recipes.consult.recipe import CONSULT
from medcode_assets.recipes.consult.settings import load_consult_settings
from medcode_assets.recipes.medqa import assets as medqa
from medcode_assets.recipes.medqa.recipe import MEDQA
from medcode_assets.recipes.medqa.settings import load_medqa_settings
from medcode_assets.recipes.recipe import Recipe
from medcode_assets.recipes.specialty import assets as specialty
from medcode_assets.recipes.specialty.recipe import SPECIALTY
from medcode_assets.recipes.specialty.settings import load_specialty_settings


class LoadSettings(Protocol):
    """Reads a recipe's settings."""

    def __call__(self, path: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
        """Return those of a file, overridden by environment and flags; none: config/<recipe>.yaml of the checkout."""
        ...


@dataclass(frozen=True)
class WordSystem:
    """One recipe that answers in words."""

    recipe: Recipe
    load_settings: LoadSettings
    own_assets: Callable[[Any], list[dg.AssetsDefinition]]
    """Of its settings: its sources, and what follows its evaluation."""
    own_sections: Callable[[Any], dict[dg.AssetKey, dict[str, BaseModel]]]
    """Of its settings: the sections that each of its own assets reads."""


WORD_SYSTEMS = {
    system.recipe.name: system
    for system in (
        WordSystem(CONSULT, load_consult_settings, consult.own_assets, consult.own_sections),
        WordSystem(MEDQA, load_medqa_settings, medqa.own_assets, medqa.own_sections),
        WordSystem(SPECIALTY, load_specialty_settings, specialty.own_assets, specialty.own_sections),
    )
}
