import pytest

from medcode_assets.evaluation.plots import engine_bars, length_histogram, loss_curve
from medcode_assets.evaluation.report import EngineEvaluation, EvaluationReport
from medcode_serving.bundle import Metric

PNG = b"\x89PNG\r\n\x1a\n"


def evaluation(name: str) -> EngineEvaluation:
    metrics = tuple(
        Metric(name=metric, value=0.5, engine=name, split="test", label_space=space)
        for metric in ("micro_f1", "macro_f1")
        for space in ("open", "closed")
    )
    return EngineEvaluation(
        engine=name,
        threshold=0.4,
        metrics=metrics,
        validation_metrics=(),
        mean_predicted_codes=3,
        distinct_answers=9,
        documents_without_codes=0,
        truncated=0,
        dropped=0,
        seconds=1,
    )


def test_bars_of_several_engines():
    report = EvaluationReport(
        documents=4,
        validation_documents=4,
        codes=6,
        unseen_codes=0,
        mean_gold_codes=5.2,
        engines=tuple(map(evaluation, ("adapter", "base_model", "frequency_prior"))),
    )
    assert engine_bars(report).startswith(PNG)


@pytest.mark.parametrize("points", [[], [(1, 2.0)], [(step, 1 / step) for step in range(1, 200)]])
def test_loss_curves_of_any_length(points):
    assert loss_curve(points).startswith(PNG)
    assert loss_curve(points, [(1, {"loss": 1.5}), (2, {"loss": 1.2, "micro_f1": 0.4}), (3, {})]).startswith(PNG)


@pytest.mark.parametrize("bars", [{}, {0: 1}, {0: 2, 24: 1, 97: 1}])
def test_length_histograms(bars):
    quantiles = {50: 20.0, 90: 3000.0, 99: 4000.0} if bars else {}
    assert length_histogram(bars, quantiles, max_tokens=1024).startswith(PNG)
