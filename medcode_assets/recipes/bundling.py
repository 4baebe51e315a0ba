"""An evaluated adapter to a published bundle."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.metadata import version as library_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.config import PROJECT
from medcode_assets.evaluation.history import ADAPTER, compare_kept, kept_evaluations
from medcode_assets.evaluation.report import Difference, EvaluationReport
from medcode_assets.warehouse import fingerprint
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import (
    LINEAR,
    BaseModelRef,
    Bundle,
    BundleManifest,
    DataVersion,
    Decision,
    DecodingSettings,
    Gate,
    Provenance,
    is_published,
    latest_version,
    open_bundle,
    publish,
    read_gates,
    write_bundle,
    write_gates,
)
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

LIBRARIES = ("medcode", "torch", "transformers", "peft", "accelerate", "duckdb")


def bundle_version(partition: str, base: LocalModel, evaluation: dict[str, Any]) -> str:
    """Return the version of the bundle of one evaluation (the facts of its seal): `mimic-iv-3.1-1f0c9a2b44d1`."""
    return f"{partition}-{fingerprint(evaluation=evaluation['seal'], base=base.id)[:12]}"


def refuse_old_answers(recipe: str, evaluation: dict[str, Any], examples: str) -> None:
    """Raise MedcodeError unless an evaluation is of the examples as they are; `examples` is their fingerprint."""
    if evaluation["examples"] != examples:
        raise MedcodeError(
            f"asset {recipe}/evaluation is older than its examples; materialize {recipe}/evaluation first"
        )


def refuse_mismatch(recipe: str, adapter: dict[str, Any], evaluation: dict[str, Any], examples: str) -> None:
    """Raise MedcodeError unless adapter, evaluation and examples belong together.

    Assets can be materialized one by one in the UI, in any order: a bundle must not carry one adapter's weights with
    another's threshold. `adapter` and `evaluation` are the facts of their seals, `examples` a fingerprint.
    """
    if evaluation["adapter"] != adapter["seal"] or evaluation["examples"] != examples:
        raise MedcodeError(
            f"asset {recipe}/evaluation is older than its adapter or examples; materialize {recipe}/adapter and "
            f"{recipe}/evaluation first"
        )


def refuse_other_linear(recipe: str, evaluation: dict[str, Any], linear: dict[str, Any] | None) -> None:
    """Raise MedcodeError unless the linear model is the one that was evaluated: its threshold is for no other."""
    if linear is None or evaluation["baselines"].get(LINEAR) != linear["seal"]:
        raise MedcodeError(
            f"asset {recipe}/evaluation is older than {recipe}/{LINEAR}; materialize {recipe}/evaluation first"
        )


def publish_passed(bundle: Bundle, gates: Sequence[Gate]) -> bool:
    """Let LATEST name a bundle that passes its gates, and keep the gates with it; return whether LATEST moved.

    A bundle that was published before does not push away a newer one. What was decided is written last: a run that is
    killed before decides again.
    """
    root, recipe = bundle.path.parent.parent, bundle.manifest.recipe
    earlier = read_gates(bundle)
    was_published = bool(earlier) and not any(gate.blocks for gate in earlier)
    passes = not any(gate.blocks for gate in gates)
    moves = passes and (not was_published or not is_published(root, recipe))
    if moves:
        publish(bundle)
    write_gates(bundle, gates)
    return moves


def against_served(home: Path, recipe: str, version: str, resamples: int) -> Sequence[Difference] | str:
    """Return this adapter's paired differences to the one that LATEST names; or why there are none, in words."""
    bundles = home / "bundles"
    if not is_published(bundles, recipe):
        return "nothing is published yet"
    served = latest_version(bundles, recipe)
    if served == version:
        return "this bundle is the served one"
    ours, theirs = (
        next((kept for kept in kept_evaluations(home, recipe) if kept.about.version == one), None)
        for one in (version, served)
    )
    if ours is None or theirs is None:
        return f"the answers of the served {served} are not kept in {home / 'evaluations'}"
    if ours.about.split_hash != theirs.about.split_hash:
        return f"the served {served} was measured on another split"
    try:
        return compare_kept((ours, ADAPTER), (theirs, ADAPTER), names=(version, served), resamples=resamples)
    except MedcodeError as error:
        return f"not compared with the served adapter: {error}"


