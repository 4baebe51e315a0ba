"""Recipe `reasoning` as the factory takes it: its three stages, its prompt, its partitions."""

import dagster as dg

from medcode_assets.partitions import CORPORA
from medcode_assets.recipes.reasoning.examples import build_examples, data_version
from medcode_assets.recipes.reasoning.prompts import SYSTEM
from medcode_assets.recipes.recipe import Chat, Recipe, Stage
from medcode_serving.prompts import PromptTemplate
from medcode_serving.reasoned import SPECIAL_TOKENS

STAGES = (
    Stage(1, "sft", Chat(SYSTEM[1], "line"), learns="narrative to code"),
    Stage(2, "sft", Chat(SYSTEM[2], "reasoned"), learns="narrative to reasoning and code"),
    Stage(3, "dpo", Chat(SYSTEM[3], "reasoned"), learns="to prefer accurate, concise reasoning"),
)

REASONING = Recipe(
    name="reasoning",
    learns="clinical narratives to reasoning and one ICD-10, CPT or HCPCS code",
    prompt=PromptTemplate(answer="reasoned"),
    partitions=CORPORA,
    sources=[dg.AssetKey(["reasoning", "corpus"])],
    build_examples=build_examples,
    data_version=data_version,
    chat=STAGES[-1].chat,
    added_tokens=SPECIAL_TOKENS,
    stages=STAGES,
)
