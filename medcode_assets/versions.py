"""MIMIC versions as partitions of the Dagster instance: added, removed, and how far each one is."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_assets.locks import waiting_lock
from medcode_assets.pipeline import STOPS_AT
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from medcode_assets.mimic.sources import MimicVersion


def add_version(instance: "DagsterInstance", home: Path, version: "MimicVersion") -> None:
    """Register a MIMIC folder and its partition. Raises MedcodeError as `medcode_assets.mimic.versions.register`."""
    from medcode_assets.mimic.versions import register
    from medcode_assets.partitions import MIMIC_VERSIONS

    for folder in (home / "artifacts").glob(f"*/{version.name}"):
        if folder.parent.name != "icd":  # its warehouse would be shared, and removing the version would delete it
            raise MedcodeError(
                f"--name {version.name}: recipe {folder.parent.name} has data of that name in {home}; take another"
            )
    register(home, version)
    instance.add_dynamic_partitions(str(MIMIC_VERSIONS.name), [version.name])


def warehouse_file(home: Path, version: str) -> Path:
    """Return the DuckDB file of a MIMIC version."""
    return home / "warehouse" / f"{version}.duckdb"


def remove_version(instance: "DagsterInstance", home: Path, name: str, *, delete_data: bool = False) -> None:
    """Forget a MIMIC version and its partition; with `delete_data` its warehouse, artifacts and evaluations go, too.

    MIMIC's own files and published bundles stay.

    Raises:
        MedcodeError: it is not registered, or its warehouse is in use.
    """
    from medcode_assets.evaluation.history import forget_evaluations
    from medcode_assets.mimic.versions import registered, unregister
    from medcode_assets.partitions import MIMIC_VERSIONS

    registered(home, name)
    if delete_data:
        file = warehouse_file(home, name)
        with waiting_lock(
            file.with_suffix(".lock"), what=str(file), exclusive=True, purpose=f"versions remove {name}", wait_seconds=0
        ):
            file.unlink(missing_ok=True)
            file.with_name(f"{file.name}.wal").unlink(missing_ok=True)
            for artifacts in (home / "artifacts").glob(f"*/{name}"):
                shutil.rmtree(artifacts)
            forget_evaluations(home, name)
    unregister(home, name)
    instance.delete_dynamic_partition(str(MIMIC_VERSIONS.name), name)


@dataclass(frozen=True)
class VersionStatus:
    """A registered version and how far it is."""

    version: "MimicVersion"
    materialized: int
    """Assets that were materialized for it."""
    assets: int
    problem: str | None
    """Why it cannot be materialized now, or what changed since."""


def version_statuses(instance: "DagsterInstance", home: Path) -> list[VersionStatus]:
    """Return every registered version with what has been materialized for it."""
    from medcode_assets.automation import materialized_signature
    from medcode_assets.definitions import build_definitions
    from medcode_assets.mimic.sources import find_files, stat_signature
    from medcode_assets.mimic.versions import all_registered
    from medcode_assets.partitions import MIMIC_VERSIONS

    graph = build_definitions(home).resolve_asset_graph()
    # A version is complete without a search, which only its user asks for.
    keys = [
        key
        for key in graph.get_all_asset_keys()
        if key.path[-1] != STOPS_AT["search"] and graph.get(key).partitions_def == MIMIC_VERSIONS
    ]
    made = {key: instance.get_materialized_partitions(key) for key in keys}
    statuses = []
    for version in all_registered(home):
        kept = warehouse_file(home, version.name).exists()
        count = sum(version.name in partitions for partitions in made.values()) if kept else 0
        try:
            signature = stat_signature(find_files(version))
        except MedcodeError as error:
            statuses.append(VersionStatus(version, count, len(keys), str(error)))
            continue
        loaded = materialized_signature(instance, home, version.name)
        changed = "its files changed since they were loaded" if loaded not in (None, signature) else None
        statuses.append(VersionStatus(version, count, len(keys), changed))
    return statuses
