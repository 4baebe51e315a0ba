"""What was measured on answers in words, and what was not."""

from pydantic import BaseModel, ConfigDict, Field


class TextMetric(BaseModel):
    """One metric over all answers, with its interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="e.g. rouge_l")
    value: float
    low: float = Field(description="Lower end of the 95 % bootstrap interval over answers.")
    high: float = Field(description="Upper end.")
    how: str = Field(description="Library, its version and settings: what another number must share to compare.")


class TextMetrics(BaseModel):
    """Every metric of a set of answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answers: int = Field(description="Answers measured.")
    metrics: tuple[TextMetric, ...]
    skipped: dict[str, str] = Field(description="Each metric that was not computed: why, and the way out.")

    def metric(self, name: str) -> TextMetric:
        """Return one metric. Raises KeyError if it was not computed; `skipped` says why."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)


class ChoiceAccuracy(BaseModel):
    """Accuracy of answers to multiple-choice questions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accuracy: TextMetric
    answers: int = Field(description="Questions asked.")
    unparsable: int = Field(description="Answers that name no option, or several; they count as wrong.")
