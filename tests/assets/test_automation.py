"""The sensor and the schedule, tick by tick, on a real instance; the e2e test has the daemon."""

import os
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import dagster as dg
import pytest

from medcode_assets.automation import RELEASE_SIGNATURE
from medcode_assets.config import AutomationSettings, Settings
from medcode_assets.corpora.synthetic_mimic import write_synthetic_mimic
from medcode_assets.definitions import build_definitions
from medcode_assets.mimic.sources import MimicVersion, find_files, stat_signature
from medcode_assets.mimic.versions import all_registered, register
from medcode_assets.mimic.watching import look
from medcode_assets.resources.home import Home
from medcode_assets.versions import warehouse_file


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_mimic(tmp_path_factory.mktemp("made") / "mimic", admissions=20, seed=3)


class Watch:
    """A watched folder, its definitions, and an instance that remembers between ticks."""

    def __init__(self, tmp_path: Path, instance: dg.DagsterInstance, *, retrain: bool = False):
        self.folder, self.home, self.instance = tmp_path / "watched", tmp_path / "home", instance
        self.folder.mkdir()
        automation = AutomationSettings(watch_folder=str(self.folder), retrain=retrain)
        self.definitions = build_definitions(self.home, Settings(automation=automation))
        self.cursor: str | None = None

    def tick(self) -> dg.SensorResult | dg.SkipReason:
        sensor = self.definitions.resolve_sensor_def("new_mimic_releases")
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            definitions=self.definitions,
            resources={"home": self.home_resource},
        )
        result = sensor(context)
        if isinstance(result, dg.SensorResult):
            self.cursor = result.cursor
            for request in result.dynamic_partitions_requests or []:
                self.instance.add_dynamic_partitions("mimic_versions", list(request.partition_keys))
        return result

    def schedule(self) -> list[dg.RunRequest] | dg.SkipReason:
        schedule = self.definitions.resolve_schedule_def("stale_mimic_versions")
        with dg.build_schedule_context(
            instance=self.instance,
            scheduled_execution_time=datetime(2026, 11, 22, 3),
            resources={"home": self.home_resource},
        ) as context:
            return schedule(context)

    @property
    def home_resource(self) -> Home:
        return Home(folder=str(self.home))

    def materialized(self, name: str, folder: Path) -> None:
        """Report what a run of the preparation reports."""
        signature = stat_signature(find_files(MimicVersion(name, "mimic-iv", str(folder))))
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(["raw", "notes"], partition=name, metadata={RELEASE_SIGNATURE: signature})
        )
        self.instance.report_runless_asset_event(dg.AssetMaterialization(["icd", "tokens"], partition=name))
        warehouse_file(self.home, name).parent.mkdir(parents=True, exist_ok=True)
        warehouse_file(self.home, name).touch()


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    # Not entered: it would leave a mark of itself in pytest's context, which definitions of later tests stumble over.
    (tmp_path / "dagster").mkdir()
    instance = dg.DagsterInstance.local_temp(str(tmp_path / "dagster"))
    yield Watch(tmp_path, instance)
    instance.dispose()


def requested(result: object) -> list[tuple[str, str | None]]:
    assert isinstance(result, dg.SensorResult)
    return [(str(request.partition_key), request.run_key) for request in result.run_requests or []]


def test_a_release_is_requested_once_two_looks_agree(watch: Watch, release: Path) -> None:
    shutil.copytree(release, watch.folder / "mimic-iv-new")
    assert requested(watch.tick()) == []
    assert all_registered(watch.home) == []
    [(name, run_key)] = requested(watch.tick())
    assert name == "mimic-iv-new"
    assert run_key and run_key.startswith("mimic-iv-new:")
    assert [version.name for version in all_registered(watch.home)] == ["mimic-iv-new"]
    assert watch.instance.get_dynamic_partitions("mimic_versions") == ["mimic-iv-new"]
    assert requested(watch.tick()) == []  # once