def baseline_decisions(report: EvaluationReport) -> dict[str, Decision]:
    """Return threshold and calibration of every engine beside the adapter."""
    return {found.engine: found.decision for found in report.engines if found.engine != ADAPTER}


def compose_bundle(
    root: Path,
    *,
    recipe: str,
    version: str,
    base: LocalModel,
    prompt: PromptTemplate,
    decoding: DecodingSettings,
    report: EvaluationReport,
    data: DataVersion,
    provenance: Provenance,
    adapter: Path,
    codes: Path,
    linear: Path | None,
) -> tuple[Bundle, bool]:
    """Write a bundle, or open the one that the same inputs made before; return it and whether it was there."""
    from medcode_serving.decoding import cached_trie
    from medcode_serving.engines.transformers import load_tokenizer

    if earlier := sealed_before(root / recipe / version):
        return earlier, True
    manifest = BundleManifest(
        recipe=recipe,
        version=version,
        base_model=BaseModelRef(id=base.id, revision=base.revision, added_tokens=base.added_tokens),
        prompt=prompt,
        decoding=decoding,
        threshold=report.engine(ADAPTER).threshold,
        calibration=report.engine(ADAPTER).calibration,
        baselines=baseline_decisions(report),
        metrics=tuple(metric for metric in report.metrics if metric.level == "code" and metric.group == "all"),
        data=data,
        provenance=provenance,
    )
    with tempfile.TemporaryDirectory() as folder:
        tries = Path(folder)
        texts = [code.text for code in Vocabulary.read(codes).codes]
        cached_trie(load_tokenizer(base.path), texts, [tries])  # so that no service has to build it when it starts
        return write_bundle(root, manifest, adapter=adapter, codes=codes, linear=linear, tries=tries), False


def sealed_before(target: Path) -> Bundle | None:
    """Return the bundle that the same inputs made before; a damaged one goes: the same parts make it anew."""
    if not target.exists():
        return None
    try:
        return open_bundle(target)
    except MedcodeError:
        shutil.rmtree(target)
        return None


def provenance(settings: dict[str, Any], *, mlflow_run: str | None, dagster_run: str | None) -> Provenance:
    """Return which code and which runs make a bundle."""
    return Provenance(
        code_version=code_version(),
        libraries={name: library_version(name) for name in LIBRARIES},
        settings=settings,
        mlflow_run=mlflow_run,
        dagster_run=dagster_run,
    )


def examples_settings(con: "duckdb.DuckDBPyConnection", recipe: str) -> dict[str, Any]:
    """Return the data settings that cohort, splits and examples were made with, as those steps recorded them."""
    rows = con.execute("SELECT settings FROM made WHERE name IN ('cohort', 'splits', ?)", [f"{recipe}.examples"])
    return {name: value for (settings,) in rows.fetchall() for name, value in json.loads(settings or "{}").items()}


def code_version() -> str:
    """Return the checkout's commit, marked `+changes` if files differ from it; or the installed version."""
    git = ["git", "-C", str(PROJECT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return library_version("medcode")
    return commit + ("+changes" if changes else "")


def trained_codes(con: "duckdb.DuckDBPyConnection", recipe: str) -> "pa.Table":
    """Return the rows of codes.parquet: the labels that training saw, in label order."""
    return con.sql(
        f"SELECT system, code, text, description, CAST(frequency AS BIGINT) AS frequency FROM {recipe}.labels "
        "WHERE frequency > 0 ORDER BY label"
    ).to_arrow_table()
