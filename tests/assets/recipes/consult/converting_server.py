"""The failing server of tests/assets/synthesis, answering as a model that converts doctors' answers."""

import json
import random
import re
from typing import Any

from medcode_assets.recipes.consult.converting.prose import outline_prose
from medcode_assets.recipes.consult.outline import parse
from tests.assets.synthesis.failing_server import FailingServer

MALFORMED = ("prose", "empty", "torn_json", "flat", "preamble", "six_points", "twice", "new_number")
"""Replies that must be refused."""


class ConvertingServer(FailingServer):
    """What is answered depends on the request alone; a reply that was refused is right when it is asked again."""

    def answer(self, name: str, body: dict[str, Any]) -> str:
        if self.content is not None:
            return self.content
        draw = random.Random(f"convert {self.seed} {name}")
        wrong = draw.choice(MALFORMED) if draw.random() < self.wrong else None
        return reply(body["messages"][1]["content"].rpartition("The doctor's answer:\n")[2], wrong, draw)


def reply(doctor: str, wrong: str | None, draw: random.Random) -> str:
    """Return a reply for a doctor's answer, right or wrong in one way."""
    written = outline_prose(doctor)
    assert written, doctor
    outline = parse(written)
    points: list[dict[str, Any]] = [
        {"point": point.text, "details": [one.text for one in point.below]} for point in outline.points
    ]
    answer = outline.answer
    if wrong == "prose":
        return "I am sorry, but I cannot help with that."
    if wrong == "empty":
        return "  "
    if wrong == "flat":
        points = [{"point": point["point"]} for point in points]
    elif wrong == "preamble":
        answer = "Here is the list that you asked for."
    elif wrong == "six_points":
        points[0]["details"] = [f"Thing {word}." for word in re.findall(r"\w{4,}", doctor)[:6]]
    elif wrong == "twice":
        points[0]["details"] *= 2
    elif wrong == "new_number":
        points[0]["details"].append("Take 987 mg of it.")
    text = json.dumps({"answer": answer, "points": points})
    if wrong == "torn_json":
        return text[: len(text) // 3]
    as_text = [written] if wrong is None else []
    return draw.choice([text, f"```json\n{text}\n```", f"<think>\nHm {{}}\n</think>\n{text}", *as_text])
