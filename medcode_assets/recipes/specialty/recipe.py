"""Recipe `specialty` as the factory takes it: its prompt, its partitions, its measures."""

import dagster as dg

from medcode_assets.partitions import ITERATIONS
from medcode_assets.recipes.recipe import Chat, Recipe
from medcode_assets.recipes.specialty.scoring import WORDS
from medcode_assets.recipes.words.questions import word_data_version, word_examples
from medcode_serving.prompts import PromptTemplate

NAME = "specialty"
SYSTEM = "Answer the medical question briefly."
"""The system message, in training, evaluation and serving."""

SPECIALTY = Recipe(
    name=NAME,
    learns="questions of medical specialties, the weak ones with more samples in each iteration",
    prompt=PromptTemplate(answer="words"),
    partitions=ITERATIONS,
    sources=[dg.AssetKey([NAME, "samples"])],
    build_examples=word_examples(NAME),
    data_version=word_data_version(NAME),
    chat=Chat(SYSTEM, "words"),
    words=WORDS,
)
