"""How sure the model is of its option, and whether that means something: calibrated on validation, checked on test.

The confidence of an answer is the softmax over its options' log-probabilities, divided by a temperature (Guo et al.,
ICML 2017). It belongs to the likeliest option; open questions have none.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.recipes.medqa.rows import LABELS
from medcode_assets.recipes.words.answers import Answered
from medcode_assets.recipes.words.questions import Asked
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np

REPORT, SCORES = "confidence.json", "confidence.csv"
BINS = 10
TEMPERATURES = (0.05, 50.0)
"""Between these one is looked for."""
AT_BOUND = 0.01
"""Distance in logarithms from there, below which a search ended at a bound."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ConfidenceBin(_Frozen):
    """Answers whose confidence lies in one interval."""

    low: float
    high: float
    answers: int
    confidence: float = Field(description="Their mean.")
    right: float = Field(description="Share of them whose option is right.")


class ConfidenceReport(_Frozen):
    """The contents of confidence.json."""

    fitted_on: int = Field(description="Validation questions with options.")
    answers: int = Field(description="Test questions with options.")
    without_options: int = Field(description="Test questions that have no such confidence.")
    accuracy: float
    temperature: float = Field(description="Above 1: the model is too sure of itself.")
    ece_before: float = Field(description="Expected calibration error on test at temperature 1.")
    ece: float = Field(description="With the temperature.")
    auroc: float | None = Field(description="That a right answer has more confidence than a wrong one; None: no pair.")
    auroc_of_words: float | None = Field(
        description="The same of the written answer's own token probabilities and what it chooses in its words."
    )
    before: tuple[ConfidenceBin, ...]
    after: tuple[ConfidenceBin, ...]

    @property
    def at_bound(self) -> bool:
        """Whether the temperature is where the search ended, and not the best there is."""
        return any(abs(math.log(self.temperature / bound)) < AT_BOUND for bound in TEMPERATURES)


def measure_confidence(
    validation: tuple[Sequence[Asked], Sequence[Answered]],
    test: tuple[Sequence[Asked], Sequence[Answered]],
) -> ConfidenceReport:
    """Fit the temperature on validation answers and measure test answers with it.

    Raises:
        MedcodeError: a split has no question with options and finite log-probabilities.
    """
    import numpy as np

    from medcode_assets.recipes.medqa.scoring import score

    temperature = fit_temperature(*validation)
    with_options = [place for place, one in enumerate(test[0]) if one.options]
    asked, answers = [test[0][at] for at in with_options], [test[1][at] for at in with_options]
    told, right = confidences(asked, answers, 1.0)
    calibrated, _ = confidences(asked, answers, temperature)
    if not len(told):
        raise MedcodeError("recipe medqa: no test question has options, so there is no confidence to measure")
    said_right = np.array(score(asked, answers)["accuracy_generated"]) > 0
    before, after = confidence_bins(told, right), confidence_bins(calibrated, right)
    return ConfidenceReport(
        fitted_on=sum(bool(one.options) for one in validation[0]),
        answers=len(asked),
        without_options=len(test[0]) - len(asked),
        accuracy=float(right.mean()),
        temperature=temperature,
        ece_before=calibration_error(before),
        ece=calibration_error(after),
        auroc=area(calibrated, right),
        auroc_of_words=area(np.array([answer.confidence for answer in answers]), said_right),
        before=before,
        after=after,
    )


def option_probabilities(answer: Answered, temperature: float) -> "np.ndarray":
    """Return the probability of each option, float64 [options], which sum to 1.

    Raises:
        MedcodeError: the model gave no finite log-probabilities.
    """
    import numpy as np

    told = np.array(answer.option_log_probabilities, dtype=np.float64)
    if not np.isfinite(told).all():
        raise MedcodeError(
            "an option's log-probability is no finite number: the model diverged; lower the learning rate"
        )
    scaled = (told - told.max(initial=-np.inf)) / temperature
    shares = np.exp(scaled)
    return np.asarray(shares / shares.sum(), dtype=np.float64)


def confidences(
    asked: Sequence[Asked], answers: Sequence[Answered], temperature: float
) -> "tuple[np.ndarray, np.ndarray]":
    """Return the confidence of each answer and whether its option is right: float64 and bool, both [answers]."""
    import numpy as np

    probabilities = [option_probabilities(answer, temperature) for answer in answers]
    told = np.array([row.max() for row in probabilities])
    right = [int(row.argmax()) == one.correct for row, one in zip(probabilities, asked, strict=True)]
    return told, np.array(right, dtype=bool)


def fit_temperature(asked: Sequence[Asked], answers: Sequence[Answered]) -> float:
    """Return the temperature under which the right options are likeliest on the whole.

    Raises:
        MedcodeError: no question has options.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar

    rows = [
        (answer, one.correct)
        for one, answer in zip(asked, answers, strict=True)
        if one.options and one.correct is not None
    ]
    if not rows:
        raise MedcodeError("recipe medqa: no validation question has options, so no temperature can be fitted")

    def loss(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        right = [option_probabilities(answer, temperature)[correct] for answer, correct in rows]
        return float(-np.log(np.clip(right, 1e-300, None)).mean())

    least, greatest = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(least, greatest), method="bounded").x))


def confidence_bins(told: "np.ndarray", right: "np.ndarray") -> tuple[ConfidenceBin, ...]:
    """Return mean confidence and share of right answers in each of `BINS` bins that holds an answer."""
    import numpy as np

    places = np.minimum((told * BINS).astype(np.int64), BINS - 1)
    return tuple(
        ConfidenceBin(
            low=place / BINS,
            high=(place + 1) / BINS,
            answers=int((places == place).sum()),
            confidence=float(told[places == place].mean()),
            right=float(right[places == place].mean()),
        )
        for place in np.unique(places).tolist()
    )


def calibration_error(bins: Sequence[ConfidenceBin]) -> float:
    """Return the mean distance of confidence and share of right answers over all answers."""
    answers = sum(one.answers for one in bins)
    return sum(one.answers * abs(one.confidence - one.right) for one in bins) / answers if answers else 0.0


def area(told: "np.ndarray", right: "np.ndarray") -> float | None:
    """Return the area under the ROC curve; None where all answers are right, or all wrong."""
    from sklearn.metrics import roc_auc_score

    if right.all() or not right.any():
        return None
    return float(roc_auc_score(right, told))


def write_confidence(report: ConfidenceReport, test: tuple[Sequence[Asked], Sequence[Answered]], folder: Path) -> None:
    """Write the report, and each test answer's option and confidence by the question's number."""
    import csv

    (folder / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    with (folder / SCORES).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["example_id", "option", "confidence", "right"])
        for one, answer in zip(*test, strict=True):
            if one.options:
                probabilities = option_probabilities(answer, report.temperature)
                place = int(probabilities.argmax())
                writer.writerow(
                    [one.example_id, LABELS[place], f"{probabilities[place]:.6f}", int(place == one.correct)]
                )


def read_confidence(folder: Path) -> ConfidenceReport:
    """Return the report of an artifact."""
    return ConfidenceReport.model_validate_json((folder / REPORT).read_text(encoding="utf-8"))
