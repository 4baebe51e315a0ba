"""The stages' comparison as one HTML file: light and dark, no scripts, nothing from elsewhere, no narrative text."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from medcode_assets.evaluation.html.sentences import DASH, number, signed
from medcode_assets.evaluation.html.tables import Cell, Row, Table
from medcode_assets.recipes.reasoning.comparison import DRAWN, MEASURES, STAGE_TITLES, Comparison, StageResult
from medcode_assets.recipes.reasoning.measuring import ErrorKind, Lengths
from medcode_assets.recipes.reasoning.rates import Rate
from medcode_serving.codes.systems import SYSTEMS
from medcode_serving.codes.validation import Status

TEMPLATE = "comparison_page.html.j2"
ERROR_TITLES: dict[ErrorKind, str] = {
    "no_code": "no code in the answer",
    "malformed": "a wrong code, and out of the format",
    "invalid_code": "a code that may not be billed: unknown, header, retired, of no system",
    "wrong_code": "right category, wrong code",
    "wrong_category": "right system, wrong category",
    "wrong_system": "wrong system",
}


STATUS_TITLES: dict[Status, str] = {
    "valid": "valid, looked up",
    "format_only": "well-formed, in no list at hand: counts as valid",
    "header": "a header, not billable",
    "retired": "retired",
    "unknown": "well-formed, and in no list",
    "wrong_system": "a code of another system than its marker's",
    "malformed": "no code at all",
}


class Bar(NamedTuple):
    """One stage's bar, in percents of the chart's width."""

    title: str
    shown: Cell
    value: float
    low: float
    high: float


def comparison_page(comparison: Comparison, *, title: str, facts: Sequence[tuple[str, str]] = ()) -> str:
    """Return the page.

    Args:
        comparison: The stages.
        title: Of the page; after it the narratives are counted.
        facts: What else is to be told of how it was made, as ("Base model", "SmolLM2-135M").

    Returns:
        HTML, complete and self-contained.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template(TEMPLATE).render(
        comparison=comparison,
        title=title,
        facts=facts,
        outcome=outcome(comparison),
        charts=[(MEASURES[name], bars) for name in DRAWN if (bars := _bars(comparison, name))],
        main=_main_table(comparison),
        measures=list(MEASURES.values()),
        differences=_difference_table(comparison),
        errors=_error_tables(comparison),
        lengths=_length_table(comparison),
    )


def outcome(comparison: Comparison) -> str:
    """Say in a sentence whether each stage is better than the one before."""
    failed = [gate.name for gate in comparison.gates if not gate.passed]
    if not comparison.gates:
        return "Only baselines were measured: there is no stage to hold against them."
    if not failed:
        return f"All {len(comparison.gates)} gates are passed: each stage is better than what it is held against."
    return f"{len(failed)} of {len(comparison.gates)} gates are not passed: {', '.join(failed)}."


def _bars(comparison: Comparison, measure: str) -> list[Bar]:
    return [
        Bar(STAGE_TITLES[stage.name], _cell(rate), 100 * rate.value, 100 * rate.low, 100 * rate.high)
        for stage in comparison.stages
        if (rate := stage.rate(measure))
    ]


def _main_table(comparison: Comparison) -> Table:
    """Return a row a stage, a column a measure."""
    names = [name for name in MEASURES if any(stage.rate(name) for stage in comparison.stages)]
    return Table(
        "Every stage on the same narratives; under each number its 95 % interval, a dash: not measured",
        [MEASURES[name].title for name in names],
        [Row(STAGE_TITLES[stage.name], [_cell(stage.rate(name)) for name in names]) for stage in comparison.stages],
    )


def _difference_table(comparison: Comparison) -> Table:
    return Table(
        "Paired differences on the same narratives",
        ["difference", "95 % interval", "p"],
        [
            Row(
                f"{STAGE_TITLES[row.first]}, minus {STAGE_TITLES[row.second]}",
                [Cell(signed(row.value)), Cell(f"{signed(row.low)} to {signed(row.high)}"), Cell(f"{row.p_value:.3g}")],
                note=MEASURES[row.measure].title,
            )
            for row in comparison.differences
        ],
    )


def _error_tables(comparison: Comparison) -> list[Table]:
    tables = [
        _kind_table(comparison),
        _status_table(comparison),
        _group_table(comparison, "system"),
        _group_table(comparison, "frequency"),
        *(_confusion_table(stage) for stage in comparison.stages if stage.answers.confusions),
        _code_table(comparison),
    ]
    return [table for table in tables if table]


