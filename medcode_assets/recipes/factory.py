"""The chain of assets that every recipe gets: examples, base_model, tokens, adapter, evaluation, bundle, gguf.

Beside the adapter stand the baselines that it is measured with, behind the evaluation its errors and the report, and
apart from all the search for better settings.
"""

import dagster as dg

from medcode_assets.config import Settings
from medcode_assets.recipes.data_assets import base_model_asset, examples_asset, tokens_asset
from medcode_assets.recipes.evaluation_assets import (
    errors_asset,
    evaluation_asset,
    frequency_prior_asset,
    linear_asset,
    report_asset,
    untuned_base_asset,
)
from medcode_assets.recipes.export_asset import gguf_asset
from medcode_assets.recipes.model_assets import adapter_asset, bundle_asset
from medcode_assets.recipes.recipe import Recipe
from medcode_assets.recipes.search_asset import search_asset
from medcode_assets.recipes.words.assets import (
    word_bundle_asset,
    word_evaluation_asset,
    word_examples_asset,
    word_untuned_base_asset,
)

COMMON = (
    examples_asset,
    base_model_asset,
    tokens_asset,
    frequency_prior_asset,
    linear_asset,
    untuned_base_asset,
    evaluation_asset,
    errors_asset,
    report_asset,
    bundle_asset,
    gguf_asset,
)
"""Of every recipe; one of several stages brings its own adapter."""
ONE_STAGE = (adapter_asset, search_asset)
IN_WORDS = (
    word_examples_asset,
    base_model_asset,
    tokens_asset,
    word_untuned_base_asset,
    adapter_asset,
    search_asset,
    word_evaluation_asset,
    word_bundle_asset,
    gguf_asset,
)
"""Of a recipe that answers in words: no codes, and so no linear model, no prior, no calibration."""


def recipe_assets(recipe: Recipe, settings: Settings) -> list[dg.AssetsDefinition]:
    """Return a recipe's assets; the settings are the launchpad's defaults."""
    if recipe.words is not None:
        return [make(recipe, settings) for make in IN_WORDS]
    return [make(recipe, settings) for make in (COMMON if recipe.stages else (*COMMON, *ONE_STAGE))]
