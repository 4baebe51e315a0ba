"""Where a stage's lines come from, and what is done to a narrative before anything looks at it."""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from medcode_assets.recipes.reasoning.formats import Line, Stage1Line, Stage3Line
from medcode_assets.recipes.reasoning.lines import Problem, read_lines
from medcode_assets.recipes.reasoning.settings import ReasoningSettings
from medcode_serving.errors import MedcodeError

SYNTHETIC = {"synthetic": "full", "synthetic:brief": "brief"}
"""Sources made from templates, and the style of their narratives."""
MIMIC = "mimic:"
"""Stands before the name of a registered version."""

Numbered = Iterator[tuple[int, Line | Problem]]
"""Lines with their numbers, from 1; or why one cannot be read."""

_BREAK = re.compile(r"\r\n?|[\v\f\x85\u2028\u2029]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n){2,}")


def refuse_unusable_sources(settings: Mapping[int, ReasoningSettings]) -> None:
    """Look at what every stage names, before hours go into the first.

    Raises:
        MedcodeError: a file is not there, or a source is not one of the stage.
    """
    for stage, chosen in settings.items():
        for name, weight in chosen.sources.items():
            if not math.isfinite(weight):
                raise MedcodeError(f"reasoning.sources of stage {stage}: {name} has weight {weight}; give a number")
            if name in SYNTHETIC:
                continue
            if name.startswith(MIMIC):
                if stage != 1:
                    raise MedcodeError(
                        f"reasoning.sources of stage {stage}: {name} has codes without reasoning, for stage 1 only; "
                        "name `synthetic` or a file that `medcode synth` made"
                    )
                continue
            if not Path(name).expanduser().is_file():
                raise MedcodeError(
                    f"reasoning.sources of stage {stage}: {name} is no file; name `synthetic`, `mimic:<version>` or a "
                    "JSONL file of the stage"
                )
        if chosen.cpt_descriptions and not Path(chosen.cpt_descriptions).expanduser().is_file():
            raise MedcodeError(
                f"reasoning.cpt_descriptions of stage {stage}: {chosen.cpt_descriptions} is no file; name a CSV with "
                "the columns code and description, or leave it out"
            )


def source_lines(name: str, stage: int, seed: int, mimic: Callable[[str], Iterator[Stage1Line]]) -> Numbered:
    """Return a source's lines, one at a time; `synthetic` never ends."""
    if name in SYNTHETIC:
        from medcode_assets.corpora.synthetic_narratives import synthetic_lines

        return _numbered(synthetic_lines(stage, seed, SYNTHETIC[name]))
    if name.startswith(MIMIC):
        return _numbered(mimic(name.removeprefix(MIMIC)))
    return read_lines(Path(name).expanduser(), stage)


def source_files(settings: Mapping[int, ReasoningSettings]) -> list[Path]:
    """Return the files that the stages read, CPT descriptions among them."""
    named = {
        name
        for chosen in settings.values()
        for name in filter(None, (*chosen.sources, chosen.cpt_descriptions))
        if name not in SYNTHETIC and not name.startswith(MIMIC)
    }
    return [Path(name).expanduser() for name in sorted(named)]


def mimic_versions(settings: Mapping[int, ReasoningSettings]) -> list[str]:
    """Return the MIMIC versions that the stages read."""
    named = {name for chosen in settings.values() for name in chosen.sources if name.startswith(MIMIC)}
    return [name.removeprefix(MIMIC) for name in sorted(named)]


def cleaned(narrative: str) -> str:
    """Return a narrative in NFC, without control characters and white space around it, with one blank line at most.

    What MIMIC put for names and dates, `[** **]` and `___`, stays: a note to be coded has it, too.
    """
    text = _CONTROL.sub("", _BREAK.sub("\n", unicodedata.normalize("NFC", narrative)))
    return _BLANK_LINES.sub("\n\n", text).strip()


def with_narrative(line: Line, narrative: str) -> Line:
    """Return a line with another narrative; it may be empty, which `line_problems` names."""
    if isinstance(line, Stage3Line):
        system, user = line.prompt
        return line.model_copy(update={"prompt": (system, user.model_copy(update={"content": narrative}))})
    system, user, answer = line.messages
    return line.model_copy(update={"messages": (system, user.model_copy(update={"content": narrative}), answer)})


def _numbered(lines: Iterable[Line]) -> Numbered:
    yield from enumerate(lines, start=1)
