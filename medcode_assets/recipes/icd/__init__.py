"""Recipe `icd`, the main job: a discharge summary to its ICD codes, from MIMIC-III or MIMIC-IV."""

from medcode_assets.recipes.icd.examples import build_examples
from medcode_assets.recipes.recipe import Recipe
from medcode_serving.prompts import PromptTemplate

ICD = Recipe(name="icd", prompt=PromptTemplate(), build_examples=build_examples)
