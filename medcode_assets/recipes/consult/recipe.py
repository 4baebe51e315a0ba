"""Recipe `consult` as the factory takes it."""

import dagster as dg

from medcode_assets.partitions import CONVERSATIONS
from medcode_assets.recipes.consult.scoring import HEADLINE, MEASURES, RULES, score
from medcode_assets.recipes.recipe import Chat, Recipe, Words
from medcode_assets.recipes.words.questions import word_data_version, word_examples
from medcode_serving.prompts import PromptTemplate

NAME = "consult"
SYSTEM = "Answer the patient's question in one sentence, then give key points, each with its details, as a list."
"""The system message: the one place for training, evaluation and serving."""

CONSULT = Recipe(
    name=NAME,
    learns="patients' questions to answers as hierarchical lists",
    prompt=PromptTemplate(answer="words"),
    partitions=CONVERSATIONS,
    sources=[dg.AssetKey([NAME, "converted"])],
    build_examples=word_examples(NAME),
    data_version=word_data_version(NAME),
    chat=Chat(SYSTEM, "words"),
    words=Words(score=score, measures=MEASURES, headline=HEADLINE, rules=RULES, form=HEADLINE),
)
