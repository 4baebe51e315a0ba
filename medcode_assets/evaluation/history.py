"""Every evaluation that was made, kept: earlier adapters stand beside the new one, and any two can be compared.

<home>/evaluations/<recipe>/<version>/     version of the bundle that the evaluation belongs to
  about.json          what was evaluated (`EvaluationAbout`)
  evaluation.json     the report
  codes.parquet       the codes that were trained
  gold.parquet        hadm_id, system, code of the test split
  <engine>.parquet    each engine's answers to the test split; no text
"""

import hashlib
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from medcode_assets.artifacts import link_or_copy, replace_folder
from medcode_assets.evaluation.evaluate import compare_answers
from medcode_assets.evaluation.predictions import LabelledNotes
from medcode_assets.evaluation.report import Difference, EvaluationReport, read_report, write_report
from medcode_serving.bundle import CODES
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

ABOUT = "about.json"
REPORT = "evaluation.json"
GOLD = "gold.parquet"
ADAPTER = "adapter"


class EvaluationAbout(BaseModel):
    """What an evaluation measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    version: str
    partition: str
    split_hash: str
    gold_hash: str
    """sha256 over the test split's documents and their codes: the same questions."""
    base_model: str
    made: datetime


@dataclass(frozen=True)
class KeptEvaluation:
    """An evaluation in the history."""

    folder: Path
    about: EvaluationAbout

    @property
    def report(self) -> EvaluationReport:
        """Its results. Raises MedcodeError if the file is of another version of medcode."""
        return read_report(self.folder / REPORT)


def gold_table(test: LabelledNotes) -> "pa.Table":
    """Return the gold codes of a split as (hadm_id, system, code), sorted."""
    import pyarrow as pa

    rows = sorted(
        {(hadm_id, system, code) for hadm_id, codes in zip(test.ids, test.gold, strict=True) for system, code in codes}
    )
    schema = pa.schema([("hadm_id", pa.int64()), ("system", pa.string()), ("code", pa.string())])
    return pa.table([list(column) for column in zip(*rows, strict=True)] or [[], [], []], schema=schema)


