"""Answers in words measured: text metrics and the recipe's own, over all and by subject, and the adapter's gain."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.evaluation.bootstrap import interval, resample
from medcode_assets.evaluation.text_metrics.answer_statistics import (
    RESAMPLES,
    SEED,
    AnswerStatistics,
    mean_statistics,
    with_intervals,
)
from medcode_assets.evaluation.text_metrics.measure import measure_text
from medcode_assets.evaluation.text_metrics.overlap import meteor_statistics, rouge_statistics
from medcode_assets.evaluation.text_metrics.report import TextMetric
from medcode_assets.evaluation.text_metrics.squad import exact_match, token_f1
from medcode_assets.recipes.recipe import Words
from medcode_assets.recipes.words.answers import TUNED, UNTUNED, Answered
from medcode_assets.recipes.words.questions import Asked
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np

    from medcode_assets.evaluation.text_metrics.bertscore import BertScoreEncoder

REPORT = "words.json"
OWN = "the recipe's own measure, mean over answers"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SubjectMeasures(_Frozen):
    """What one subject's answers measure."""

    subject: str
    answers: int
    means: dict[str, float] = Field(description="Of every metric that is a mean over answers.")


class WordMeasures(_Frozen):
    """What one model's answers measure."""

    answers: int
    metrics: tuple[TextMetric, ...] = Field(description="The recipe's own first, then the text metrics.")
    skipped: dict[str, str] = Field(description="Each metric that was not computed: why, and the way out.")
    subjects: tuple[SubjectMeasures, ...] = Field(description="By name; none where questions have no subject.")
    perplexity: float | None = Field(description="Of the first references, over all their tokens.")
    words: float = Field(description="Words of an answer, on average.")
    verbosity: float = Field(description="Words of the answers for each word of their first references.")
    confidence: float = Field(description="Geometric mean of an answer's token probabilities, averaged over answers.")
    cut: float = Field(description="Share of answers that were broken off at the limit.")
    empty: float = Field(description="Share of answers without a word.")
    distinct: int = Field(description="Different answers.")

    def value(self, name: str) -> float | None:
        """Return a metric's value; None if it was not computed."""
        return next((metric.value for metric in self.metrics if metric.name == name), None)


class Gain(_Frozen):
    """How much better the adapter's answers are than the untuned base's, on the same questions."""

    name: str
    value: float
    low: float = Field(description="Lower end of the 95 % interval, paired bootstrap over questions.")
    high: float = Field(description="Upper end.")


class WordReport(_Frozen):
    """The contents of words.json."""

    headline: str
    measures: dict[str, str] = Field(description="What each of the recipe's own measures is.")
    models: dict[str, WordMeasures]
    gains: tuple[Gain, ...]

    def gain(self, name: str) -> Gain | None:
        """Return the gain of one metric; None if it was not measured for both."""
        return next((gain for gain in self.gains if gain.name == name), None)


def measure_answers(
    asked: Sequence[Asked],
    answers: Sequence[Answered],
    words: Words,
    *,
    bertscore: "BertScoreEncoder | None" = None,
) -> WordMeasures:
    """Return what a model's answers measure.

    Args:
        asked: The questions.
        answers: As many, in the same order.
        words: The recipe's own measures.
        bertscore: Encoder that BERTScore compares with; none: it is skipped.

    Raises:
        MedcodeError: there are no answers, one of the recipe's scores is no finite number, or the model diverged.
    """
    import numpy as np

    texts = [answer.text for answer in answers]
    measured = measure_text(texts, [one.references for one in asked], bertscore=bertscore)
    own = own_scores(asked, answers, words)
    each = {**own, **text_scores(asked, answers)}
    counts = [len(text.split()) for text in texts]
    wanted = [len(one.references[0].split()) for one in asked]
    return WordMeasures(
        answers=len(answers),
        metrics=(*_with_intervals(own), *measured.metrics),
        skipped=measured.skipped,
        subjects=_by_subject(asked, each),
        perplexity=_perplexity(answers),
        words=float(np.mean(counts)),
        verbosity=sum(counts) / max(1, sum(wanted)),
        confidence=float(np.mean([answer.confidence for answer in answers])),
        cut=float(np.mean([answer.cut for answer in answers])),
        empty=float(np.mean([not text.strip() for text in texts])),
        distinct=len({" ".join(text.split()) for text in texts}),
    )


def own_scores(asked: Sequence[Asked], answers: Sequence[Answered], words: Words) -> "dict[str, np.ndarray]":
    """Return the recipe's own scores, float64 [answers] by measure. Raises MedcodeError if one is not finite."""
    import numpy as np

    found = {name: np.array(values, dtype=np.float64) for name, values in words.score(asked, answers).items()}
    for name, values in found.items():
        if len(values) != len(answers) or not np.isfinite(values).all():
            raise MedcodeError(f"measure {name}: it gives no finite number for some answers; this is a bug of medcode")
    return found


def text_scores(asked: Sequence[Asked], answers: Sequence[Answered]) -> "dict[str, np.ndarray]":
    """Return each answer's ROUGE, METEOR, exact match and token F1, float64 [answers]; what cannot be computed lacks.

    BLEU is none of a single answer: it is computed over all only.
    """
    import numpy as np

    pairs = [(answer.text, one.references) for one, answer in zip(asked, answers, strict=True)]
    found = {
        "exact_match": np.array([exact_match(*pair) for pair in pairs]),
        "token_f1": np.array([token_f1(*pair) for pair in pairs]),
    }
    families: tuple[tuple[tuple[str, ...], Callable[..., AnswerStatistics]], ...] = (
        (("rouge_1", "rouge_2", "rouge_l"), rouge_statistics),
        (("meteor",), meteor_statistics),
    )
    for names, statistics in families:
        try:
            rows = statistics(pairs).rows
        except (MedcodeError, ModuleNotFoundError):
            continue  # measure_text says why
        found.update({name: rows[:, column] for column, name in enumerate(names)})
    return found


