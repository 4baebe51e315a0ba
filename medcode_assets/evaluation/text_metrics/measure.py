"""Every text metric of a set of answers; what cannot be computed here is named, and the rest is measured."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from medcode_assets.evaluation.text_metrics import squad
from medcode_assets.evaluation.text_metrics.answer_statistics import AnswerStatistics, mean_statistics, with_intervals
from medcode_assets.evaluation.text_metrics.bertscore import METRICS as BERTSCORE
from medcode_assets.evaluation.text_metrics.bertscore import BertScoreEncoder, bertscore_statistics
from medcode_assets.evaluation.text_metrics.overlap import bleu_statistics, meteor_statistics, rouge_statistics
from medcode_assets.evaluation.text_metrics.report import TextMetric, TextMetrics
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from medcode_assets.evaluation.text_metrics.overlap import Pairs


def measure_text(
    answers: Sequence[str], references: Sequence[Sequence[str]], *, bertscore: BertScoreEncoder | None = None
) -> TextMetrics:
    """Return BLEU, ROUGE, METEOR, BERTScore, exact match and token F1, each with its interval.

    All but BERTScore, a mean of cosines, lie in [0, 1]. An identical answer scores 1, with two exceptions: METEOR,
    and ROUGE-2 of a single word. The order of the answers does not matter, to the intervals either.

    Args:
        answers: One an item; may be empty, which scores 0 unless a reference is empty too.
        references: Each answer's references, at least one; the best counts.
        bertscore: The encoder that BERTScore compares with; without one it is skipped.

    Raises:
        MedcodeError: there are no answers.
        ValueError: answers and references are not as many, or an answer has no list of references.
    """
    pairs = _paired(answers, references)
    families: dict[tuple[str, ...], Callable[[Pairs], AnswerStatistics]] = {
        ("bleu_1", "bleu_2", "bleu_3", "bleu_4"): bleu_statistics,
        ("rouge_1", "rouge_2", "rouge_l"): rouge_statistics,
        ("meteor",): meteor_statistics,
        BERTSCORE: partial(_bertscore_if_asked, encoder=bertscore),
        ("exact_match", "token_f1"): _squad_statistics,
    }
    metrics: list[TextMetric] = []
    skipped: dict[str, str] = {}
    for names, statistics in families.items():
        try:
            metrics += with_intervals(statistics(pairs))
        except MedcodeError as error:
            skipped.update(dict.fromkeys(names, str(error)))
        except ModuleNotFoundError as error:
            reason = f"{error.name} is not installed: pip install 'medcode[text-metrics]'"
            skipped.update(dict.fromkeys(names, reason))
    return TextMetrics(answers=len(pairs), metrics=tuple(metrics), skipped=skipped)


def _paired(answers: Sequence[str], references: Sequence[Sequence[str]]) -> "Pairs":
    """Return answers with their references, sorted: the same set of answers is then resampled by the same draws."""
    if len(answers) != len(references):
        raise ValueError(f"there are {len(answers)} answers and {len(references)} lists of references")
    if not answers:
        raise MedcodeError("there are no answers to measure; check that the split has examples")
    for place, given in enumerate(references):
        if isinstance(given, str) or not given:
            raise ValueError(f"answer {place} needs a list of at least one reference")
    return sorted((answer, tuple(given)) for answer, given in zip(answers, references, strict=True))


def _squad_statistics(pairs: "Pairs") -> AnswerStatistics:
    import numpy as np

    rows = [[squad.exact_match(*pair), squad.token_f1(*pair)] for pair in pairs]
    return mean_statistics(np.array(rows), ("exact_match", "token_f1"), squad.HOW)


def _bertscore_if_asked(pairs: "Pairs", encoder: BertScoreEncoder | None) -> AnswerStatistics:
    if encoder is None:
        raise MedcodeError("no encoder was named for BERTScore: give a local folder or a hub id")
    return bertscore_statistics(pairs, encoder)
