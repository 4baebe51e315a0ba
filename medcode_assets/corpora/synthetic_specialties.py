"""Synthetic question-answer files of medical specialties, for the demo and the tests of recipe `specialty`.

A question asks for the symptoms, the test or the treatment of a condition, in one of several wordings; its answer is
always the same sentence. So a question that is held out asks in new words for what other questions teach,
if chance brought any of them into training: of a specialty with many conditions, fewer are. What is clinical is data:
`specialty_questions.yaml`.
"""

import json
import random
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from medcode_serving.errors import MedcodeError

QUESTIONS_FILE = Path(__file__).with_name("specialty_questions.yaml")
DRAWS = 200
"""Questions drawn in a row that were all there already: there are no more."""


def write_synthetic_specialties(folder: Path, *, per_specialty: int, seed: int) -> list[Path]:
    """Write `dataset_with_answers_<specialty>.json` for each specialty; return the files in order of name.

    Args:
        folder: Made if it is not there; files of the same names are replaced.
        per_specialty: Questions of each, no two alike.
        seed: Of everything drawn; more questions begin with the fewer.

    Raises:
        MedcodeError: there are not so many different questions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for specialty in sorted(load_specialties()):
        rows = list(islice(specialty_questions(specialty, seed), per_specialty))
        if len(rows) < per_specialty:
            raise MedcodeError(
                f"of {specialty} there are {len(rows)} different questions, not {per_specialty}; ask for fewer"
            )
        file = folder / f"dataset_with_answers_{specialty}.json"
        aside = file.with_suffix(".part")
        aside.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        aside.replace(file)
        files.append(file)
    return files


def specialty_questions(specialty: str, seed: int) -> Iterator[dict[str, str]]:
    """Yield a specialty's questions until hardly any new one is left, each with `id`, `question` and `answer`."""
    rng = random.Random(f"specialty {specialty} {seed}")
    facts = [(condition, aspect) for condition in load_specialties()[specialty] for aspect in _load()["aspects"]]
    asked, missed, waiting = set[str](), 0, list[tuple[dict[str, str], str]]()
    while missed < DRAWS:
        waiting = waiting or rng.sample(facts, len(facts))
        condition, aspect = waiting.pop()
        question, answer = _question(condition, aspect, rng)
        missed = missed + 1 if question in asked else 0
        if question not in asked:
            asked.add(question)
            yield {"id": f"{specialty}-{len(asked):04d}", "question": question, "answer": answer}


def load_specialties() -> dict[str, list[dict[str, str]]]:
    """Return the conditions of each specialty: `name`, and what is said to each aspect."""
    specialties: dict[str, list[dict[str, str]]] = _load()["specialties"]
    return specialties


@cache
def _load() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(QUESTIONS_FILE.read_text(encoding="utf-8"))
    return document


def _question(condition: dict[str, str], aspect: str, rng: random.Random) -> tuple[str, str]:
    templates = _load()
    slots = {
        "name": condition["name"],
        "value": condition[aspect],
        "age": rng.randint(*templates["ages"]),
        "place": rng.choice(templates["places"]),
    }
    own = templates["aspects"][aspect]
    question = rng.choice(templates["openings"]) + rng.choice(own["questions"])
    return question.format_map(slots), own["answer"].format_map(slots)