def _with_intervals(scores: "Mapping[str, np.ndarray]") -> tuple[TextMetric, ...]:
    import numpy as np

    if not scores:
        return ()
    rows = np.column_stack(list(scores.values()))
    return with_intervals(mean_statistics(rows, tuple(scores), OWN))


def _by_subject(asked: Sequence[Asked], scores: "Mapping[str, np.ndarray]") -> tuple[SubjectMeasures, ...]:
    places = defaultdict(list)
    for place, one in enumerate(asked):
        if one.subject:
            places[one.subject].append(place)
    return tuple(
        SubjectMeasures(
            subject=subject,
            answers=len(rows),
            means={name: float(values[rows].mean()) for name, values in scores.items()},
        )
        for subject, rows in sorted(places.items())
    )


def _perplexity(answers: Sequence[Answered]) -> float | None:
    tokens = sum(answer.reference_tokens for answer in answers)
    if not tokens:
        return None
    mean = -sum(answer.reference_log_probability for answer in answers) / tokens
    if math.isnan(mean):
        raise MedcodeError(
            "a token's log-probability is no number: the model diverged; train with a lower learning rate"
        )
    return math.exp(min(mean, 700.0))


def word_report(
    asked: Sequence[Asked],
    answers: Mapping[str, Sequence[Answered]],
    words: Words,
    *,
    bertscore: "BertScoreEncoder | None" = None,
) -> WordReport:
    """Return what models' answers to the same questions measure, and the gain of `TUNED` over `UNTUNED`.

    Raises:
        MedcodeError: as `measure_answers`.
    """
    return WordReport(
        headline=words.headline,
        measures=dict(words.measures),
        models={name: measure_answers(asked, found, words, bertscore=bertscore) for name, found in answers.items()},
        gains=gains(asked, answers[UNTUNED], answers[TUNED], words) if UNTUNED in answers else (),
    )


def gains(
    asked: Sequence[Asked], before: Sequence[Answered], after: Sequence[Answered], words: Words
) -> tuple[Gain, ...]:
    """Return the paired difference of each metric that is a mean over answers, `after` less `before`."""
    import numpy as np

    def scores(answers: Sequence[Answered]) -> "dict[str, np.ndarray]":
        return {**own_scores(asked, answers, words), **text_scores(asked, answers)}

    first, second = scores(before), scores(after)
    differences = {name: second[name] - first[name] for name in second if name in first}

    def means(weights: "np.ndarray") -> "dict[str, np.ndarray]":
        return {name: values @ weights / len(values) for name, values in differences.items()}

    drawn = resample(means, len(asked), resamples=RESAMPLES, seed=SEED)
    found = []
    for name, values in differences.items():
        value = float(np.mean(values))
        low, high = interval(value, drawn[name])
        found.append(Gain(name=name, value=value, low=low, high=high))
    return tuple(found)


def write_word_report(report: WordReport, folder: Path) -> None:
    """Write words.json into a folder."""
    (folder / REPORT).write_text(report.model_dump_json(indent=2))


def read_word_report(folder: Path) -> WordReport:
    """Read a folder's words.json."""
    return WordReport.model_validate_json((folder / REPORT).read_text())


def logged_metrics(report: WordReport) -> dict[str, float]:
    """Return what MLflow is told, by model and metric."""
    found = {f"{name}/{one.name}": one.value for name, model in report.models.items() for one in model.metrics}
    told = {f"{name}/perplexity": model.perplexity for name, model in report.models.items()}
    return {**found, **{name: value for name, value in told.items() if value is not None}}


SHOWN = ("rouge_l", "bleu_4", "meteor", "bertscore_f1", "token_f1", "exact_match")
"""Text metrics in tables; all are in words.json."""


def word_table(report: WordReport) -> str:
    """Return the models side by side as a markdown table: values with intervals, and the adapter's gain."""
    names = list(report.models)
    lines = [f"| {' | '.join(['measure', *names, 'gain'])} |", "|" + "---|" * (len(names) + 2)]
    for metric in (*report.measures, *SHOWN):
        cells = [_cell(report.models[name], metric) for name in names]
        if any(cells):
            label = f"**{metric}**" if metric == report.headline else metric
            lines.append(f"| {' | '.join([label, *cells, _gain(report.gain(metric))])} |")
    for name, title in OTHERS.items():
        values = [getattr(measured, name) for measured in report.models.values()]
        cells = ["" if value is None else f"{value:.4g}" for value in values]
        lines.append(f"| {' | '.join([title, *cells, ''])} |")
    return "\n".join(lines)


OTHERS = {
    "perplexity": "perplexity of references",
    "words": "words an answer",
    "verbosity": "words for each of the reference's",
    "cut": "share broken off",
}
"""What else the table shows, by the field of `WordMeasures`."""


def _cell(measured: WordMeasures, metric: str) -> str:
    found = next((one for one in measured.metrics if one.name == metric), None)
    return f"{found.value:.3f} ({found.low:.3f}-{found.high:.3f})" if found else ""


def _gain(gain: Gain | None) -> str:
    return f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})" if gain else ""
