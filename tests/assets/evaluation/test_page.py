import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from medcode_assets.evaluation.html.page import EarlierEvaluation, PageFacts, report_page
from medcode_assets.evaluation.html.sentences import outcome, reading_help, share
from medcode_assets.evaluation.report import Difference, EvaluationReport
from medcode_serving.bundle import Metric
from tests.assets.evaluation.made_report import ENGINES, bare_report, made_report

VOID = {"meta", "img", "br"}
PNG = b"\x89PNG\r\n\x1a\n"
PICTURES = dict.fromkeys(
    ("engines", "precision_recall", "frequency_buckets", "chapters", "codes_per_note", "calibration", "learning_curve"),
    PNG,
)


class Reader(HTMLParser):
    """Checks that every element is closed where it should be, and keeps what was in table cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += f" {data}"

    def row(self, *heading: str) -> list[str]:
        """Cells of the row that begins so, white space made one."""
        rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        found = [row for row in rows if row and row[0] == " ".join(heading)]
        assert len(found) == 1, f"{len(found)} rows begin with {heading}"
        return found[0][1:]


def facts(**changes) -> PageFacts:
    given = {
        "title": "icd: 3f2a",
        "recipe": "icd",
        "partition": "mimic-iv-2.2",
        "split_hash": "9f86d0",
        "base_model": "Qwen/Qwen3-4B",
        "code_version": "0.1.0+abc",
        "made": datetime(2026, 3, 4, 15, 30, tzinfo=UTC),
        "settings": {"mode": "lora", "lora": {"rank": 8}},
        "losses": [(1, 2.0), (20, 1.0)],
        "validation": [(10, {"loss": 1.25}), (20, {"loss": 1.5})],
    }
    return PageFacts(**{**given, **changes})


def metric(name: str, value: float, space: str = "open") -> Metric:
    ends = {"low": value - 0.01, "high": value + 0.02}
    return Metric(name=name, value=value, engine="adapter", split="test", label_space=space, **ends)


def earlier(version: str, *, served: bool = False, space: str = "open") -> EarlierEvaluation:
    return EarlierEvaluation(
        version=version,
        base_model="small",
        made=datetime(2026, 2, 1, 8, 0, tzinfo=UTC),
        micro_f1=metric("micro_f1", 0.321, space),
        macro_f1=metric("macro_f1", 0.123, "closed"),
        map=None,
        served=served,
    )


def test_the_page_is_balanced_html_and_takes_nothing_from_elsewhere():
    page = report_page(made_report(), facts(), PICTURES, [earlier("v1")], [("rare", "38 %", "more notes")])
    Reader(page)
    assert not re.findall(r"https?:|//\w|<script|<link|@import|url\(|\son\w+=", page)
    assert set(re.findall(r'(?:src|href)="([^,"]*)', page)) == {"data:image/png;base64"}


def test_every_metric_of_every_engine_with_its_interval():
    report = made_report(chapters=3)
    # The complete table is the last one: a heading and a row for each metric, and in it a cell for each engine.
    *_, complete = report_page(report, facts(), {}).split("<table ")
    cells = [[" ".join(cell.split()) for cell in row] for row in Reader(f"<table {complete.split('</div>')[0]}").rows]
    expected = {name: [m for m in report.metrics if m.engine == name] for name in ENGINES}
    assert len(cells) == 1 + len(expected["adapter"])
    for place, metrics in enumerate(expected.values(), start=1):
        assert [row[place] for row in cells[1:]] == [f"{m.value:.3f} {m.low:.3f}–{m.high:.3f}" for m in metrics]


def test_a_row_of_the_complete_table_holds_the_engines_in_their_order():
    report = made_report(("adapter", "linear"), chapters=1)
    found = [one.measured("macro_auc", "closed") for one in report.engines]
    page = Reader(report_page(report, facts(), {}))
    assert page.row("macro AUC (closed)") == [f"{m.value:.3f} {m.low:.3f}–{m.high:.3f}" for m in found]


def test_what_was_not_measured_is_a_dash():
    report = made_report(("adapter", "linear"), chapters=0)
    left = tuple(one for one in report.engines[1].metrics if one.name != "macro_auc")
    linear = report.engines[1].model_copy(update={"metrics": left})
    page = Reader(report_page(report.model_copy(update={"engines": (report.engines[0], linear)}), facts(), {}))
    assert page.row("macro AUC (open)")[1] == "–"


def test_one_engine_and_nothing_else():
    page = report_page(bare_report(), facts(losses=[], validation=[], settings={}), PICTURES)
    read = Reader(page)
    assert "No baseline was evaluated" in page
    assert "No other adapter" in page
    assert "None were taken (0" in page
    assert {image["alt"].split(".")[0] for image in read.images} == {"Engines", "Codes per note"}


def test_every_picture_has_an_alternative_text_that_says_what_it_shows():
    images = Reader(report_page(made_report(), facts(), PICTURES)).images
    assert len(images) == len(PICTURES)
    assert all(len(image["alt"]) > 40 for image in images)


def test_names_from_outside_are_text_and_not_html():
    hostile = '<img src=x onerror="alert(1)">&'
    page = report_page(
        made_report(("adapter", hostile), chapters=1),
        facts(base_model=hostile, title=hostile, settings={hostile: hostile}),
        {},
        [earlier(hostile)],
        [(hostile, hostile, hostile)],
    )
    assert "<img" not in page
    assert "&lt;img src=x onerror=&#34;alert(1)&#34;&gt;&amp;" in page
    Reader(page)


def test_earlier_adapters_stand_below_this_one_in_the_same_label_spaces():
    report = made_report(("adapter",), chapters=0)
    page = Reader(report_page(report, facts(), {}, [earlier("v1", served=True), earlier("v2")]))
    ours = report.engines[0].measured("macro_f1", "closed")
    assert page.row("this one icd: 3f2a")[3] == f"{ours.value:.3f} {ours.low:.3f}–{ours.high:.3f}"
    assert page.row("v1 served") == ["small", "2026-02-01 08:00", "0.321 0.311–0.341", "0.123 0.113–0.143", "–"]
    assert page.row("v2")[2] == "0.321 0.311–0.341"


def test_earlier_adapters_of_different_label_spaces_are_refused():
    with pytest.raises(ValueError, match="label spaces"):
        report_page(made_report(chapters=0), facts(), {}, [earlier("v1"), earlier("v2", space="closed")])


def test_settings_of_sections_are_shown_by_their_path():
    assert "<dt>lora.rank</dt><dd>8</dd>" in report_page(bare_report(), facts(), {})


def compared(low: float, high: float) -> EvaluationReport:
    """The adapter and linear, with one paired difference of 0.1."""
    row = Difference(
        name="micro_f1",
        label_space="open",
        first="adapter",
        second="linear",
        value=0.1,
        low=low,
        high=high,
        p_value=0.05,
    )
    return made_report(("adapter", "linear"), chapters=0).model_copy(update={"differences": (row,)})


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.05, 0.15, "is better than"), (-0.01, 0.2, "do not tell"), (-0.3, -0.1, "is worse than")],
)
def test_the_outcome_is_what_the_paired_interval_allows_to_say(low, high, words):
    assert words in outcome(compared(low, high))


def test_the_best_baseline_is_the_one_with_the_highest_micro_f1():
    # made_report gives every engine about two thirds of the one before it.
    assert "(untuned base, " in outcome(made_report(("adapter", "untuned_base", "linear"), chapters=0))


def test_reading_helps_are_computed():
    report = made_report(("adapter",), chapters=3)
    helps = reading_help(report, facts().losses, facts().validation)
    rare = report.engines[0].measured("micro_recall", "open", group="frequency:1-10").value
    assert f"finds {share(rare)} of the codes that were in 1–10 training documents" in helps["frequency_buckets"]
    assert "1.250, at step 10 of 20" in helps["learning_curve"]
    # Cells of the bare report: three documents with two gold codes and none predicted.
    assert (
        "too few in 100\u00a0% of the documents, too many in 0\u00a0%"
        in reading_help(bare_report(), [], [])["codes_per_note"]
    )
