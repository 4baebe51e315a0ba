"""The untuned base's and the tuned model's answers side by side: every text metric, over all and by specialty."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.evaluation.bootstrap import estimate, interval, p_value, resample
from medcode_assets.evaluation.text_metrics import squad
from medcode_assets.evaluation.text_metrics.answer_statistics import (
    RESAMPLES,
    SEED,
    AnswerStatistics,
    mean_statistics,
)
from medcode_assets.evaluation.text_metrics.bertscore import METRICS as BERTSCORE
from medcode_assets.evaluation.text_metrics.bertscore import BertScoreEncoder, bertscore_statistics
from medcode_assets.evaluation.text_metrics.overlap import (
    bleu_statistics,
    meteor_statistics,
    rouge_statistics,
    stem_meteor_statistics,
)
from medcode_assets.recipes.words.answers import Answered
from medcode_assets.recipes.words.questions import Asked
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np

    from medcode_assets.evaluation.text_metrics.overlap import Pairs

OVERALL = "overall"
"""Name of the group of all answers."""
BLEU = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")
SQUAD = ("exact_match", "token_f1")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Value(_Frozen):
    """A number with its 95 % bootstrap interval over answers."""

    value: float
    low: float
    high: float


class Compared(_Frozen):
    """One metric of both models over the same answers."""

    name: str
    base: Value
    finetuned: Value
    difference: Value = Field(description="Tuned minus base, paired: both are resampled by the same draws.")
    p: float = Field(description="Two-sided, of the difference being 0.")


class Group(_Frozen):
    """Every metric over a specialty's answers, or over all."""

    name: str
    answers: int
    metrics: tuple[Compared, ...]

    def metric(self, name: str) -> Compared:
        """Return one metric. Raises KeyError if it was not measured."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)


class SpecialtyResults(_Frozen):
    """What an iteration came to."""

    base_model: str = Field(description="Id of the base model.")
    overall: Group
    specialties: tuple[Group, ...]
    how: dict[str, str] = Field(description="Library, version and settings, by metric.")
    skipped: dict[str, str] = Field(description="Each metric that was not computed: why, and the way out.")


@dataclass(frozen=True)
class Family:
    """Metrics that are computed from the same statistics."""

    names: tuple[str, ...]
    base: "np.ndarray"
    """float64 [answers, columns]; the columns of means are `names`."""
    finetuned: "np.ndarray"
    how: str
    of_sums: "Callable[[np.ndarray], dict[str, np.ndarray]] | None" = None
    """From the columns' sums over samples [columns, samples] to each metric [samples]; None: means of the columns."""

    def measured(self, sums: "np.ndarray", answers: int) -> "dict[str, np.ndarray]":
        """Return each metric of samples of as many answers, given the columns' sums over them [columns, samples]."""
        return self.of_sums(sums) if self.of_sums else dict(zip(self.names, sums / answers, strict=True))


@dataclass(frozen=True)
class Scored:
    """Every answer of both models, scored."""

    families: tuple[Family, ...]
    skipped: dict[str, str]

    def per_answer(self, engine: str) -> "dict[str, np.ndarray]":
        """Return each metric of every single answer; `engine` is base or finetuned."""
        return {
            name: values
            for family in self.families
            for name, values in family.measured(getattr(family, engine).T, 1).items()
        }


