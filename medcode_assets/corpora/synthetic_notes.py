"""Synthetic discharge summaries with known codes, for `make demo`, tests and the embedded base model.

The notes are short and made from templates, but they carry the difficulties of the real task in small: a
condition has many names, denied and excluded conditions and the relatives' diseases must not be coded, and a
condition mentioned twice is coded once. What is clinical is data: `concepts.yaml` and `note_templates.yaml`.
No real patient text is involved.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

HERE = Path(__file__).parent
CONCEPTS_FILE = HERE / "concepts.yaml"
NOTE_TEMPLATES_FILE = HERE / "note_templates.yaml"

# How many of each a note has, with weights. A lone diagnosis comes with a procedure: 2 to 7 codes a note.
DIAGNOSIS_COUNTS = ((1, 2, 3, 4, 5), (8, 26, 32, 21, 13))
PROCEDURE_COUNTS = ((0, 1, 2), (50, 35, 15))
NEGATED_COUNTS = ((0, 1, 2), (25, 45, 30))
FAMILY_COUNTS = ((0, 1, 2), (40, 42, 18))
NOT_PERFORMED_CHANCE = 0.15
MENTIONED_AGAIN_CHANCE = 0.15

# Added to a concept's rank r in its weight 1 / (r + offset): Zipf's tail, and a head that leaves room for it.
CODED_OFFSET = 3.0
DISTRACTOR_OFFSET = 12.0


@dataclass(frozen=True)
class Concept:
    """A condition or procedure: codes (dotted as printed, PCS without), official titles and names in use."""

    kind: Literal["diagnosis", "procedure"]
    icd10: str
    icd9: str
    icd10_title: str
    icd9_title: str
    icd9_short_title: str
    mentions: tuple[str, ...]
    distractor: frozenset[str] = frozenset()
    gender: Literal["M", "F"] | None = None


@dataclass(frozen=True)
class SyntheticNote:
    """One note and its truth.

    `diagnoses` and `procedures` are in order of first mention, all diagnoses before all procedures.
    `distractors` are mentioned but not coded: denied, excluded, deferred, or a relative's.
    """

    text: str
    diagnoses: tuple[Concept, ...]
    procedures: tuple[Concept, ...]
    distractors: tuple[Concept, ...]
    gender: Literal["M", "F"]
    age: int


@cache
def load_concepts() -> tuple[Concept, ...]:
    """The concepts of `concepts.yaml`, diagnoses first, each kind by falling frequency."""
    document = yaml.safe_load(CONCEPTS_FILE.read_text(encoding="utf-8"))
    sections: tuple[tuple[Literal["diagnosis", "procedure"], str], ...]
    sections = (("diagnosis", "diagnoses"), ("procedure", "procedures"))
    return tuple(
        Concept(
            kind=kind,
            icd10=entry["icd10"]["code"],
            icd9=entry["icd9"]["code"],
            icd10_title=entry["icd10"]["title"],
            icd9_title=entry["icd9"]["title"],
            icd9_short_title=entry["icd9"]["short_title"],
            mentions=tuple(entry["mentions"]),
            distractor=frozenset(entry.get("distractor", ())),
            gender=entry.get("gender"),
        )
        for kind, section in sections
        for entry in document[section]
    )


@cache
def load_note_templates() -> dict[str, Any]:
    """The sections and sentences of `note_templates.yaml`."""
    templates: dict[str, Any] = yaml.safe_load(NOTE_TEMPLATES_FILE.read_text(encoding="utf-8"))
    return templates


def generate_notes(count: int, seed: int) -> Iterator[SyntheticNote]:
    """`count` notes; one `seed` gives the same notes, and a longer run starts with a shorter one's."""
    rng = random.Random(seed)
    concepts, templates = load_concepts(), load_note_templates()
    for _ in range(count):
        yield _write_note(_draw_content(rng, concepts), templates, rng)


@dataclass(frozen=True)
class _Content:
    diagnoses: tuple[Concept, ...]
    procedures: tuple[Concept, ...]
    negated: tuple[Concept, ...]
    family: tuple[Concept, ...]
    not_performed: tuple[Concept, ...]
    gender: Literal["M", "F"]
    age: int


