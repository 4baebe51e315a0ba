"""What an evaluation found, as a file that people and asset checks read."""

import math
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medcode_serving.bundle import Metric
from medcode_serving.errors import MedcodeError


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineEvaluation(_Frozen):
    """One engine on the test split."""

    engine: str
    threshold: float = Field(ge=0, le=1, description="Best micro F1 on validation; fixed for test.")
    metrics: tuple[Metric, ...] = Field(description="On test.")
    validation_metrics: tuple[Metric, ...] = Field(
        description="On validation, where the threshold was chosen: optimistic."
    )
    mean_predicted_codes: float = Field(description="Codes a test document at or above the threshold.")
    distinct_answers: int = Field(description="Different sets of predicted codes over the test documents.")
    documents_without_codes: int = Field(description="Test documents for which nothing is predicted.")
    truncated: int = Field(description="Test documents of which only the beginning was read.")
    dropped: int = Field(description="Fragments of the test answers that were no code of the vocabulary.")
    seconds: float = Field(description="Time for predicting the test split.")

    def metric(self, name: str, label_space: str) -> float:
        """Return one test metric's value. Raises KeyError if it was not measured."""
        for metric in self.metrics:
            if (metric.name, metric.label_space) == (name, label_space):
                return metric.value
        raise KeyError(f"{name} ({label_space})")


class EvaluationReport(_Frozen):
    """All engines on the same test split."""

    documents: int
    validation_documents: int
    codes: int = Field(description="Codes with a positive in the test split; closed metrics are over these.")
    unseen_codes: int = Field(description="Of these, codes outside the vocabulary: out of reach for every engine.")
    mean_gold_codes: float = Field(description="True codes a test document.")
    engines: tuple[EngineEvaluation, ...]

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


def report_table(report: EvaluationReport) -> str:
    """Return the engines' test metrics as a markdown table, closed label space first."""
    names = ("micro_f1", "micro_precision", "micro_recall", "macro_f1", "macro_precision", "macro_recall")
    headings = " | ".join(name.replace("_", " ") for name in names)
    lines = [
        f"Test split: {report.documents} documents, {report.mean_gold_codes:.1f} codes each, {report.codes} distinct "
        f"codes, {report.unseen_codes} of them never seen in training. Thresholds chosen on "
        f"{report.validation_documents} validation documents.",
        "",
        f"| engine | label space | {headings} | threshold | codes a document |",
        "|---|---|" + "---:|" * (len(names) + 2),
    ]
    for label_space in ("closed", "open"):
        for engine in report.engines:
            values = " | ".join(f"{engine.metric(name, label_space):.3f}" for name in names)
            lines.append(
                f"| {engine.engine} | {label_space} | {values} | {engine.threshold:.3f} "
                f"| {engine.mean_predicted_codes:.1f} |"
            )
    return "\n".join(lines)
