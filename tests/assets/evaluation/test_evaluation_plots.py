import pytest

from medcode_assets.evaluation.plots import engine_bars, engine_colours, length_histogram, loss_curve
from tests.assets.evaluation.made_report import bare_report, made_report

PNG = b"\x89PNG\r\n\x1a\n"


def test_bars_of_several_engines():
    assert engine_bars(made_report()).startswith(PNG)


def test_bars_of_one_engine_without_intervals():
    assert engine_bars(bare_report()).startswith(PNG)


def test_an_engine_keeps_its_colour_and_no_two_share_one():
    alone = engine_colours(made_report(("adapter", "linear"), chapters=0))
    several = engine_colours(made_report(("adapter", "mine", "linear", "yours"), chapters=0))
    assert {name: several[name] for name in alone} == alone
    assert len(set(several.values())) == 4


@pytest.mark.parametrize("points", [[], [(1, 2.0)], [(step, 1 / step) for step in range(1, 200)]])
def test_loss_curves_of_any_length(points):
    assert loss_curve(points).startswith(PNG)
    assert loss_curve(points, [(1, {"loss": 1.5}), (2, {"loss": 1.2, "micro_f1": 0.4}), (3, {})]).startswith(PNG)


@pytest.mark.parametrize("bars", [{}, {0: 1}, {0: 2, 24: 1, 97: 1}])
def test_length_histograms(bars):
    quantiles = {50: 20.0, 90: 3000.0, 99: 4000.0} if bars else {}
    assert length_histogram(bars, quantiles, max_tokens=1024).startswith(PNG)
