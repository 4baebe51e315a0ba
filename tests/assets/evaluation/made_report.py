"""A made-up report of any size; its numbers mean nothing, but every one is another."""

import csv
import random
from pathlib import Path

from medcode_assets.evaluation.report import (
    CodeGroup,
    CodesPerNote,
    Difference,
    EngineEvaluation,
    EvaluationReport,
    PrecisionRecallPoint,
    ReliabilityBin,
)
from medcode_serving.bundle import Metric
from medcode_serving.calibration import Calibration
from medcode_serving.codes import hierarchy

ENGINES = ("adapter", "linear", "untuned_base", "frequency_prior")
COUNTED = ("micro_f1", "micro_precision", "micro_recall", "macro_f1", "macro_precision", "macro_recall")
RANKED = (
    *(f"{kind}_at_{depth}" for kind in ("precision", "recall") for depth in (5, 8, 15)),
    "map",
    "r_precision",
    "exact_match_ratio",
    "macro_auc",
    "micro_auc",
)
BUCKETS = {
    "unseen": "Never seen in training",
    "1-10": "In 1-10 training documents",
    "11-50": "In 11-50 training documents",
    "51-100": "In 51-100 training documents",
    "101-500": "In 101-500 training documents",
    "over-500": "In over 500 training documents",
}


def made_report(engines: tuple[str, ...] = ENGINES, *, chapters: int = 30, documents: int = 1984) -> EvaluationReport:
    """A report with every metric, interval, group and curve."""
    groups = made_groups(chapters)
    return EvaluationReport(
        documents=documents,
        validation_documents=1338,
        codes=3120,
        unseen_codes=241,
        mean_gold_codes=15.2,
        groups=groups,
        resamples=1000,
        engines=tuple(made_engine(name, 0.55 / (place + 1) ** 0.8, groups) for place, name in enumerate(engines)),
        differences=tuple(
            Difference(
                name=name,
                label_space=space,
                first=engines[0],
                second=other,
                value=0.1 * place,
                low=0.1 * place - 0.012,
                high=0.1 * place + 0.011,
                p_value=0.002,
            )
            for place, other in enumerate(engines[1:], start=1)
            for name, space in (("micro_f1", "closed"), ("micro_f1", "open"), ("macro_f1", "open"), ("map", "open"))
        ),
    )


def bare_report(engine: str = "adapter") -> EvaluationReport:
    """One engine that told nothing, no groups, no intervals, and only the metrics that always exist."""
    metrics = tuple(
        Metric(name=name, value=0.0, engine=engine, split="test", label_space=space)
        for space in ("open", "closed")
        for name in COUNTED
    )
    return EvaluationReport(
        documents=3,
        validation_documents=2,
        codes=4,
        unseen_codes=0,
        mean_gold_codes=2.0,
        groups=(),
        resamples=0,
        engines=(
            EngineEvaluation(
                engine=engine,
                threshold=1.0,
                calibration=Calibration(),
                metrics=metrics,
                validation_metrics=(),
                curve=(),
                reliability=(),
                calibration_error=0.0,
                raw_calibration_error=0.0,
                codes_per_note=(CodesPerNote(gold=2, predicted=0, documents=3),),
                mean_predicted_codes=0.0,
                distinct_answers=1,
                documents_without_codes=3,
                truncated=0,
                told=0,
                dropped=0,
                seconds=1.0,
            ),
        ),
        differences=(),
    )


def made_groups(chapters: int) -> tuple[CodeGroup, ...]:
    with Path(hierarchy.__file__).with_name("chapters.csv").open(encoding="utf-8") as file:
        rows = [(row["system"], row["chapter"], row["title"]) for row in csv.DictReader(file)]
    found = [row for row in dict.fromkeys(rows) if row[0] in ("icd10cm", "icd10pcs")][:chapters]
    named = [
        *(("system:icd10cm", "ICD-10-CM diagnosis"), ("system:icd10pcs", "ICD-10-PCS procedure")),
        *((f"frequency:{name}", title) for name, title in BUCKETS.items()),
        *((f"chapter:{system}:{name}", f"{title} ({name})") for system, name, title in found),
    ]
    return tuple(
        CodeGroup(name=name, title=title, codes=10 + 7 * place, pairs=4000 - 97 * place)
        for place, (name, title) in enumerate(named)
    )


def made_engine(name: str, level: float, groups: tuple[CodeGroup, ...]) -> EngineEvaluation:
    chance = random.Random(name)

    def metric(title: str, space: str, factor: float = 1.0, level_of: str = "code", group: str = "all") -> Metric:
        value = min(level * factor * chance.uniform(0.9, 1.1), 0.97)
        half = 0.012 if group == "all" else 0.03
        ends = {"low": max(value - half, 0.0), "high": min(value + half * 0.9, 1.0)}
        return Metric(
            name=title, value=value, engine=name, split="test", label_space=space, level=level_of, group=group, **ends
        )

    def factor_of(group: str) -> float:
        if group.startswith("frequency:"):
            return (0.0, 0.25, 0.6, 0.9, 1.1, 1.3)[list(BUCKETS).index(group.removeprefix("frequency:"))]
        return chance.uniform(0.4, 1.4)

    scale = {title: 0.4 if title.startswith("macro") else 1.0 for title in COUNTED}
    metrics = [metric(title, space, scale[title]) for space in ("open", "closed", "caml") for title in COUNTED]
    metrics += [metric(title, space) for space in ("open", "closed") for title in RANKED]
    for of, factor in (("category", 1.15), ("chapter", 1.5)):
        metrics += [
            metric(title, space, scale[title] * factor, of) for space in ("open", "closed") for title in COUNTED
        ]
    for group in groups:
        factor = factor_of(group.name)
        metrics += [
            metric(title, space, scale[title] * factor, "code", group.name)
            for space in ("open", "closed")
            for title in COUNTED
        ]
    return EngineEvaluation(
        engine=name,
        threshold=0.31,
        calibration=Calibration(method="temperature", slope=0.8, shift=-0.2),
        metrics=tuple(metrics),
        validation_metrics=tuple(one.model_copy(update={"split": "validation"}) for one in metrics[:12]),
        curve=tuple(
            PrecisionRecallPoint(threshold=1 - x, precision=max(level * 1.6 - level * x, 0), recall=x * level * 1.4)
            for x in (step / 200 for step in range(1, 201))
        ),
        reliability=tuple(
            ReliabilityBin(
                low=place / 15,
                high=(place + 1) / 15,
                codes=int(60_000 / (place + 1) ** 1.5),
                probability=(place + 0.5) / 15,
                right=min(max((place + 0.5) / 15 + chance.uniform(-0.06, 0.06), 0), 1),
            )
            for place in range(15)
        ),
        calibration_error=0.02 + level / 50,
        raw_calibration_error=0.1 + level / 50,
        codes_per_note=made_cells(name, chance),
        mean_predicted_codes=13.7,
        distinct_answers=1800,
        documents_without_codes=12,
        truncated=310,
        told=900,
        dropped=45,
        seconds=310.5,
    )


def made_cells(engine: str, chance: random.Random) -> tuple[CodesPerNote, ...]:
    cells: dict[tuple[int, int], int] = {}
    for _ in range(1984):
        gold = max(1, round(chance.gauss(15, 7)))
        told = 15 if engine == "frequency_prior" else max(0, round(gold * 0.7 + chance.gauss(3, 3)))
        cells[gold, told] = cells.get((gold, told), 0) + 1
    return tuple(CodesPerNote(gold=gold, predicted=told, documents=n) for (gold, told), n in sorted(cells.items()))
