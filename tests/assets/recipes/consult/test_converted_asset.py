"""Asset `consult/converted`: what makes its questions anew, and what only its checks."""

import json
from pathlib import Path

import dagster as dg
import pytest

from medcode_assets.recipes.consult.assets import CONVERSATIONS, CONVERTED, own_assets
from medcode_assets.recipes.consult.recipe import CONSULT
from medcode_assets.recipes.consult.settings import ConsultSettings
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def convert(home: Path, **consult: object) -> dg.ExecuteInProcessResult:
    settings = ConsultSettings(consult={"source": "synthetic", "count": 60, **consult})
    assets = [asset for asset in own_assets(settings) if asset.key in (CONVERSATIONS, CONVERTED)]
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(CONSULT.partitions.name), ["few"])
        return dg.materialize(
            assets,
            instance=instance,
            partition_key="few",
            resources={"home": Home(folder=str(home)), "warehouse": Warehouse(database=str(home / "warehouse"))},
        )


def versions(result: dg.ExecuteInProcessResult) -> tuple[str, bool]:
    (event,) = [e for e in result.get_asset_materialization_events() if e.asset_key == CONVERTED]
    found = event.materialization
    return found.tags["dagster/data_version"], found.metadata["unchanged"].value


def test_rows_that_are_asked_for_again_in_vain_teach_nothing_new(home: Path) -> None:
    version, _ = versions(convert(home))
    seal = home / "artifacts" / "consult" / "few" / "converted" / "made.json"
    facts = json.loads(seal.read_text())
    seal.write_text(json.dumps({**facts, "unanswered": 1}))
    again, unchanged = versions(convert(home))
    assert json.loads(seal.read_text())["seal"] != facts["seal"]
    assert not unchanged
    assert again == version  # so nothing is trained anew


def test_the_share_that_must_be_valid_counts_at_once(home: Path) -> None:
    convert(home)
    again = convert(home, least_valid=0.25)
    assert versions(again)[1]
    reasons = {check.check_name: check.metadata["reason"].value for check in again.get_asset_check_evaluations()}
    assert "asked for 25%" in reasons["structure_valid"]
