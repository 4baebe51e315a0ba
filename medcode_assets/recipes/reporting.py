"""An evaluation and what is known around it, as one page."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.artifacts import making, required, stands
from medcode_assets.evaluation.errors.analyse import analysis_version
from medcode_assets.evaluation.errors.model import read_analysis
from medcode_assets.evaluation.history import ADAPTER, REPORT, KeptEvaluation, kept_evaluations
from medcode_assets.evaluation.html.page import EarlierEvaluation, PageFacts, report_page
from medcode_assets.evaluation.html.pictures import report_pictures
from medcode_assets.evaluation.report import EvaluationReport, read_report
from medcode_assets.recipes.answering import read_answers
from medcode_assets.recipes.bundling import bundle_version, code_version
from medcode_assets.warehouse import fingerprint
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import is_published, latest_version
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

PAGE = "report.html"
ERRORS = "errors.json"
LOGGED = "logged-to-mlflow"
"""Beside the page once it is in the adapter's MLflow run."""
EARLIER = 12
"""Adapters of the same split on the page, the newest ones."""


@dataclass(frozen=True)
class WrittenPage:
    """What the asset shows of a page."""

    pictures: dict[str, bytes]
    metrics: dict[str, float]
    """The adapter's, as MLflow names them."""
    fingerprint: str
    unchanged: bool


def write_page(
    home: Path,
    recipe: str,
    partition: str,
    base: LocalModel,
    folders: dict[str, Path],
    target: Path,
    *,
    anew: bool = False,
) -> WrittenPage:
    """Write report.html and its pictures to `target`, unless they are there and nothing changed.

    Args:
        home: MEDCODE_HOME, with the history of evaluations.
        recipe: Of the adapter.
        partition: Version of MIMIC.
        base: The adapter's base model.
        folders: Artifacts adapter, evaluation and errors.
        target: Folder of the artifact; replaced only by a complete one.
        anew: Write it in any case.

    Raises:
        MedcodeError: the artifacts do not belong together.
    """
    adapter, evaluated = (required(folders[name], f"{recipe}/{name}") for name in ("adapter", "evaluation"))
    report = read_report(folders["evaluation"] / REPORT)
    analysis = read_analysis(folders["errors"] / ERRORS)
    errors = required(folders["errors"], f"{recipe}/errors")
    _refuse_mixture(recipe, adapter, evaluated, errors)
    version = bundle_version(partition, base, evaluated)
    kept = {one.about.version: one for one in kept_evaluations(home, recipe)}
    if version not in kept:
        raise MedcodeError(f"{home / 'evaluations' / recipe / version}: missing; materialize {recipe}/evaluation again")
    ours = kept[version].about
    facts = PageFacts(
        title=f"{recipe}: {version}",
        recipe=recipe,
        partition=partition,
        split_hash=ours.split_hash,
        base_model=base.id,
        settings=adapter["settings"],
        losses=adapter["losses"],
        validation=adapter["validation"],
        code_version=code_version(),
        made=ours.made,
    )
    served = latest_version(home / "bundles", recipe) if is_published(home / "bundles", recipe) else None
    others = [one for one in kept.values() if one.about.gold_hash == ours.gold_hash and one.about.version != version]
    earlier = [row for one in others[:EARLIER] if (row := _earlier(one, served)) is not None]
    made_from = fingerprint(
        evaluation=evaluated["seal"],
        errors=errors["seal"],
        earlier=[(row.version, row.served) for row in earlier],
        version=1,
    )
    if stands(target, made_from, anew=anew):
        pictures = {file.stem: file.read_bytes() for file in sorted(target.glob("*.png"))}
        return WrittenPage(pictures, mlflow_metrics(report), made_from, unchanged=True)
    pictures = report_pictures(report, adapter["losses"], adapter["validation"])
    page = report_page(
        report,
        facts,
        pictures,
        earlier,
        [(found.pattern.replace("_", " "), found.sentence, found.suggestion) for found in analysis.findings],
    )
    with making(target, made_from) as (folder, _):
        (folder / PAGE).write_text(page, encoding="utf-8")
        for name, png in pictures.items():
            (folder / f"{name}.png").write_bytes(png)
    return WrittenPage(pictures, mlflow_metrics(report), made_from, unchanged=False)


def mlflow_metrics(report: EvaluationReport) -> dict[str, float]:
    """Return the adapter's metrics over all codes: `test_micro_f1_open`, `test_map_closed`, with `_low` and `_high`."""
    found: dict[str, float] = {}
    for metric in report.engine(ADAPTER).metrics:
        if metric.group == "all" and metric.level == "code":
            name = f"test_{metric.name}_{metric.label_space}"
            ends = {f"{name}_low": metric.low, f"{name}_high": metric.high}
            found |= {name: metric.value, **{end: value for end, value in ends.items() if value is not None}}
    return found


def error_predictions(evaluation: Path) -> "pa.Table":
    """Return the adapter's answers to the test split with calibrated probabilities and whether each code is kept."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    decision = read_report(evaluation / REPORT).engine(ADAPTER).decision
    table = read_answers(evaluation).test
    told = np.asarray(pc.fill_null(table["probability"], 1.0))
    probabilities = decision.calibration.apply(told)
    named = np.asarray(pc.is_valid(table["code"]))
    kept = named & (probabilities >= decision.threshold)
    table = table.set_column(
        table.column_names.index("probability"), "probability", pa.array(probabilities, mask=~named)
    )
    return table.append_column("kept", pa.array(kept))


def errors_fingerprint(evaluation: str) -> str:
    """Return the fingerprint of an error analysis; `evaluation` is the seal of what was analysed."""
    return fingerprint(evaluation=evaluation, analysis=analysis_version())


def _refuse_mixture(recipe: str, adapter: dict[str, Any], evaluation: dict[str, Any], errors: dict[str, Any]) -> None:
    """Raise MedcodeError unless adapter, evaluation and errors (the facts of their seals) belong together."""
    if evaluation["adapter"] != adapter["seal"]:
        raise MedcodeError(
            f"asset {recipe}/evaluation is older than its adapter; materialize {recipe}/evaluation first"
        )
    if errors["fingerprint"] != errors_fingerprint(evaluation["seal"]):
        raise MedcodeError(f"asset {recipe}/errors is older than its evaluation; materialize it again first")


def _earlier(kept: KeptEvaluation, served: str | None) -> EarlierEvaluation | None:
    """Return an earlier evaluation's row; None, with a warning, if another version of medcode wrote it."""
    try:
        about, adapter = kept.about, kept.report.engine(ADAPTER)
    except MedcodeError as error:
        logger.warning("left out of the report: %s", error)
        return None
    return EarlierEvaluation(
        version=about.version,
        base_model=about.base_model,
        made=about.made,
        micro_f1=adapter.measured("micro_f1", "open"),
        macro_f1=adapter.measured("macro_f1", "closed"),
        map=adapter.measured("map", "open"),
        served=about.version == served,
    )
