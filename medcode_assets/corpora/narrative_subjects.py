"""What a synthetic narrative can be coded as: its code, its names, what is said of it. The data are YAML files."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from medcode_assets.corpora.synthetic_notes import Concept, load_concepts
from medcode_assets.recipes.reasoning.support import content_words
from medcode_serving.errors import MedcodeError

CONDITIONS_FILE = Path(__file__).with_name("narrative_conditions.yaml")
SERVICES_FILE = Path(__file__).with_name("narrative_services.yaml")
TEMPLATES_FILE = Path(__file__).with_name("narratives.yaml")


@dataclass(frozen=True)
class Sibling:
    """A real code that a careless coder would take instead; CPT has no title."""

    code: str
    title: str | None


@dataclass(frozen=True)
class Subject:
    """One thing to be coded. Phrases hold numbers to be drawn: `<88-93>`, `<5|10>`."""

    system: Literal["icd10cm", "hcpcs", "cpt"]
    kind: Literal["condition", "equipment", "drug", "service"]
    code: str
    title: str | None
    """Official title; None for CPT, whose texts are not ours to ship."""
    names: tuple[str, ...]
    complaints: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    """ICD-10-CM codes of the conditions that an order is made for."""
    siblings: tuple[Sibling, ...] = ()
    sex: Literal["M", "F"] | None = None
    ages: tuple[int, int] | None = None


@cache
def load_subjects() -> dict[str, tuple[Subject, ...]]:
    """The subjects by system, each system's by falling frequency."""
    conditions, services = _read(CONDITIONS_FILE), _read(SERVICES_FILE)
    entries = {"icd10cm": conditions["subjects"], "hcpcs": services["hcpcs"], "cpt": services["cpt"]}
    titles: dict[str, str | None] = {concept.icd10: concept.icd10_title for concept in load_concepts()}
    titles |= {entry["code"]: entry["title"] for group in entries.values() for entry in group if "title" in entry}
    titles |= {entry["code"]: None for entry in entries["cpt"]} | conditions["titles"] | services["titles"]
    return {system: tuple(_subjects(system, group, titles)) for system, group in entries.items()}


@cache
def load_bystanders() -> dict[str, Subject]:
    """All conditions that a narrative may name without coding them, by code."""
    others = {concept.icd10: _bystander(concept) for concept in load_concepts() if concept.kind == "diagnosis"}
    return others | {subject.code: subject for subject in load_subjects()["icd10cm"]}


@cache
def load_narrative_templates(style: str) -> dict[str, Any]:
    """The sentences of `narratives.yaml` with the settings of a style.

    Raises:
        MedcodeError: there is no such style.
    """
    templates = _read(TEMPLATES_FILE)
    styles: dict[str, dict[str, Any]] = templates.pop("styles")
    if style not in styles:
        raise MedcodeError(f"narratives of style {style!r} are unknown; choose one of {', '.join(styles)}")
    return templates | styles[style]


def _read(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return document


def _subjects(system: Any, group: list[dict[str, Any]], titles: dict[str, str | None]) -> Iterator[Subject]:
    known = {concept.icd10: concept for concept in load_concepts()}
    phrases = ("complaints", "findings", "excluded", "plans", "reasons")
    for entry in group:
        code = entry["code"]
        yield Subject(
            system=system,
            kind=entry.get("kind", "condition"),
            code=code,
            title=titles[code],
            # A name of two letters is no word of a narrative's: reasoning that ends in it would support nothing.
            names=tuple(filter(content_words, entry["names"] if "names" in entry else known[code].mentions)),
            # Siblings in CPT have no title anywhere; elsewhere a missing one is a mistake in the data.
            siblings=tuple(Sibling(other, None if system == "cpt" else titles[other]) for other in entry["siblings"]),
            sex=entry.get("sex"),
            ages=tuple(entry["ages"]) if "ages" in entry else None,
            **{name: tuple(entry.get(name, ())) for name in phrases},
        )


def _bystander(concept: Concept) -> Subject:
    return Subject("icd10cm", "condition", concept.icd10, concept.icd10_title, concept.mentions, sex=concept.gender)
