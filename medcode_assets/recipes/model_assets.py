"""Dagster assets of a recipe from its tokens on: adapter, evaluation, bundle, gguf."""

import dagster as dg

from medcode_assets.artifacts import made, making, required
from medcode_assets.config import (
    DataSettings,
    EvaluationSettings,
    ExportSettings,
    LoggingSettings,
    LoraSettings,
    Settings,
    TrainingSettings,
)
from medcode_assets.evaluation.report import EvaluationReport
from medcode_assets.launchpad import launch_config, read
from medcode_assets.metadata import markdown_table, picture
from medcode_assets.recipes.bundling import bundle_version, compose_bundle
from medcode_assets.recipes.evaluating import evaluate_adapter
from medcode_assets.recipes.exporting import export_gguf
from medcode_assets.recipes.fitting import adapter_fingerprint, fit_adapter
from medcode_assets.recipes.recipe import Recipe
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse

COMPUTE = "compute"
"""Pool of the assets that fill a device: one at a time, also over the partitions of a backfill."""
