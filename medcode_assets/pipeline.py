"""Materialize parts of the graph from the command line, on the same Dagster instance that the UI shows."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.config import Settings
from medcode_assets.locks import try_lock, waiting_lock
from medcode_assets.writing import refusing_unwritable
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from dagster import AssetKey, DagsterInstance, JobDefinition

    from medcode_assets.recipes.reasoning.settings import StageSettings

OPENING_SECONDS = 120.0
STOPS_AT = {
    "prepare": "examples",
    "tokenize": "tokens",
    "search": "search",
    "train": "adapter",
    "evaluate": "report",
    "export": "gguf",
    "run": "gguf",
}
"""The asset of the recipe at which each command stops; all that is upstream comes along, skipped where unchanged."""


def dagster_home(home: Path) -> Path:
    """Return the folder of the Dagster instance and let DAGSTER_HOME name it; one that is set already wins."""
    if "DAGSTER_HOME" in os.environ:
        return Path(os.environ["DAGSTER_HOME"])
    folder = (home / "dagster").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    policies = folder / "dagster.yaml"
    if not policies.exists():
        shutil.copyfile(str(resources.files(__package__).joinpath("dagster.yaml")), policies)
    os.environ["DAGSTER_HOME"] = str(folder)
    return folder


@contextmanager
def open_instance(home: Path) -> Iterator["DagsterInstance"]:
    """Open the persistent instance and tidy up what killed commands left behind.

    Raises:
        MedcodeError: the folder of all state cannot be written.
    """
    import dagster as dg

    with refusing_unwritable(home):
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=home):
            pass
    # Dagster creates its databases when they are first opened, and fails if another process is doing so.
    with waiting_lock(
        home / "dagster" / "opening.lock",
        what="the Dagster instance",
        exclusive=True,
        purpose="another command that opens it",
        wait_seconds=OPENING_SECONDS,
    ):
        dagster_home(home)
        instance = dg.DagsterInstance.get()
    with instance:
        close_abandoned_runs(instance, home)
        yield instance


@dataclass(frozen=True)
class StageResult:
    """What a stage materialized."""

    run_id: str
    assets: list["AssetKey"]


def materialize(
    instance: "DagsterInstance",
    home: Path,
    stage: str,
    partition: str,
    settings: Settings,
    *,
    drop_existing: bool = False,
) -> StageResult:
    """Run one stage for a MIMIC version in this process; unchanged assets say so and are skipped.

    Raises:
        MedcodeError: an asset refused (the message is its own), or a blocking check failed.
    """
    from dagster import AssetSelection

    from medcode_assets.definitions import build_definitions
    from medcode_assets.launchpad import run_config

    definitions = build_definitions(home, settings)
    assets = sorted(
        AssetSelection.assets(["icd", STOPS_AT[stage]]).upstream().resolve(definitions.resolve_asset_graph()),
        key=lambda key: key.to_user_string(),
    )
    config = run_config(assets, settings, drop_existing=drop_existing)
    job = definitions.resolve_job_def("search" if stage == "search" else "icd")
    return _run(instance, home, job, partition, assets, config, settings.logging.level)


def materialize_reasoning(
    instance: "DagsterInstance",
    home: Path,
    last: str,
    partition: str,
    stages: "Mapping[int, StageSettings]",
    *,
    drop_existing: bool = False,
) -> StageResult:
    """Run recipe `reasoning` for a corpus up to an asset, in this process; unchanged assets are skipped.

    Args:
        instance: Where runs are recorded.
        home: MEDCODE_HOME.
        last: Name of the asset to stop at.
        partition: Name of the corpus; it becomes a partition if it is none yet.
        stages: Settings of each stage.
        drop_existing: Make everything anew.

    Raises:
        MedcodeError: an asset refused, or a blocking check failed; or a MIMIC version has that name.
    """
    from dagster import AssetSelection

    from medcode_assets.definitions import REASON, build_definitions
    from medcode_assets.partitions import CORPORA
    from medcode_assets.recipes.reasoning.assets import reasoning_config

    _refuse_version_name(home, partition)
    instance.add_dynamic_partitions(str(CORPORA.name), [partition])
    definitions = build_definitions(home, stages=stages, resource_overrides=stage_resources(home, stages))
    assets = sorted(
        AssetSelection.assets(["reasoning", last]).upstream().resolve(definitions.resolve_asset_graph()),
        key=lambda key: key.to_user_string(),
    )
    config = reasoning_config(assets, stages, drop_existing=drop_existing)
    level = max((settings.logging.level for settings in stages.values()), key=logging.getLevelName)
    return _run(instance, home, definitions.resolve_job_def(REASON), partition, assets, config, level)


def materialize_words(
    instance: "DagsterInstance",
    home: Path,
    recipe: str,
    last: str | Sequence[str],
    partition: str,
    settings: Settings,
    *,
    drop_existing: bool = False,
) -> StageResult:
    """Run a recipe that answers in words up to an asset, in this process; unchanged assets are skipped.

    Args:
        instance: Where runs are recorded.
        home: MEDCODE_HOME.
        recipe: consult, medqa or specialty.
        last: Name of the asset to stop at, or of several.
        partition: Name of the questions; it becomes a partition if it is none yet.
        settings: The recipe's.
        drop_existing: Make everything anew.

    Raises:
        MedcodeError: an asset refused, or a blocking check failed; or a MIMIC version has that name.
    """
    from dagster import AssetSelection, DynamicPartitionsDefinition

    from medcode_assets.definitions import build_definitions
    from medcode_assets.launchpad import sections_config, sections_of
    from medcode_assets.recipes.systems import WORD_SYSTEMS

    system = WORD_SYSTEMS[recipe]
    partitions = system.recipe.partitions
    assert isinstance(partitions, DynamicPartitionsDefinition)
    _refuse_version_name(home, partition)
    instance.add_dynamic_partitions(str(partitions.name), [partition])
    definitions = build_definitions(home, words={recipe: settings}, resource_overrides=_resources(home, settings))
    wanted = [last] if isinstance(last, str) else list(last)
    assets = sorted(
        AssetSelection.assets(*([recipe, name] for name in wanted))
        .upstream()
        .resolve(definitions.resolve_asset_graph()),
        key=lambda key: key.to_user_string(),
    )
    own = system.own_sections(settings)
    sections = {key: own[key] if key in own else sections_of(key.path[-1], settings) for key in assets}
    config = sections_config(sections, drop_existing=drop_existing)
    job = definitions.resolve_job_def(f"{recipe}_search" if wanted == [STOPS_AT["search"]] else recipe)
    with waiting_lock(
        home / "artifacts" / recipe / partition / "command.lock",
        what=f"{recipe}/{partition}",
        exclusive=True,
        purpose="another command that makes it",
        wait_seconds=0,
    ):
        return _run(instance, home, job, partition, assets, config, settings.logging.level)


def _refuse_version_name(home: Path, name: str) -> None:
    """Refuse a name whose warehouse belongs to a MIMIC version."""
    from medcode_assets.mimic.versions import all_registered

    if name in {version.name for version in all_registered(home)}:
        raise MedcodeError(f"--name {name}: a MIMIC version has that name, and its warehouse; take another")


def stage_resources(home: Path, stages: "Mapping[int, StageSettings]") -> dict[str, Any]:
    """Return the resources that the stages' settings ask for, which agree on them, and not training-config.yaml's."""
    return _resources(home, next(iter(stages.values())))


def _resources(home: Path, settings: Settings) -> dict[str, Any]:
    """Return the resources that settings ask for."""
    from medcode_assets.resources.compute import Compute
    from medcode_assets.resources.warehouse import Warehouse

    return {
        "compute": Compute(**settings.compute.model_dump()),
        "warehouse": Warehouse(database=str(home.resolve() / "warehouse"), **settings.warehouse.model_dump()),
    }


def _run(
    instance: "DagsterInstance",
    home: Path,
    job: "JobDefinition",
    partition: str,
    assets: "list[AssetKey]",
    config: dict[str, Any],
    level: str,
) -> StageResult:
    from dagster._core.errors import DagsterAssetCheckFailedError

    # The console logger prints tracebacks; the terminal logger prints a line an asset.
    config["loggers"] = {"terminal": {"config": {"level": level}}}
    run_id = _new_run_id()
    with _alive(home, run_id):
        try:
            job.execute_in_process(
                instance=instance,
                partition_key=partition,
                asset_selection=assets,
                run_config=config,
                run_id=run_id,
            )
        except DagsterAssetCheckFailedError as error:
            reasons = _failed_checks(instance, run_id) or " ".join(str(error).split())
            raise MedcodeError(f"a blocking check failed: {reasons}") from None
    return StageResult(run_id, assets)


def _failed_checks(instance: "DagsterInstance", run_id: str) -> str:
    """Say which blocking checks of a run failed, and why."""
    from dagster import AssetCheckSeverity, DagsterEventType

    failed = []
    for record in instance.get_records_for_run(run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION).records:
        event = record.event_log_entry.dagster_event
        found = event.asset_check_evaluation_data if event else None
        if found and not found.passed and found.blocking and found.severity == AssetCheckSeverity.ERROR:
            reason = found.metadata.get("reason") or found.metadata.get("problems")
            asset = found.asset_check_key.asset_key.to_user_string()
            failed.append(f"{asset}: {found.check_name}" + (f": {reason.value}" if reason else ""))
    return "; ".join(failed)


def close_abandoned_runs(instance: "DagsterInstance", home: Path) -> list[str]:
    """Mark runs of killed `medcode` commands as failed and free their pool slots; return their ids.

    Dagster's daemon watches its own runs only: without this, a killed command would show as running for ever and
    keep the next one waiting for its pool.
    """
    abandoned = []
    for file in sorted((home / "dagster" / "alive").glob("*.lock")):
        with file.open("w") as lock:
            if not try_lock(lock.fileno()):
                continue
            run = instance.get_run_by_id(file.stem)
            if run and not run.is_finished:
                instance.report_run_failed(run, "the medcode command that ran this was killed")
                instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
                abandoned.append(run.run_id)
            file.unlink(missing_ok=True)
    return abandoned


@contextmanager
def _alive(home: Path, run_id: str) -> Iterator[None]:
    """Hold a lock for as long as this process runs the run; the system drops it however the process ends."""
    file = home / "dagster" / "alive" / f"{run_id}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try_lock(lock.fileno())
        yield
        file.unlink(missing_ok=True)


def _new_run_id() -> str:
    from uuid import uuid4

    return str(uuid4())