def _draw_content(rng: random.Random, concepts: Sequence[Concept]) -> _Content:
    gender: Literal["M", "F"] = rng.choice(("M", "F"))
    fitting = [concept for concept in concepts if concept.gender in (None, gender)]
    possible = [concept for concept in fitting if concept.kind == "diagnosis"]
    operations = [concept for concept in fitting if concept.kind == "procedure"]
    diagnoses = draw_concepts(rng, possible, draw_count(rng, DIAGNOSIS_COUNTS), CODED_OFFSET)
    wanted = max(draw_count(rng, PROCEDURE_COUNTS), int(len(diagnoses) == 1))
    procedures = draw_concepts(rng, operations, wanted, CODED_OFFSET)
    deniable = [c for c in possible if "negated" in c.distractor and c not in diagnoses]
    negated = draw_concepts(rng, deniable, draw_count(rng, NEGATED_COUNTS), DISTRACTOR_OFFSET)
    inherited = [c for c in concepts if "family" in c.distractor and c not in diagnoses and c not in negated]
    family = draw_concepts(rng, inherited, draw_count(rng, FAMILY_COUNTS), DISTRACTOR_OFFSET)
    deferred = [c for c in operations if c not in procedures]
    not_performed = draw_concepts(rng, deferred, int(rng.random() < NOT_PERFORMED_CHANCE), DISTRACTOR_OFFSET)
    return _Content(diagnoses, procedures, negated, family, not_performed, gender, rng.randint(22, 89))


def draw_count(rng: random.Random, distribution: tuple[Sequence[int], Sequence[int]]) -> int:
    """One number from (values, weights)."""
    values, weights = distribution
    return rng.choices(values, weights)[0]


def draw_concepts(rng: random.Random, pool: Sequence[Concept], count: int, offset: float) -> tuple[Concept, ...]:
    """`count` different concepts of `pool` (in frequency order), weighted 1 / (rank + offset)."""
    left = list(pool)
    weights = [1.0 / (rank + offset) for rank in range(len(left))]
    drawn = []
    for _ in range(min(count, len(left))):
        position = rng.choices(range(len(left)), weights)[0]
        drawn.append(left.pop(position))
        weights.pop(position)
    return tuple(drawn)


class NoteWriter:
    """Fills templates for one patient: one sex and age in all sentences, fresh numbers and drugs in each."""

    def __init__(self, templates: dict[str, Any], rng: random.Random, gender: str, age: int) -> None:
        """`templates` as `load_note_templates` gives them."""
        self.templates, self.rng, self.gender, self.age = templates, rng, gender, age

    def fill(self, key: str, *mentions: str, relatives: str | None = None) -> str:
        """A sentence drawn from the templates under `key`, its slots {dx}, {px} and {no} taken by `mentions`.

        A disease of one sex (`relatives`: M or F) is given to relatives of that sex.
        """
        sentence: str = self.rng.choice(self.templates[key])
        for mention in mentions:
            sentence = re.sub(r"\{(dx|px|no)\}", mention, sentence, count=1)
        for name in ("symptom", "drug"):
            for word in self.rng.sample(self.templates[name + "s"], sentence.count("{" + name + "}")):
                sentence = sentence.replace("{" + name + "}", word, 1)
        if "{" in sentence:
            sentence = sentence.format(**self._values(relatives))
        return sentence[0].upper() + sentence[1:] if sentence.endswith(".") else sentence

    def mention(self, concept: Concept) -> str:
        """One of the concept's names; the full name, which comes first, a little more often."""
        weights = [2] + [1] * (len(concept.mentions) - 1)
        return self.rng.choices(concept.mentions, weights)[0]

    def _values(self, relatives: str | None) -> dict[str, str]:
        rng, male = self.rng, self.gender == "M"
        kin = self.templates["relatives"][{"M": "male", "F": "female", None: "either"}[relatives]]
        numbers = {
            "hr": rng.randint(55, 130),
            "sbp": rng.randint(88, 190),
            "dbp": rng.randint(45, 105),
            "sat": rng.randint(86, 100),
            "days": rng.randint(2, 9),
            "dose": rng.choice((5, 10, 20, 25, 40, 50, 100)),
            "age": self.age,
            "years": rng.randint(40, 90),
        }
        return {
            **{name: str(number) for name, number in numbers.items()},
            "temp": f"{rng.uniform(36.0, 39.5):.1f}",
            "sex": self.gender,
            "title": "Mr." if male else "Ms.",
            "they": "He" if male else "She",
            "them": "him" if male else "her",
            "service": rng.choice(self.templates["services"]),
            "relative": rng.choice(kin),
        }


