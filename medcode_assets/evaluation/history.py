"""Every evaluation that was made, kept: earlier adapters stand beside the new one, and any two can be compared.

<home>/evaluations/<recipe>/<version>/     version of the bundle that the evaluation belongs to
  about.json          what was evaluated (`EvaluationAbout`)
  evaluation.json     the report
  codes.parquet       the codes that were trained
  gold.parquet        hadm_id, system, code of the test split
  <engine>.parquet    each engine's answers to the test split; no text
"""

import hashlib
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
    names = ("hadm_id", "system", "code")
    schema = pa.schema([("hadm_id", pa.int64()), ("system", pa.string()), ("code", pa.string())])
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=schema)


def gold_hash(gold: "pa.Table") -> str:
    """Return the sha256 of a gold table's rows."""
    lines = (f"{row['hadm_id']}:{row['system']}:{row['code']}\n" for row in gold.to_pylist())
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
    """Return a recipe's evaluations, the newest first."""
    found = []
    for file in (home / "evaluations" / recipe).glob(f"[!.]*/{ABOUT}"):
        try:
            found.append(KeptEvaluation(file.parent, EvaluationAbout.model_validate_json(file.read_bytes())))
        except ValidationError:
            raise MedcodeError(f"{file}: not what this version of medcode wrote; remove the folder") from None
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

    Args:
        first: Evaluation and engine.
        second: The other ones.
        names: What the differences call them.
        resamples: Bootstrap samples.

    Raises:
        MedcodeError: they answered other questions, or an engine was not evaluated.
    """
    import pyarrow.parquet as pq

    abouts = first[0].about, second[0].about
    if abouts[0].gold_hash != abouts[1].gold_hash:
        what = "splits" if abouts[0].split_hash != abouts[1].split_hash else "documents or codes"
        raise MedcodeError(
            f"{names[0]} and {names[1]} were measured on other test {what}; only the same questions can be compared"
        )
    test = _questions(pq.read_table(first[0].folder / GOLD))
    vocabulary = Vocabulary.read(first[0].folder / CODES)
    sides = [
        (name, _answers(kept, engine), kept.report.engine(engine).decision)
        for name, (kept, engine) in zip(names, (first, second), strict=True)
    ]
    return compare_answers(test, vocabulary, sides[0], sides[1], resamples)


def engines_of(kept: KeptEvaluation) -> list[str]:
    """Return the engines whose answers are kept."""
    return sorted(file.stem for file in kept.folder.glob("*.parquet") if file.name not in (CODES, GOLD))


def _answers(kept: KeptEvaluation, engine: str) -> "pa.Table":
    import pyarrow.parquet as pq

    if engine not in engines_of(kept):
        raise MedcodeError(
            f"{kept.about.version}: engine {engine!r} was not evaluated; there are {', '.join(engines_of(kept))}"
        )
    return pq.read_table(kept.folder / f"{engine}.parquet")


def _questions(gold: "pa.Table") -> LabelledNotes:
    """Return a gold table as a split without its texts."""
    by_document: dict[int, list[tuple[str, str]]] = {}
    for row in gold.to_pylist():
        by_document.setdefault(row["hadm_id"], []).append((row["system"], row["code"]))
    return LabelledNotes("test", list(by_document), [""] * len(by_document), list(by_document.values()))