def _kind_table(comparison: Comparison) -> Table:
    def counted(kind: ErrorKind) -> list[Cell]:
        counts = ((stage.answers.errors, stage.answers.narratives) for stage in comparison.stages)
        return [Cell(f"{errors[kind]:,}", f"{100 * errors[kind] / of:.1f} %") for errors, of in counts]

    return Table(
        "Wrong answers by kind, the first that holds: how many, and their share of all answers",
        _stage_titles(comparison),
        [
            *(Row(title, counted(kind)) for kind, title in ERROR_TITLES.items()),
            Row("all", [Cell(f"{sum(stage.answers.errors.values()):,}") for stage in comparison.stages]),
        ],
    )


def _status_table(comparison: Comparison) -> Table | None:
    if not any(stage.answers.code_statuses for stage in comparison.stages):
        return None
    return Table(
        "What the check of the written codes says, right or wrong ones",
        _stage_titles(comparison),
        [
            Row(title, [Cell(f"{stage.answers.code_statuses.get(status, 0):,}") for stage in comparison.stages])
            for status, title in STATUS_TITLES.items()
        ],
    )


def _length_table(comparison: Comparison) -> Table:
    def row(title: str, shown: Callable[[Lengths], float], name: str, digits: int) -> Row:
        found: list[Lengths | None] = [getattr(stage.answers, name) for stage in comparison.stages]
        return Row(title, [Cell(number(shown(one), digits)) if one else Cell() for one in found])

    spreads: list[tuple[str, Callable[[Lengths], float]]] = [
        ("mean", lambda one: one.mean),
        ("median", lambda one: one.p50),
        ("95th percentile", lambda one: one.p95),
    ]
    counts = [Cell(f"{stage.answers.unclosed:,}") for stage in comparison.stages]
    return Table(
        "How long the reasoning is, over answers that have some",
        _stage_titles(comparison),
        [
            *(row(f"words, {title}", shown, "reasoning_words", 1) for title, shown in spreads),
            *(row(f"points, {title}", shown, "reasoning_points", 1) for title, shown in spreads),
            Row("answers whose reasoning never ends", counts),
        ],
    )


def _group_table(comparison: Comparison, kind: str) -> Table | None:
    found = {
        stage.name: {group.name: group for group in stage.answers.groups if group.name.startswith(f"{kind}:")}
        for stage in comparison.stages
    }
    titles = {group.name: (group.title, group.exact.of) for groups in found.values() for group in groups.values()}
    if not titles:
        return None
    of_kind = {"system": "code system", "frequency": "frequency of the asked code in training"}[kind]
    return Table(
        f"Exact code by {of_kind}",
        ["narratives", *_stage_titles(comparison)],
        [
            Row(
                title,
                [
                    Cell(f"{narratives:,}"),
                    *(_cell(groups[name].exact if name in groups else None) for groups in found.values()),
                ],
            )
            for name, (title, narratives) in titles.items()
        ],
    )


def _confusion_table(stage: StageResult) -> Table:
    return Table(
        f"{STAGE_TITLES[stage.name]}: the most frequent confusions",
        ["written", "narratives"],
        [
            Row(
                f"{_system(row.system)} {row.code}",
                [
                    Cell(f"{_system(row.written_system)} {row.written_code or 'no such code'}")
                    if row.written_system
                    else Cell("no code"),
                    Cell(f"{row.count:,}"),
                ],
            )
            for row in stage.answers.confusions
        ],
        long=True,
    )


def _code_table(comparison: Comparison) -> Table:
    right = {
        stage.name: {(one.system, one.code): one.accuracy for one in stage.answers.codes} for stage in comparison.stages
    }
    return Table(
        "Exact code by asked code",
        ["narratives", *_stage_titles(comparison)],
        [
            Row(
                f"{_system(one.system)} {one.code}",
                [Cell(f"{one.support:,}"), *(Cell(number(found[one.system, one.code])) for found in right.values())],
            )
            for one in comparison.stages[0].answers.codes
        ],
        long=True,
    )


def _stage_titles(comparison: Comparison) -> list[str]:
    return [STAGE_TITLES[stage.name] for stage in comparison.stages]


def _system(name: str | None) -> str:
    return SYSTEMS[name].title.removesuffix(" diagnosis") if name else DASH


def _cell(rate: Rate | None) -> Cell:
    return Cell(number(rate.value), f"{number(rate.low)}–{number(rate.high)}") if rate else Cell()
