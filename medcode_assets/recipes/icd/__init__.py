"""Recipe `icd`, the main job: a discharge summary to its ICD codes, from MIMIC-III or MIMIC-IV."""

from dagster import AssetKey

from medcode_assets.mimic.data_version import data_version
from medcode_assets.partitions import MIMIC_VERSIONS
from medcode_assets.recipes.icd.examples import build_examples
from medcode_assets.recipes.recipe import Recipe
from medcode_serving.prompts import PromptTemplate

ICD = Recipe(
    name="icd",
    learns="discharge summaries to ICD codes",
    prompt=PromptTemplate(),
    partitions=MIMIC_VERSIONS,
    sources=[AssetKey(["mimic", "splits"])],
    build_examples=build_examples,
    data_version=data_version,
)
