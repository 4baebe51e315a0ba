"""What happens by itself: a sensor for new MIMIC releases, and a schedule for missing and changed ones.

Only Dagster's side is here; what a folder holds is told by `medcode_assets.mimic.watching`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from medcode_assets.config import AutomationSettings
from medcode_assets.mimic.assets import RELEASE_SIGNATURE
from medcode_assets.mimic.sources import MimicVersion, find_files, stat_signature
from medcode_assets.mimic.versions import all_registered, register
from medcode_assets.mimic.watching import Sighting, look, settled
from medcode_assets.partitions import MIMIC_VERSIONS
from medcode_assets.pipeline import close_abandoned_runs
from medcode_assets.resources.home import Home
from medcode_assets.versions import warehouse_file
from medcode_serving.errors import MedcodeError

PREPARE, TRAIN, SEARCH = "prepare", "icd", "search"
"""Jobs: up to the tokens; the whole chain; and the search for better settings, which nothing here requests."""
NOTES = dg.AssetKey(["raw", "notes"])
FINAL_ASSET = {PREPARE: dg.AssetKey(["icd", "tokens"]), TRAIN: dg.AssetKey(["icd", "bundle"])}
"""A job is through with a version when it has made this one."""

Memory = dict[str, dict[str, str | None]]
"""By release: `signature`, as at the last look, and `requested`, the one for which a run was requested."""


def new_releases_sensor(settings: AutomationSettings) -> dg.SensorDefinition:
    """Return the sensor that registers complete new releases in the watched folder and requests their chain."""
    job = TRAIN if settings.retrain else PREPARE

    @dg.sensor(
        name="new_mimic_releases",
        job_name=job,
        minimum_interval_seconds=settings.watch_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING if settings.watch_folder else dg.DefaultSensorStatus.STOPPED,
        description="Watches `automation.watch_folder`. A release whose files did not change between two looks is "
        "registered as a version, and its assets are requested; again whenever its files change.",
    )
    def new_mimic_releases(context: dg.SensorEvaluationContext, home: Home) -> dg.SensorResult | dg.SkipReason:
        if settings.watch_folder is None:
            return dg.SkipReason("automation.watch_folder is not set")
        try:
            sightings = look(Path(settings.watch_folder), home.path)
        except MedcodeError as error:
            return dg.SkipReason(str(error))
        memory: Memory = json.loads(context.cursor or "{}")
        complete, waiting = remember(memory, sightings)
        requests = []
        for sighting in complete:
            name, signature = sighting.version.name, sighting.signature
            try:
                register(home.path, sighting.version)
            except MedcodeError as error:
                waiting.append(f"{name} cannot be used: {error}")
                continue
            memory[name]["requested"] = signature
            if materialized_signature(context.instance, home.path, name, FINAL_ASSET[job]) != signature:
                requests.append(dg.RunRequest(run_key=f"{name}:{signature}", partition_key=name))
        names = [str(request.partition_key) for request in requests]
        return dg.SensorResult(
            run_requests=requests,
            dynamic_partitions_requests=[MIMIC_VERSIONS.build_add_request(names)] if names else [],
            cursor=json.dumps(memory),
            skip_reason=None if requests else "; ".join(waiting) or f"nothing new in {settings.watch_folder}",
        )

    return new_mimic_releases


def remember(memory: Memory, sightings: Sequence[Sighting]) -> tuple[list[Sighting], list[str]]:
    """Compare a look with the one before, which `memory` keeps and this updates.

    Returns:
        Releases that are complete and not requested yet, and what the others wait for.
    """
    complete, waiting = [], []
    for sighting in sightings:
        name = sighting.version.name
        seen = memory.setdefault(name, {"signature": None, "requested": None})
        if not settled(sighting, seen["signature"]):
            waiting.append(f"{name}: {sighting.problem or 'waiting for its files to stay as they are'}")
        elif sighting.signature != seen["requested"]:
            complete.append(sighting)
        seen["signature"] = sighting.signature
    return complete, waiting


def stale_versions_schedule(settings: AutomationSettings) -> dg.ScheduleDefinition:
    """Return the schedule that requests versions again that are missing or whose files changed."""
    job = TRAIN if settings.retrain else PREPARE

    @dg.schedule(
        name="stale_mimic_versions",
        job_name=job,
        cron_schedule=settings.cron_schedule,
        default_status=dg.DefaultScheduleStatus.RUNNING if settings.watch_folder else dg.DefaultScheduleStatus.STOPPED,
        description="Requests registered versions that are not materialized, or whose files changed since.",
    )
    def stale_mimic_versions(context: dg.ScheduleEvaluationContext, home: Home) -> list[dg.RunRequest] | dg.SkipReason:
        close_abandoned_runs(context.instance, home.path)  # or they would count as running for ever
        known = set(context.instance.get_dynamic_partitions(str(MIMIC_VERSIONS.name)))
        time = context.scheduled_execution_time.isoformat()
        requests, reasons = [], []
        for version in all_registered(home.path):
            name = version.name
            reason = (
                reason_to_skip(context.instance, home.path, version, FINAL_ASSET[job]) if name in known else "removed"
            )
            if reason:
                reasons.append(f"{name}: {reason}")
            else:
                requests.append(dg.RunRequest(run_key=f"{name}:{time}", partition_key=name))
        return requests or dg.SkipReason("; ".join(reasons) or "no version is registered")

    return stale_mimic_versions


def reason_to_skip(instance: dg.DagsterInstance, home: Path, version: MimicVersion, final: dg.AssetKey) -> str | None:
    """Return why a version need not be requested, or None if it must be."""
    try:
        signature = stat_signature(find_files(version))
    except (MedcodeError, FileNotFoundError) as error:
        return str(error)
    if _in_progress(instance, version.name):
        return "is being materialized"
    return "unchanged" if materialized_signature(instance, home, version.name, final) == signature else None


def materialized_signature(
    instance: dg.DagsterInstance, home: Path, partition: str, final: dg.AssetKey = NOTES
) -> str | None:
    """Return the signature of the files that a version's `final` asset was made from.

    None if it was never made, if it is older than the notes (a run died on the way), or if its warehouse is gone.
    """
    notes, made = _latest(instance, NOTES, partition), _latest(instance, final, partition)
    if notes is None or made is None or not warehouse_file(home, partition).exists():
        return None
    materialization = notes.asset_materialization
    if made.storage_id < notes.storage_id or materialization is None:
        return None
    signature = materialization.metadata.get(RELEASE_SIGNATURE)
    return str(signature.value) if signature else None


def _latest(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str) -> dg.EventLogRecord | None:
    records = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[partition])
    return next(iter(instance.fetch_materializations(records, limit=1).records), None)


def _in_progress(instance: dg.DagsterInstance, partition: str) -> bool:
    going = (
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    )
    return instance.get_runs_count(dg.RunsFilter(tags={"dagster/partition": partition}, statuses=list(going))) > 0