def score(
    asked: Sequence[Asked], base: Sequence[Answered], finetuned: Sequence[Answered], bertscore: BertScoreEncoder | None
) -> Scored:
    """Score all answers of both models once; what cannot be computed here is named, and the rest is.

    Raises:
        MedcodeError: there are no answers.
    """
    if not asked:
        raise MedcodeError("there are no answers to measure; check that the holdout has questions")
    pairs = [
        (answer.text, one.references)
        for answers in (base, finetuned)
        for one, answer in zip(asked, answers, strict=True)
    ]
    makers: dict[tuple[str, ...], Callable[[Pairs], AnswerStatistics]] = {
        BLEU: bleu_statistics,
        ("rouge_1", "rouge_2", "rouge_l"): rouge_statistics,
        ("meteor",): meteor_statistics,
        ("meteor_exact_stem",): stem_meteor_statistics,
        BERTSCORE: partial(_bertscore_if_asked, encoder=bertscore),
        SQUAD: _squad_statistics,
    }
    families, skipped = [], {}
    for names, statistics in makers.items():
        try:
            found = statistics(pairs)
        except MedcodeError as error:
            skipped.update(dict.fromkeys(names, str(error)))
        except ModuleNotFoundError as error:
            skipped.update(dict.fromkeys(names, f"{error.name} is not installed: pip install 'medcode[text-metrics]'"))
        else:
            families.append(
                Family(
                    names,
                    found.rows[: len(asked)],
                    found.rows[len(asked) :],
                    found.how,
                    partial(_of_sums, found) if names == BLEU else None,
                )
            )
    return Scored(tuple(families), skipped)


def compare(asked: Sequence[Asked], scored: Scored, base_model: str) -> SpecialtyResults:
    """Return every metric of both models with intervals, over all answers and by specialty."""
    everything = list(range(len(asked)))
    specialties = sorted({one.subject for one in asked})
    return SpecialtyResults(
        base_model=base_model,
        overall=_group(OVERALL, everything, scored),
        specialties=tuple(
            _group(name, [place for place in everything if asked[place].subject == name], scored)
            for name in specialties
        ),
        how={name: family.how for family in scored.families for name in family.names},
        skipped=scored.skipped,
    )


def _group(name: str, places: list[int], scored: Scored) -> Group:
    metrics = [metric for family in scored.families for metric in _compared(family, places)]
    return Group(name=name, answers=len(places), metrics=tuple(metrics))


def _compared(family: Family, places: list[int]) -> list[Compared]:
    """Return a family's metrics over some answers, all from the same draws."""
    base, finetuned, answers = family.base[places], family.finetuned[places], len(places)

    def of_samples(weights: "np.ndarray") -> "dict[tuple[str, str], np.ndarray]":
        sides = {
            "base": family.measured(base.T @ weights, answers),
            "finetuned": family.measured(finetuned.T @ weights, answers),
        }
        sides["difference"] = {name: sides["finetuned"][name] - sides["base"][name] for name in family.names}
        return {(side, name): values for side, found in sides.items() for name, values in found.items()}

    values = estimate(of_samples, answers)
    resampled = resample(of_samples, answers, resamples=RESAMPLES, seed=SEED)

    def told(side: str, name: str) -> Value:
        value, drawn = values[side, name], resampled[side, name]
        low, high = interval(value, drawn)
        # An interval without its bias may reach beyond what the metric can be.
        least = -1.0 if side == "difference" else min(0.0, float(drawn.min()))
        return Value(value=value, low=max(low, least), high=min(high, 1.0))

    return [
        Compared(
            name=name,
            base=told("base", name),
            finetuned=told("finetuned", name),
            difference=told("difference", name),
            p=p_value(values["difference", name], resampled["difference", name]),
        )
        for name in family.names
    ]


def _of_sums(found: AnswerStatistics, sums: "np.ndarray") -> "dict[str, np.ndarray]":
    return {name: metric(sums) for name, metric in found.metrics.items()}


def _squad_statistics(pairs: "Pairs") -> AnswerStatistics:
    import numpy as np

    rows = [[squad.exact_match(*pair), squad.token_f1(*pair)] for pair in pairs]
    return mean_statistics(np.array(rows), SQUAD, squad.HOW)


def _bertscore_if_asked(pairs: "Pairs", encoder: BertScoreEncoder | None) -> AnswerStatistics:
    if encoder is None:
        raise MedcodeError("no encoder was named for BERTScore: specialty.bertscore_model, a local folder or a hub id")
    return bertscore_statistics(pairs, encoder)
