"""What a recipe says: where its examples come from and how its prompt looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dagster import AssetKey, PartitionsDefinition

from medcode_assets.config import DataSettings
from medcode_assets.warehouse import Built
from medcode_serving.prompts import PromptTemplate

if TYPE_CHECKING:
    import duckdb


class BuildExamples(Protocol):
    """Makes a recipe's tables, in the schema of its name.

    - `labels`: label (0-based), system, code, text, description, frequency; those of frequency > 0 come first.
    - `examples`: example_id, subject_id, split, gold (labels), answer (texts that training teaches).
    - view `notes`: example_id, note.
    - view `dictionary`: system, code, description of every code that may be asked for, in training or not.
    """

    def __call__(self, con: "duckdb.DuckDBPyConnection", settings: DataSettings, rebuild: bool = False) -> Built:
        """Make them, unless nothing changed; return how `examples` was made."""
        ...


@dataclass(frozen=True)
class Recipe:
    """One thing to learn; `recipes.factory` gives it its chain of assets."""

    name: str
    prompt: PromptTemplate
    partitions: PartitionsDefinition
    sources: Sequence[AssetKey]
    """Assets that the examples are made from."""
    build_examples: BuildExamples
