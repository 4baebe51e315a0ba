"""Recipe `medqa` as the factory takes it: exam questions to their right options."""

import dagster as dg

from medcode_assets.partitions import QUESTIONS
from medcode_assets.recipes.medqa.scoring import HEADLINE, MEASURES, score
from medcode_assets.recipes.recipe import Chat, Recipe, Words
from medcode_assets.recipes.words.questions import word_data_version, word_examples
from medcode_serving.prompts import PromptTemplate

NAME = "medqa"
SYSTEM = "Answer the exam question with the right option, or in one sentence."
"""Short: every question carries it, in training and when it is served."""

MEDQA = Recipe(
    name=NAME,
    learns="medical exam questions, multiple-choice and open, to their answers",
    prompt=PromptTemplate(answer="words"),
    partitions=QUESTIONS,
    sources=[dg.AssetKey([NAME, "source"])],
    build_examples=word_examples(NAME),
    data_version=word_data_version(NAME),
    chat=Chat(SYSTEM, "words"),
    words=Words(score, MEASURES, HEADLINE, form="readable"),
)
