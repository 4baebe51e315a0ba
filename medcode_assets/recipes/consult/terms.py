"""Medical terms of a text, and how many of them two texts share."""

import re
from functools import cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict, field_validator

from medcode_serving.codes.tables import FOLDER
from medcode_serving.linear.text import singular

CHAPTERS = "ABCDEFGHIJKLMNOPQR"
"""First letters of the codes of diseases and symptoms: no injuries, external causes and circumstances."""
TITLES = FOLDER / "icd10cm.parquet"
_TERMS = resources.files(__package__).joinpath("terms.yaml")
_WORD = re.compile(r"[a-z]{4,}")


class TermLists(BaseModel):
    """terms.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    everyday: frozenset[str]
    more: frozenset[str]

    @field_validator("*", mode="before")
    @classmethod
    def _words(cls, written: str) -> frozenset[str]:
        return frozenset(map(singular, written.split()))


def shared_terms(text: str, reference: str) -> float:
    """Return the F1 of the medical terms of two texts, each term counted once; 1 if neither has one."""
    found, wanted = medical_terms(text), medical_terms(reference)
    if not found and not wanted:
        return 1.0
    return 2 * len(found & wanted) / (len(found) + len(wanted))


def medical_terms(text: str) -> set[str]:
    """Return the medical terms of a text, in lower case and in the singular."""
    return {singular(word) for word in _WORD.findall(text.lower())} & known_terms()


@cache
def known_terms() -> frozenset[str]:
    """Return all medical terms: about 5,000, read once in half a second."""
    import pyarrow.parquet as pq

    lists = TermLists.model_validate(yaml.safe_load(_TERMS.read_text(encoding="utf-8")))
    table = pq.read_table(TITLES, columns=["code", "title"])
    titles = zip(table.column("code").to_pylist(), table.column("title").to_pylist(), strict=True)
    words = {word for code, title in titles if title and code[0] in CHAPTERS for word in _WORD.findall(title.lower())}
    return frozenset(map(singular, words)) - lists.everyday | lists.more