def _write_note(content: _Content, templates: dict[str, Any], rng: random.Random) -> SyntheticNote:
    writer = NoteWriter(templates, rng, content.gender, content.age)
    order: list[str] = rng.choice(templates["section_orders"])
    shares = _share_diagnoses(content.diagnoses, [name for name in order if name in _CODED_SECTIONS], rng)
    denied_in = rng.choice(("presentation", "course"))
    parts = []
    for name in order:
        body = _write_section(name, writer, content, shares.get(name, ()), denied=name == denied_in)
        if body:
            heading = rng.choice(templates["headings"][name]) + "\n" if name in templates["headings"] else ""
            parts.append(heading + body)
    return SyntheticNote(
        text="\n\n".join(parts),
        diagnoses=content.diagnoses,
        procedures=content.procedures,
        distractors=content.negated + content.family + content.not_performed,
        gender=content.gender,
        age=content.age,
    )


_CODED_SECTIONS = ("presentation", "history", "course")


def _share_diagnoses(
    diagnoses: Sequence[Concept], sections: Sequence[str], rng: random.Random
) -> dict[str, tuple[Concept, ...]]:
    """Diagnoses dealt to sections in reading order: one or two at presentation, the rest cut in two."""
    at_presentation = 2 if len(diagnoses) > 2 and rng.random() < 0.3 else 1
    rest = len(diagnoses) - at_presentation
    sizes = {"presentation": at_presentation, "history": rng.randint(rest // 2, rest)}
    sizes["course"] = rest - sizes["history"]
    shares, start = {}, 0
    for name in sections:
        shares[name] = tuple(diagnoses[start : start + sizes[name]])
        start += sizes[name]
    return shares


def _write_section(name: str, writer: NoteWriter, content: _Content, mine: Sequence[Concept], *, denied: bool) -> str:
    """The text of one section; empty where the note has none."""
    rng = writer.rng
    if name in ("header", "complaint", "medications"):
        return writer.fill(name) if name != "medications" or rng.random() < 0.7 else ""
    if name == "presentation":
        sentences = [writer.fill("presentation", writer.mention(mine[0]))]
        sentences += [writer.fill("presentation_more", writer.mention(concept)) for concept in mine[1:]]
        sentences += [writer.fill("vitals")] if rng.random() < 0.5 else []
        return " ".join(sentences + (_deny(writer, content.negated) if denied else []))
    if name == "course":
        sentences = [writer.fill("course", writer.mention(concept)) for concept in mine]
        sentences = sentences or [writer.fill("course_plain")]
        denials = _deny(writer, content.negated) if denied else []
        sentences = denials + sentences if rng.random() < 0.5 else sentences + denials
        return " ".join(sentences + [writer.fill("not_performed", writer.mention(c)) for c in content.not_performed])
    if name == "history":
        return _list_history(writer, mine)
    if name == "family":
        sentences = [writer.fill("family", writer.mention(c), relatives=c.gender) for c in content.family]
        return " ".join(sentences) or (writer.fill("family_plain") if rng.random() < 0.4 else "")
    if name == "procedures":
        lines = [writer.fill("procedures", writer.mention(concept)) for concept in content.procedures]
        return "\n".join(lines) or (writer.fill("procedures_plain") if rng.random() < 0.4 else "")
    if rng.random() < MENTIONED_AGAIN_CHANCE:
        return writer.fill("follow_up_again", writer.mention(rng.choice(content.diagnoses)))
    return writer.fill("follow_up") if rng.random() < 0.5 else ""


def _deny(writer: NoteWriter, negated: Sequence[Concept]) -> list[str]:
    if len(negated) == 2 and writer.rng.random() < 0.5:
        return [writer.fill("negated_pair", *map(writer.mention, negated))]
    return [writer.fill("negated", writer.mention(concept)) for concept in negated]


def _list_history(writer: NoteWriter, concepts: Sequence[Concept]) -> str:
    names = [writer.mention(concept) for concept in concepts]
    if writer.rng.random() < 0.5:
        names = [name[0].upper() + name[1:] for name in names]
    layout = writer.rng.choice(writer.templates["history_layouts"])
    if layout == "commas":
        return ", ".join(names)
    if layout == "numbers":
        return "\n".join(f"{number}. {name}" for number, name in enumerate(names, 1))
    mark = "- " if layout == "bullets" else ""
    return "\n".join(mark + name for name in names)
