"""What a model is asked: each request is a pure function of the run's arguments, its number and its attempt."""

import csv
import hashlib
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from itertools import accumulate
from pathlib import Path
from string import Template
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from medcode_serving.codes.systems import SYSTEMS, dotted
from medcode_serving.errors import MedcodeError
from medcode_serving.reasoned import MARKERS, SYSTEM_OF

TYPE_OF = {system: name for name, system in SYSTEM_OF.items()}
_PROMPTS = resources.files(__package__).joinpath("prompts.yaml")
_COLUMNS = ("system", "code", "description")


class Prompts(BaseModel):
    """prompts.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(ge=0, le=2)
    max_tokens: dict[int, int]
    system: str
    invented: str
    given: str
    answer: dict[Literal["invented", "given"], dict[int, str]]
    explained: dict[int, str]
    variety: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class ListedCode:
    """A code that narratives may be asked for."""

    system: str
    code: str
    """With its system's dot."""
    description: str | None
    weight: float = 1.0


@dataclass(frozen=True)
class Request:
    """One request to a model."""

    number: int
    """0 … count - 1: which line of the output it is for."""
    attempt: int
    """From 0; each asks with another draw."""
    code: ListedCode | None
    """None: the model finds the code of a given narrative."""
    narrative: str | None
    """None: the model invents one."""
    messages: tuple[dict[str, str], ...]
    max_tokens: int
    temperature: float
    seed: int

    @property
    def name(self) -> str:
        """Number and attempt, as servers' logs may show them: 17.0."""
        return f"{self.number}.{self.attempt}"


@dataclass(frozen=True)
class Inquiry:
    """All that decides what is asked."""

    stage: int
    seed: int
    codes: Sequence[ListedCode]
    """What narratives are invented for; unused where narratives are given."""
    narratives: Sequence[str] = ()
    max_reasoning_words: int = 120

    def request(self, number: int, attempt: int) -> Request:
        """Return a request; the same for the same number and attempt, whatever was asked before."""
        draw = random.Random(f"medcode synth {self.seed} {number} {attempt}")
        prompts = read_prompts()
        narrative = self.narratives[number] if self.narratives else None
        code = None if self.narratives else self._drawn(draw)
        fields = {name: draw.choice(choices) for name, choices in prompts.variety.items()}
        fields["words"] = str(self.max_reasoning_words * 2 // 3)  # models count badly
        kind: Literal["invented", "given"] = "invented" if narrative is None else "given"
        if code is not None:
            fields |= {"code_type": TYPE_OF[code.system], "code": code.code}
            fields["description"] = f" ({code.description})" if code.description else ""
        parts = [prompts.invented if narrative is None else prompts.given, prompts.explained[self.stage]]
        parts.append("The answer's form: " + prompts.answer[kind][self.stage])
        # The narrative last: it may hold a $ of its own.
        text = "\n\n".join(Template(part).safe_substitute(fields) for part in parts if part)
        text = text.replace("$narrative", narrative) if narrative is not None else text
        messages = ({"role": "system", "content": prompts.system}, {"role": "user", "content": text})
        seed = draw.getrandbits(31)
        return Request(
            number, attempt, code, narrative, messages, prompts.max_tokens[self.stage], prompts.temperature, seed
        )

    def _drawn(self, draw: random.Random) -> ListedCode:
        ends = self._ends
        return self.codes[min(bisect_right(ends, draw.random() * ends[-1]), len(ends) - 1)]

    @cached_property
    def _ends(self) -> list[float]:
        """Where each code's share of the total weight ends."""
        return list(accumulate(code.weight for code in self.codes))


@cache
def read_prompts() -> Prompts:
    """Return what prompts.yaml holds."""
    return Prompts.model_validate(yaml.safe_load(_PROMPTS.read_text(encoding="utf-8")))


def fingerprint(value: object) -> str:
    """Return a short hash of a value that prints the same whenever it is the same."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]


def prompts_fingerprint() -> str:
    """Return a short hash of prompts.yaml."""
    return fingerprint(read_prompts())


def read_codes(path: Path) -> list[ListedCode]:
    """Read the user's list of codes.

    Args:
        path: CSV with the columns system (icd10cm, cpt or hcpcs; or ICD10, CPT, HCPCS), code, description and, if it
            is there, weight.

    Raises:
        MedcodeError: the file cannot be read, is empty, or a line holds no code of a known system; the line is named.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, strict=True)
            missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise MedcodeError(f"{path}: no column {', '.join(missing)}; it needs {', '.join(_COLUMNS)}[, weight]")
            codes = [_listed(path, rows.line_num, row) for row in rows]
    except OSError as error:
        raise MedcodeError(f"{path}: cannot be read ({error.strerror}); name a file that is there") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise MedcodeError(f"{path}: no CSV in UTF-8 ({type(error).__name__}); save it as one") from None
    if not codes:
        raise MedcodeError(f"{path}: lists no code; give at least one")
    return codes


def _listed(path: Path, line: int, row: dict[str, Any]) -> ListedCode:
    place = f"{path}, line {line}"
    named = (row["system"] or "").strip()
    system = SYSTEM_OF.get(named.upper(), named.lower())
    if system not in MARKERS:
        raise MedcodeError(f"{place}: unknown system {named!r}; known are {', '.join(MARKERS)}")
    code = dotted(system, row["code"] or "")
    if not SYSTEMS[system].pattern.fullmatch(code):
        raise MedcodeError(f"{place}: {code!r} is no {SYSTEMS[system].title} code; correct it or take it out")
    try:
        weight = float(row.get("weight") or 1)
    except ValueError:
        weight = -1
    if not 0 < weight < float("inf"):
        raise MedcodeError(f"{place}: weight {row['weight']!r} is no number above 0")
    return ListedCode(system, code, (row["description"] or "").strip() or None, weight)