def gold_hash(gold: "pa.Table") -> str:
    """Return the sha256 of a gold table's rows."""
    columns = (gold[name].to_pylist() for name in ("hadm_id", "system", "code"))
    lines = (f"{hadm_id}:{system}:{code}\n" for hadm_id, system, code in zip(*columns, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def keep_evaluation(
    home: Path,
    about: EvaluationAbout,
    report: EvaluationReport,
    *,
    codes: Path,
    gold: "pa.Table",
    answers: Mapping[str, Path],
) -> KeptEvaluation:
    """Put an evaluation into the history; one of the same version is replaced.

    Args:
        home: MEDCODE_HOME.
        about: What was evaluated.
        report: What came of it.
        codes: codes.parquet of the trained codes.
        gold: `gold_table` of the test split.
        answers: Each engine's answers to the test split, a Parquet file; linked, not copied, where that is possible.
    """
    import pyarrow.parquet as pq

    target = home / "evaluations" / about.recipe / about.version
    aside = target.with_name(f".{about.version}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    (aside / ABOUT).write_text(about.model_dump_json(indent=2) + "\n")
    write_report(report, aside / REPORT)
    pq.write_table(gold, aside / GOLD, compression="zstd")
    link_or_copy(codes, aside / CODES)
    for engine, file in answers.items():
        link_or_copy(file, aside / f"{engine}.parquet")
    replace_folder(aside, target)
    return KeptEvaluation(target, about)


def kept_evaluations(home: Path, recipe: str) -> list[KeptEvaluation]:
    """Return a recipe's evaluations, the newest first; one that cannot be read is left out, with a warning."""
    found = []
    for file in (home / "evaluations" / recipe).glob(f"[!.]*/{ABOUT}"):
        try:
            found.append(KeptEvaluation(file.parent, EvaluationAbout.model_validate_json(file.read_bytes())))
        except ValidationError:
            logger.warning("%s: not what this version of medcode wrote; the evaluation is left out", file)
    return sorted(found, key=lambda kept: kept.about.made, reverse=True)


def find_evaluation(home: Path, recipe: str, version: str) -> KeptEvaluation:
    """Return the evaluation of one bundle version; a beginning of its name is enough if only one has it.

    Raises:
        MedcodeError: there is none, or several.
    """
    kept = kept_evaluations(home, recipe)
    exact = [one for one in kept if one.about.version == version]
    found = exact or [one for one in kept if one.about.version.startswith(version)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(one.about.version for one in (found or kept)) or "none"
    problem = "several evaluations begin so" if found else "no such evaluation"
    raise MedcodeError(f"{version}: {problem} of recipe {recipe} in {home}; there are: {names}")


def compare_kept(
    first: tuple[KeptEvaluation, str],
    second: tuple[KeptEvaluation, str],
    *,
    names: tuple[str, str],
    resamples: int = 1000,
) -> tuple[Difference, ...]:
    """Return the paired differences of two engines, each of an evaluation in the history.

    They are compared on the documents that both were asked about.

    Args:
        first: Evaluation and engine.
        second: The other ones.
        names: What the differences call them.
        resamples: Bootstrap samples.

    Raises:
        MedcodeError: they were asked other questions, or an engine was not evaluated, or a file is missing.
    """
    if first[0].about.split_hash != second[0].about.split_hash:
        raise MedcodeError(f"{names[0]} and {names[1]} were measured on other splits, and cannot be compared")
    test = _shared_questions(first[0], second[0], names)
    vocabulary = Vocabulary.read(_required(first[0], CODES))
    sides = [
        (name, _answers(kept, engine, test), kept.report.engine(engine).decision)
        for name, (kept, engine) in zip(names, (first, second), strict=True)
    ]
    return compare_answers(test, vocabulary, sides[0], sides[1], resamples)


def engines_of(kept: KeptEvaluation) -> list[str]:
    """Return the engines whose answers are kept."""
    return sorted(file.stem for file in kept.folder.glob("*.parquet") if file.name not in (CODES, GOLD))


def forget_evaluations(home: Path, partition: str) -> None:
    """Delete every evaluation of a MIMIC version: they name its admissions."""
    for recipe in sorted((home / "evaluations").glob("*")):
        for kept in kept_evaluations(home, recipe.name):
            if kept.about.partition == partition:
                shutil.rmtree(kept.folder)


def _answers(kept: KeptEvaluation, engine: str, test: LabelledNotes) -> "pa.Table":
    """Return an engine's answers to some documents."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if engine not in engines_of(kept):
        raise MedcodeError(
            f"{kept.about.version}: engine {engine!r} was not evaluated; there are {', '.join(engines_of(kept))}"
        )
    table = pq.read_table(kept.folder / f"{engine}.parquet")
    return table.filter(pc.is_in(table["hadm_id"], pa.array(test.ids, type=pa.int64())))


def _shared_questions(first: KeptEvaluation, second: KeptEvaluation, names: tuple[str, str]) -> LabelledNotes:
    """Return the documents that both were asked about, without their texts.

    Raises:
        MedcodeError: there are none, or other codes count as right for one of them.
    """
    import pyarrow.parquet as pq

    one, other = (_codes_by_document(pq.read_table(_required(kept, GOLD))) for kept in (first, second))
    ids = sorted(one.keys() & other.keys())
    if not ids:
        raise MedcodeError(f"{names[0]} and {names[1]} were measured on no common test document")
    if any(one[hadm_id] != other[hadm_id] for hadm_id in ids):
        raise MedcodeError(f"{names[0]} and {names[1]} were asked for other codes of the same notes")
    return LabelledNotes("test", ids, [""] * len(ids), [one[hadm_id] for hadm_id in ids])


def _codes_by_document(gold: "pa.Table") -> dict[int, list[tuple[str, str]]]:
    found: dict[int, list[tuple[str, str]]] = {}
    columns = (gold[name].to_pylist() for name in ("hadm_id", "system", "code"))
    for hadm_id, system, code in zip(*columns, strict=True):
        found.setdefault(hadm_id, []).append((system, code))
    return found


def _required(kept: KeptEvaluation, name: str) -> Path:
    if not (kept.folder / name).exists():
        raise MedcodeError(f"{kept.folder / name}: missing; evaluate {kept.about.version} again: medcode evaluate")
    return kept.folder / name
