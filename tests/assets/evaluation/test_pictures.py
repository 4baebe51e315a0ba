from io import BytesIO

import numpy as np
import pytest

from medcode_assets.evaluation.html.pictures import EMPTY, chapters, codes_per_note, precision_recall, report_pictures
from medcode_assets.evaluation.plots import COLOURS
from medcode_assets.evaluation.report import CodesPerNote, EvaluationReport
from tests.assets.evaluation.made_report import bare_report, made_report

NAMES = {
    "engines",
    "precision_recall",
    "frequency_buckets",
    "chapters",
    "codes_per_note",
    "calibration",
    "learning_curve",
}


def pixels(png: bytes) -> np.ndarray:
    """The picture as [height, width, 3] of 0 … 255; fails if it is no whole PNG."""
    from matplotlib.image import imread

    return (imread(BytesIO(png), format="png")[:, :, :3] * 255).round().astype(int)


def area(png: bytes, colour: str) -> int:
    """Pixels of one colour."""
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return int((pixels(png) == wanted).all(axis=2).sum())


def with_cells(report: EvaluationReport, cells: tuple[CodesPerNote, ...]) -> EvaluationReport:
    engines = tuple(one.model_copy(update={"codes_per_note": cells}) for one in report.engines)
    return report.model_copy(update={"engines": engines})


def test_every_picture_of_a_full_report():
    pictures = report_pictures(made_report(), [(1, 2.0), (2, 1.5)], [(2, {"loss": 1.8})])
    assert set(pictures) == NAMES
    assert all(pixels(png).std() > 0 for png in pictures.values())


def test_every_picture_of_a_report_with_nothing_in_it():
    pictures = report_pictures(bare_report(), [], [])
    assert set(pictures) == NAMES
    assert all(pixels(png).std() > 0 for png in pictures.values())


def test_a_metric_that_was_not_measured_leaves_its_cell_empty():
    report = made_report(("adapter", "linear"), chapters=2)
    without = tuple(metric for metric in report.engines[1].metrics if metric.group != "chapter:icd10cm:C00-D49")
    linear = report.engines[1].model_copy(update={"metrics": without})
    partly = report.model_copy(update={"engines": (report.engines[0], linear)})
    # A cell is some 100 by 26 pixels; the edges of letters may have its colour, too.
    assert area(chapters(partly), EMPTY) - area(chapters(report), EMPTY) > 1000


def test_the_heat_map_grows_with_the_chapters_up_to_thirty():
    few, many, more = (pixels(chapters(made_report(("adapter",), chapters=count))).shape[0] for count in (3, 30, 39))
    assert few < many == more


def test_an_engine_has_its_colour_whatever_stands_beside_it():
    alone, beside = made_report(("linear",), chapters=0), made_report(("adapter", "linear"), chapters=0)
    blue, orange = COLOURS[:2]
    assert area(precision_recall(alone), orange) > 100
    assert area(precision_recall(alone), blue) == 0
    assert min(area(precision_recall(beside), colour) for colour in (blue, orange)) > 100


def test_an_engine_that_was_asked_nothing():
    assert pixels(codes_per_note(with_cells(bare_report(), ()))).std() > 0


@pytest.mark.parametrize("largest", [0, 1, 39, 40, 500])
def test_codes_per_note_of_any_size(largest):
    cells = (CodesPerNote(gold=largest, predicted=0, documents=1), CodesPerNote(gold=0, predicted=largest, documents=9))
    assert pixels(codes_per_note(with_cells(bare_report(), cells))).std() > 0
