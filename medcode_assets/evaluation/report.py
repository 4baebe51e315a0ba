"""What an evaluation found, as a file that people and asset checks read."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medcode_serving.bundle import Decision, Metric
from medcode_serving.calibration import Calibration
from medcode_serving.errors import MedcodeError


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CodeGroup(_Frozen):
    """Codes that some metrics are taken over."""

    name: str = Field(description="kind:which, as system:icd10cm, frequency:11-50, chapter:icd10cm:I00-I99.")
    title: str = Field(description="For people.")
    codes: int = Field(description="Different codes of it that the test split asks for.")
    pairs: int = Field(description="(document, code) pairs of it that the test split asks for.")


class PrecisionRecallPoint(_Frozen):
    """Micro precision and recall (open label space) at one threshold."""

    threshold: float
    precision: float
    recall: float


class ReliabilityBin(_Frozen):
    """Codes whose probability lies in one interval of the unit interval."""

    low: float
    high: float
    codes: int = Field(description="Told (document, code) pairs in it.")
    probability: float = Field(description="Their mean calibrated probability.")
    right: float = Field(description="Share of them that is gold.")


class CodesPerNote(_Frozen):
    """How many documents have so many gold codes and so many predicted ones."""

    gold: int
    predicted: int
    documents: int


class EngineEvaluation(_Frozen):
    """One engine on the test split."""

    engine: str
    threshold: float = Field(ge=0, le=1, description="Best micro F1 on validation; fixed for test.")
    calibration: Calibration = Field(description="From told to calibrated probabilities; fitted on validation.")
    metrics: tuple[Metric, ...] = Field(description="On test.")
    validation_metrics: tuple[Metric, ...] = Field(
        description="On validation, where the threshold was chosen: optimistic."
    )
    curve: tuple[PrecisionRecallPoint, ...] = Field(
        description="On test, a few hundred points, highest threshold first."
    )
    reliability: tuple[ReliabilityBin, ...] = Field(description="On test, bins that hold no code left out.")
    calibration_error: float = Field(description="Expected calibration error on test, over told codes.")
    raw_calibration_error: float = Field(description="The same before calibration.")
    codes_per_note: tuple[CodesPerNote, ...] = Field(description="On test.")
    mean_predicted_codes: float = Field(description="Codes a test document at or above the threshold.")
    distinct_answers: int = Field(description="Different sets of predicted codes over the test documents.")
    documents_without_codes: int = Field(description="Test documents for which nothing is predicted.")
    truncated: int = Field(description="Test documents of which a part was not read.")
    told: int = Field(description="Codes of the test answers, whatever their probability.")
    dropped: int = Field(description="Fragments of the test answers that were no code of the vocabulary.")
    seconds: float = Field(description="Time for predicting the test split.")

    def metric(self, name: str, label_space: str) -> float:
        """Return one test metric's value over all codes. Raises KeyError if it was not measured."""
        return self.measured(name, label_space).value

    @property
    def decision(self) -> Decision:
        """How its probabilities become codes."""
        return Decision(threshold=self.threshold, calibration=self.calibration)

    def measured(self, name: str, label_space: str, *, level: str = "code", group: str = "all") -> Metric:
        """Return one test metric with its interval. Raises KeyError if it was not measured."""
        for metric in self.metrics:
            if (metric.name, metric.label_space, metric.level, metric.group) == (name, label_space, level, group):
                return metric
        raise KeyError(f"{name} ({label_space}, {level}, {group})")


class Difference(_Frozen):
    """One engine's metric minus another's on the same documents, by paired bootstrap."""

    name: str = Field(description="e.g. micro_f1")
    label_space: str
    first: str
    second: str
    value: float = Field(description="The first's minus the second's.")
    low: float = Field(description="Lower end of its 95 % interval.")
    high: float = Field(description="Upper end.")
    p_value: float = Field(description="Two-sided: how often resampled documents turn the difference's sign, twice.")


class EvaluationReport(_Frozen):
    """All engines on the same test split."""

    documents: int
    validation_documents: int
    codes: int = Field(description="Codes with a positive in the test split; closed metrics are over these.")
    unseen_codes: int = Field(description="Of these, codes outside the vocabulary: out of reach for every engine.")
    mean_gold_codes: float = Field(description="True codes a test document.")
    groups: tuple[CodeGroup, ...] = Field(description="In the order in which they are shown.")
    resamples: int = Field(description="Bootstrap samples behind every interval.")
    engines: tuple[EngineEvaluation, ...]
    differences: tuple[Difference, ...] = Field(description="The first engine against each other one.")

    def engine(self, name: str) -> EngineEvaluation:
        """Return one engine's results.

        Raises:
            MedcodeError: it was not evaluated.
        """
        for evaluation in self.engines:
            if evaluation.engine == name:
                return evaluation
        names = ", ".join(evaluation.engine for evaluation in self.engines)
        raise MedcodeError(f"engine {name!r} was not evaluated; this report has {names}: medcode evaluate")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Every engine's test metrics, as a bundle holds them."""
        return tuple(metric for evaluation in self.engines for metric in evaluation.metrics)


