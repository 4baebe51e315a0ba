"""How an answer with reasoning looks: written once, for training, evaluation and serving.

    <think>
    - productive cough and fever for four days
    - clear chest film: no pneumonia
    </think>
    ICD10: J20.9 (Acute bronchitis, unspecified)

The part in tags is left out where no reasoning is asked for; the part in brackets where a code has no description that
may be shown (CPT). The tags and the markers are tokens of their own: `SPECIAL_TOKENS` are added to the tokenizer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

THINK, END_THINK = "<think>", "</think>"
MARKERS = {"icd10cm": "ICD10:", "cpt": "CPT:", "hcpcs": "HCPCS:"}
"""What stands before a code, by its system."""
SYSTEM_OF = {marker.rstrip(":"): system for system, marker in MARKERS.items()}
"""Code system by code type: ICD10, CPT, HCPCS."""
SPECIAL_TOKENS = (THINK, END_THINK, *MARKERS.values())

_POINT = "- "
_LINE = re.compile(
    r"(?P<type>ICD10|CPT|HCPCS): (?P<code>(?=[A-Z.]*\d)[A-Z0-9][A-Z0-9.]*)(?: \((?P<description>\S.*)\))?"
)
_REASONED = re.compile(rf"{THINK}\n(?P<points>(?:- \S.*\n)+){END_THINK}\n(?P<line>.+)")
_ANY_CODE = re.compile(r"(?P<type>ICD10|CPT|HCPCS):\s*(?P<code>[A-Za-z0-9][A-Za-z0-9.]*[A-Za-z0-9])")


def is_code_line(text: str) -> bool:
    """Whether a text is a code's line, as vocabularies of such answers hold it."""
    return text.startswith(tuple(MARKERS.values()))


@dataclass(frozen=True)
class ReasonedAnswer:
    """What a freely written answer says."""

    points: tuple[str, ...]
    """The reasoning, a point each, without its hyphens; empty: none, or none that was closed."""
    code_type: str | None
    """ICD10, CPT or HCPCS; None: no code was found."""
    code: str | None
    """As written, upper case."""
    description: str | None
    well_formed: bool
    """The whole answer is in the format, with reasoning or without, and nothing else beside."""

    @property
    def system(self) -> str | None:
        """The code's system: icd10cm, cpt or hcpcs."""
        return SYSTEM_OF[self.code_type] if self.code_type else None

    @property
    def reasoning(self) -> str | None:
        """The points, a line each; None without reasoning."""
        return "\n".join(f"{_POINT}{point}" for point in self.points) or None


def code_line(system: str, code: str, description: str | None) -> str:
    """Return the line that names a code: `ICD10: J20.9 (Acute bronchitis, unspecified)`.

    Raises:
        KeyError: the system has no marker.
    """
    return f"{MARKERS[system]} {code}" + (f" ({description})" if description else "")


def answer_text(points: Sequence[str], line: str) -> str:
    """Return a whole answer; without points, the code's line alone."""
    return f"{THINK}\n{''.join(f'{_POINT}{point}{chr(10)}' for point in points)}{END_THINK}\n{line}" if points else line


def read_answer(text: str) -> ReasonedAnswer:
    """Read an answer. One out of the format is understood as far as it goes: the first code behind the reasoning."""
    text = text.strip()
    reasoned = _REASONED.fullmatch(text)
    points = tuple(line.removeprefix(_POINT) for line in reasoned["points"].splitlines()) if reasoned else ()
    line = _LINE.fullmatch(reasoned["line"] if reasoned else text)
    if line:
        return ReasonedAnswer(points, line["type"], line["code"], line["description"], well_formed=True)
    thought, end, answer = text.rpartition(END_THINK)
    if not points and end:
        written = (
            point.strip().removeprefix(_POINT.strip()).strip() for point in thought.split(THINK)[-1].splitlines()
        )
        points = tuple(filter(None, written))
    # Behind an opening tag that is never closed there is no answer, only thought.
    found = _ANY_CODE.search(answer.partition(THINK)[0])
    if not found:
        return ReasonedAnswer(points, None, None, None, well_formed=False)
    return ReasonedAnswer(points, found["type"], found["code"].upper(), None, well_formed=False)


def without_thought(text: str) -> str:
    """Return what a model says, without what it thinks before in tags, as R1 and its distillates do.

    Of a thought that the limit of tokens cut off nothing is left.
    """
    if THINK not in text and END_THINK not in text:
        return text
    return text.rpartition(END_THINK)[2].partition(THINK)[0].strip()