def test_a_release_that_is_still_being_copied_waits(watch: Watch, release: Path) -> None:
    target = watch.folder / "mimic-iv-new"
    shutil.copytree(release / "hosp", target / "hosp")
    for _ in range(3):
        result = watch.tick()
        assert requested(result) == []
    assert "expected note/discharge.csv.gz" in str(result.skip_reason)
    (target / "note").mkdir()
    note = (release / "note" / "discharge.csv.gz").read_bytes()
    for share in (3, 2):  # the file grows from look to look
        (target / "note" / "discharge.csv.gz").write_bytes(note[: len(note) // share])
        assert requested(watch.tick()) == []
    (target / "note" / "discharge.csv.gz").write_bytes(note)
    assert requested(watch.tick()) == []
    assert [name for name, _ in requested(watch.tick())] == ["mimic-iv-new"]


def test_a_changed_release_is_requested_again_under_another_run_key(watch: Watch, release: Path) -> None:
    shutil.copytree(release, watch.folder / "mimic-iv-new")
    watch.tick()
    [(_, first)] = requested(watch.tick())
    os.utime(watch.folder / "mimic-iv-new" / "hosp" / "patients.csv.gz", (1, 1))
    assert requested(watch.tick()) == []
    [(name, second)] = requested(watch.tick())
    assert name == "mimic-iv-new"
    assert first != second


def test_a_release_with_a_missing_column_waits_until_it_changes(watch: Watch, release: Path) -> None:
    target = shutil.copytree(release, watch.folder / "mimic-iv-new")
    patients = target / "hosp" / "patients.csv.gz"
    good = patients.read_bytes()
    patients.unlink()
    patients.with_suffix("").write_text("subject_id,sex\n1,F\n")
    watch.tick()
    for _ in range(2):  # said at every look
        result = watch.tick()
        assert requested(result) == []
        assert "mimic-iv-new cannot be used" in str(result.skip_reason)
        assert "column gender" in str(result.skip_reason)
    patients.with_suffix("").unlink()
    patients.write_bytes(good)
    watch.tick()
    assert [name for name, _ in requested(watch.tick())] == ["mimic-iv-new"]


def test_what_was_materialized_by_hand_is_not_requested(watch: Watch, release: Path) -> None:
    target = shutil.copytree(release, watch.folder / "mimic-iv-new")
    register(watch.home, MimicVersion("mimic-iv-new", "mimic-iv", str(target)))
    watch.instance.add_dynamic_partitions("mimic_versions", ["mimic-iv-new"])
    watch.materialized("mimic-iv-new", target)
    watch.tick()
    assert requested(watch.tick()) == []
    other = shutil.copytree(release, watch.folder / "second")
    register(watch.home, MimicVersion("by-hand", "mimic-iv", str(other)))  # under a name of its own
    watch.tick()
    assert requested(watch.tick()) == []


def test_a_folder_that_is_gone_is_said(watch: Watch) -> None:
    watch.folder.rmdir()
    result = watch.tick()
    assert isinstance(result, dg.SkipReason)
    assert "no such folder" in str(result.skip_message)


def test_the_schedule_requests_missing_and_changed_versions(watch: Watch, release: Path) -> None:
    folders = {name: shutil.copytree(release, watch.folder / name) for name in ("missing", "unchanged", "changed")}
    for name, folder in folders.items():
        register(watch.home, MimicVersion(name, "mimic-iv", str(folder)))
    watch.instance.add_dynamic_partitions("mimic_versions", list(folders))
    watch.materialized("unchanged", folders["unchanged"])
    watch.materialized("changed", folders["changed"])
    os.utime(folders["changed"] / "note" / "discharge.csv.gz", (1, 1))
    requests = watch.schedule()
    assert isinstance(requests, list)
    assert [request.partition_key for request in requests] == ["changed", "missing"]
    shutil.rmtree(folders["missing"])
    watch.materialized("changed", folders["changed"])
    reason = watch.schedule()
    assert isinstance(reason, dg.SkipReason)
    assert "missing: --mimic-dir" in str(reason.skip_message)


def test_a_run_that_died_half_way_is_requested_again(watch: Watch, release: Path) -> None:
    target = shutil.copytree(release, watch.folder / "v")
    register(watch.home, MimicVersion("v", "mimic-iv", str(target)))
    watch.instance.add_dynamic_partitions("mimic_versions", ["v"])
    watch.materialized("v", target)
    assert isinstance(watch.schedule(), dg.SkipReason)
    os.utime(target / "note" / "discharge.csv.gz", (1, 1))
    signature = stat_signature(find_files(MimicVersion("v", "mimic-iv", str(target))))
    watch.instance.report_runless_asset_event(  # the new notes were loaded, and then the run died
        dg.AssetMaterialization(["raw", "notes"], partition="v", metadata={RELEASE_SIGNATURE: signature})
    )
    requests = watch.schedule()
    assert isinstance(requests, list)
    assert [request.partition_key for request in requests] == ["v"]
    watch.materialized("v", target)
    assert isinstance(watch.schedule(), dg.SkipReason)
    warehouse_file(watch.home, "v").unlink()
    assert isinstance(watch.schedule(), list)


def test_a_watched_folder_may_be_relative(tmp_path: Path, release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(release, tmp_path / "watched" / "v")
    monkeypatch.chdir(tmp_path)
    (sighting,) = look(Path("watched"), tmp_path / "home")
    assert sighting.version.directory == str(tmp_path / "watched" / "v")  # as `versions add` has it


def test_config_says_whether_a_new_version_retrains(tmp_path: Path) -> None:
    for retrain, job in ((False, "prepare"), (True, "icd")):
        automation = AutomationSettings(watch_folder=str(tmp_path), retrain=retrain)
        definitions = build_definitions(tmp_path, Settings(automation=automation))
        assert definitions.resolve_sensor_def("new_mimic_releases").job_name == job
        assert definitions.resolve_schedule_def("stale_mimic_versions").job_name == job
    keys = {key.to_user_string() for key in definitions.resolve_job_def("prepare").asset_layer.executable_asset_keys}
    assert "icd/tokens" in keys
    assert "icd/adapter" not in keys


def test_nothing_is_watched_unless_a_folder_is_named(tmp_path: Path) -> None:
    definitions = build_definitions(tmp_path, Settings())
    assert definitions.resolve_sensor_def("new_mimic_releases").default_status == dg.DefaultSensorStatus.STOPPED
    assert definitions.resolve_schedule_def("stale_mimic_versions").default_status == dg.DefaultScheduleStatus.STOPPED