def write_report(report: EvaluationReport, file: Path) -> None:
    """Write a report as JSON, aside and renamed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    aside.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    aside.replace(file)


def read_report(file: Path) -> EvaluationReport:
    """Read a report.

    Raises:
        MedcodeError: missing, or of another version of medcode.
    """
    try:
        return EvaluationReport.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise MedcodeError(f"{file}: no evaluation there; make one: medcode evaluate") from None
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise MedcodeError(f"{file}: fields missing or wrong: {fields}; evaluate again: medcode evaluate") from None


def collapse_problems(report: EvaluationReport, engine: str) -> list[str]:
    """Say how a trained engine collapsed; an empty list means that it did not. For a blocking asset check.

    A collapsed model (NaN loss, or the same frequent codes for every note) still gets a micro F1 that looks
    like a weak model's, and users of this field's systems asked to be told (medical-coding-reproducibility#6,
    PLM-ICD#12). Not for the frequency prior, which answers alike by design.

    Raises:
        MedcodeError: the engine was not evaluated.
    """
    evaluation = report.engine(engine)
    problems = [
        f"{metric.name} ({metric.label_space}) of {engine} is {metric.value}"
        for metric in evaluation.metrics
        if not math.isfinite(metric.value)
    ]
    if evaluation.documents_without_codes == report.documents:
        problems.append(f"{engine} predicts no code for any of {report.documents} test documents")
    elif report.documents > 1 and evaluation.distinct_answers == 1:
        problems.append(f"{engine} predicts the same codes for all {report.documents} test documents")
    return problems


SHOWN = (
    ("micro F1", "micro_f1", "open"),
    ("micro F1, closed", "micro_f1", "closed"),
    ("macro F1, closed", "macro_f1", "closed"),
    ("macro F1, caml", "macro_f1", "caml"),
    ("precision", "micro_precision", "open"),
    ("recall", "micro_recall", "open"),
    ("MAP", "map", "open"),
    ("P@8", "precision_at_8", "open"),
    ("exact match", "exact_match_ratio", "open"),
)
"""Heading, metric and label space of the rows of the short table."""


def report_table(report: EvaluationReport) -> str:
    """Return the engines' main test metrics with their 95 % intervals as a markdown table."""
    engines = report.engines
    rows = [["", *(engine.engine for engine in engines)]]
    rows += [[heading, *(_with_interval(engine, name, space) for engine in engines)] for heading, name, space in SHOWN]
    rows.append(["codes a document", *(f"{engine.mean_predicted_codes:.1f}" for engine in engines)])
    rows.append(["threshold", *(f"{engine.threshold:.3f}" for engine in engines)])
    rows.append(["calibration error", *(f"{engine.calibration_error:.3f}" for engine in engines)])
    introduction = (
        f"Test split: {report.documents} documents, {report.mean_gold_codes:.1f} codes each, {report.codes} distinct "
        f"codes, {report.unseen_codes} of them never seen in training. Calibrated, and thresholds chosen, on "
        f"{report.validation_documents} validation documents. In brackets: 95 % intervals, {report.resamples} "
        "bootstrap samples of the test documents. Label space open where nothing else is said."
    )
    return f"{introduction}\n\n{aligned_table(rows)}"


def difference_table(differences: Sequence[Difference]) -> str:
    """Return paired differences as a markdown table."""
    rows = [["metric", "label space", "difference", "95 % interval", "p"]]
    rows += [
        [row.name, row.label_space, f"{row.value:+.4f}", f"{row.low:+.4f} to {row.high:+.4f}", f"{row.p_value:.3f}"]
        for row in differences
    ]
    return aligned_table(rows)


def aligned_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the first of them headings, as a markdown table whose columns line up in a terminal, too."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows]
    return "\n".join([lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]])


def _with_interval(engine: EngineEvaluation, name: str, space: str) -> str:
    try:
        metric = engine.measured(name, space)
    except KeyError:
        return "–"
    if metric.low is None or metric.high is None:
        return f"{metric.value:.3f}"
    return f"{metric.value:.3f} ({metric.low:.3f}–{metric.high:.3f})"
