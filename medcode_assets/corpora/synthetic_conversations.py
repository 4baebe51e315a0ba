"""Synthetic questions of patients and doctors' answers, for the demo and the tests of recipe `consult`.

They have the columns of Patient-Doctor-Conversation, and its flaws: some rows have no answer, some come twice. A
doctor's answer is plain prose whose sentences begin in the usual ways ("You should", "Avoid", "Seek urgent care if"),
so that it can be put into a hierarchical list without a language model. The same complaint comes back from other
patients. What is clinical is data: `conversations.yaml`. No real patient's text is involved.
"""

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CONVERSATIONS_FILE = Path(__file__).with_name("conversations.yaml")
UNANSWERED_EVERY = 40
"""Every so many rows, one has no answer."""
REPEATED_EVERY = 50
"""Every so many rows, one is the row before again."""


def synthetic_conversations(count: int, seed: int) -> Iterator[dict[str, str | None]]:
    """Yield rows of conversations; one `seed` gives the same ones, and more begin with the fewer.

    Args:
        count: Rows, those without an answer and those that come twice counted in.
        seed: Of everything drawn.

    Yields:
        Description, Patient, Doctor (None where nobody answered), Status.
    """
    rng = random.Random(f"conversations {seed}")
    waiting, row = list[dict[str, Any]](), dict[str, str | None]()
    for number in range(1, count + 1):
        if number % REPEATED_EVERY:
            waiting = waiting or rng.sample(load_cases(), len(load_cases()))
            row = _conversation(waiting.pop(), rng)
            if number % UNANSWERED_EVERY == 0:
                row["Doctor"] = None
        yield dict(row)


def load_cases() -> list[dict[str, Any]]:
    """Return what patients have: their complaint, its cause, and what is advised."""
    cases: list[dict[str, Any]] = _load()["cases"]
    return cases


@cache
def _load() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(CONVERSATIONS_FILE.read_text(encoding="utf-8"))
    return document


def _conversation(case: dict[str, Any], rng: random.Random) -> dict[str, str | None]:
    templates = _load()
    slots = {
        "complaint": rng.choice(case["complaint"]),
        "age": str(rng.randint(*templates["ages"])),
        "person": rng.choice(templates["persons"]),
        "since": rng.choice(templates["since"]),
        "worry": rng.choice(templates["worries"]),
    }
    return {
        "Description": rng.choice(templates["descriptions"]).format_map(slots),
        "Patient": rng.choice(templates["patients"]).format_map(slots),
        "Doctor": _answer(case, rng),
        "Status": templates["statuses"][case["status"]],
    }


def _answer(case: dict[str, Any], rng: random.Random) -> str:
    """What the doctor says: one to two sentences of most parts, no two alike."""
    sentences = []
    for part in _load()["parts"]:
        said = {"follow": _load()["weeks"], "why": [case["why"]]}.get(part["name"]) or case[part["name"]]
        slot = "weeks" if part["name"] == "follow" else part["name"]
        wanted = min(rng.randint(part["least"], part["most"]), len(said))
        forms = rng.sample(part["sentences"], min(wanted, len(part["sentences"])))
        filled = rng.sample(said, wanted)
        sentences += [form.format_map({slot: text}) for form, text in zip(forms, filled, strict=True)]
    return " ".join(sentences)
