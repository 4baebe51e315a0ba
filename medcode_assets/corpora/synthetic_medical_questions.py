"""Synthetic multiple-choice questions in the shape of MedMCQA, for the demo and the tests of recipe `medqa`.

A fact (a condition and its first drug, a poison and its antidote) comes again and again: in other words, for another
patient, with other wrong options of the same kind in another order. So a split by question leaves every fact in
training and in test, and the test measures whether a fact taught in some wordings is recalled in another one; it says
nothing of facts that were never taught. What is clinical is data: `medical_questions.yaml`.
"""

import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

QUESTIONS_FILE = Path(__file__).with_name("medical_questions.yaml")
OPTIONS = ("opa", "opb", "opc", "opd")


@dataclass(frozen=True)
class Fact:
    """What is asked about, the answer, and what else would be partly right."""

    kind: str
    topic: str
    answer: str
    never: frozenset[str]
    childhood: bool
    """Nobody of another age has it."""


def synthetic_medical_questions(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield questions as rows of MedMCQA's JSON files; one `seed` gives the same ones, more begin with the fewer.

    Args:
        count: Questions; every fact comes equally often, but for the last round.
        seed: Of everything drawn.

    Yields:
        id, question, opa to opd, cop (the right option, from 1), exp, subject_name, topic_name, choice_type.
    """
    rng = random.Random(f"medical questions {seed}")
    facts, waiting = load_facts(), list[Fact]()
    for _ in range(count):
        waiting = waiting or rng.sample(facts, len(facts))
        yield _row(waiting.pop(), rng)


@cache
def load_facts() -> tuple[Fact, ...]:
    """The facts of `medical_questions.yaml`, kind by kind."""
    return tuple(
        Fact(name, entry["topic"], entry["answer"], frozenset(entry.get("never", ())), entry.get("childhood", False))
        for name, kind in _load()["kinds"].items()
        for entry in kind["facts"]
    )


@cache
def wrong_options(fact: Fact) -> tuple[str, ...]:
    """What may stand beside a fact's answer: the other answers of its kind that are not partly right."""
    answers = dict.fromkeys(other.answer for other in load_facts() if other.kind == fact.kind)
    return tuple(answer for answer in answers if answer != fact.answer and answer not in fact.never)


@cache
def _load() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(QUESTIONS_FILE.read_text(encoding="utf-8"))
    return document


def _row(fact: Fact, rng: random.Random) -> dict[str, Any]:
    kind = _load()["kinds"][fact.kind]
    asked = [text for text in kind["questions"] if not (fact.childhood and "{person}" in text)]
    options = rng.sample([fact.answer, *rng.sample(wrong_options(fact), len(OPTIONS) - 1)], len(OPTIONS))
    slots = {
        "topic": fact.topic,
        "Topic": fact.topic[0].upper() + fact.topic[1:],
        "answer": fact.answer,
        "age": rng.randint(*_load()["ages"]),
        "person": rng.choice(_load()["persons"]),
    }
    return {
        "id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "question": rng.choice(asked).format_map(slots),
        **dict(zip(OPTIONS, options, strict=True)),
        "cop": options.index(fact.answer) + 1,
        "exp": kind["explanation"].format_map(slots),
        "subject_name": kind["subject_name"],
        "topic_name": kind["topic_name"],
        "choice_type": "single",
    }
