"""What happens by itself: a sensor for new MIMIC releases, and a schedule for missing and changed ones.

Only Dagster's side is here; what a folder holds is told by `medcode_assets.mimic.watching`.
"""

import json
from pathlib import Path
from typing import Any

import dagster as dg

from medcode_assets.config import AutomationSettings
from medcode_assets.mimic.assets import RELEASE_SIGNATURE
from medcode_assets.mimic.sources import MimicVersion, find_files, stat_signature
from medcode_assets.mimic.versions import all_registered, register
from medcode_assets.mimic.watching import Sighting, look, settled
from medcode_assets.partitions import MIMIC_VERSIONS
from medcode_assets.resources.home import Home
from medcode_serving.errors import MedcodeError

PREPARE, TRAIN = "prepare", "icd"
"""Jobs: up to the tokens, and everything."""
LAST_ASSET = {PREPARE: dg.AssetKey(["icd", "tokens"]), TRAIN: dg.AssetKey(["icd", "bundle"])}
"""A version that has this one is not missing."""


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
        memory: dict[str, dict[str, str | None]] = json.loads(context.cursor or "{}")
        names, requests, waiting = [], [], []
        for sighting in sightings:
            name = sighting.version.name
            seen = memory.get(name, {})
            requested = seen.get("requested")
            if not settled(sighting, seen.get("signature")):
                waiting.append(f"{name}: {sighting.problem or 'waiting for its files to stay as they are'}")
            elif sighting.signature != requested:
                requested = sighting.signature
                problem = _register(context, home.path, sighting)
                if problem:
                    waiting.append(f"{name}: {problem}")
                elif materialized_signature(context.instance, name, LAST_ASSET[job]) != sighting.signature:
                    names.append(name)
                    requests.append(_request(sighting.version, f"{name}:{sighting.signature}"))
            memory[name] = {"signature": sighting.signature, "requested": requested}
        return dg.SensorResult(
            run_requests=requests,
            dynamic_partitions_requests=[MIMIC_VERSIONS.build_add_request(names)] if names else [],
            cursor=json.dumps(memory),
            skip_reason=None if requests else "; ".join(waiting) or f"nothing new in {settings.watch_folder}",
        )

    return new_mimic_releases


def _register(context: dg.SensorEvaluationContext, home: Path, sighting: Sighting) -> str | None:
    """Register a complete release; return what is wrong with it, which stands until its files change."""
    try:
        register(home, sighting.version)
    except MedcodeError as error:
        context.log.warning(f"{sighting.version.name} cannot be used: {error}")
        return str(error)
    return None


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
    def stale_mimic_versions(context: dg.ScheduleEvaluationContext, home: Home) -> Any:
        known = set(context.instance.get_dynamic_partitions(str(MIMIC_VERSIONS.name)))
        requests, reasons = [], []
        for version in all_registered(home.path):
            reason = _fresh(context.instance, version, LAST_ASSET[job]) if version.name in known else "no partition"
            if reason:
                reasons.append(f"{version.name}: {reason}")
            else:
                requests.append(_request(version, f"{version.name}:{context.scheduled_execution_time.isoformat()}"))
        return requests or dg.SkipReason("; ".join(reasons) or "no version is registered")

    return stale_mimic_versions


def _fresh(instance: dg.DagsterInstance, version: MimicVersion, last: dg.AssetKey) -> str | None:
    """Return why a version need not be requested, or None if it must be."""
    try:
        signature = stat_signature(find_files(version))
    except MedcodeError as error:
        return str(error)
    if _in_progress(instance, version.name):
        return "is being materialized"
    return "unchanged" if materialized_signature(instance, version.name, last) == signature else None


def materialized_signature(instance: dg.DagsterInstance, partition: str, last: dg.AssetKey) -> str | None:
    """Return the signature of the files that a version was made from, or None if `last` was never materialized."""
    if partition not in instance.get_materialized_partitions(last):
        return None
    records = dg.AssetRecordsFilter(asset_key=dg.AssetKey(["raw", "notes"]), asset_partitions=[partition])
    for record in instance.fetch_materializations(records, limit=1).records:
        materialization = record.asset_materialization
        if materialization and RELEASE_SIGNATURE in materialization.metadata:
            return str(materialization.metadata[RELEASE_SIGNATURE].value)
    return None


def _in_progress(instance: dg.DagsterInstance, partition: str) -> bool:
    running = dg.RunsFilter(
        tags={"dagster/partition": partition},
        statuses=[dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED],
    )
    return instance.get_runs_count(running) > 0


def _request(version: MimicVersion, run_key: str) -> dg.RunRequest:
    return dg.RunRequest(run_key=run_key, partition_key=version.name)
