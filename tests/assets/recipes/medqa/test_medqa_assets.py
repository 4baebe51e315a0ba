"""Assets behind the evaluation of recipe `medqa`, on artifacts that do not belong together."""

import json
from pathlib import Path

import dagster as dg
import pytest

from medcode_assets.config import Settings
from medcode_assets.recipes.medqa import errors
from medcode_assets.recipes.medqa.assets import CONFIDENCE, ERRORS, SOURCE, own_assets
from medcode_assets.recipes.medqa.errors import errors_fingerprint
from medcode_assets.recipes.medqa.recipe import MEDQA
from medcode_assets.recipes.medqa.settings import ErrorsSection, MedqaSettings
from medcode_assets.recipes.words.assets import word_examples_asset
from medcode_assets.resources.compute import Compute
from medcode_assets.resources.home import Home
from medcode_assets.resources.warehouse import Warehouse
from medcode_serving.errors import MedcodeError


def seal(folder: Path, **facts: object) -> None:
    folder.mkdir(parents=True)
    (folder / "made.json").write_text(json.dumps({"fingerprint": "f", "seal": "new", **facts}))


def test_confidence_is_of_the_adapter_that_was_evaluated(tmp_path: Path) -> None:
    settings = MedqaSettings(medqa={"source": "synthetic", "synthetic_questions": 60})
    own = [asset for asset in own_assets(settings) if asset.key in (SOURCE, CONFIDENCE)]
    artifacts = tmp_path / "artifacts" / "medqa" / "few"
    seal(artifacts / "adapter", decoding={})
    seal(artifacts / "evaluation", adapter="old", examples="f")
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(MEDQA.partitions.name), ["few"])
        with pytest.raises(MedcodeError, match="medqa/evaluation is older than its adapter or examples"):
            dg.materialize(
                [*own, word_examples_asset(MEDQA, Settings())],
                instance=instance,
                partition_key="few",
                resources={
                    "home": Home(folder=str(tmp_path)),
                    "warehouse": Warehouse(database=str(tmp_path / "warehouse")),
                    "compute": Compute(device="cpu"),
                },
            )


def test_errors_take_the_temperature_of_the_same_answers(tmp_path: Path) -> None:
    (asset,) = [asset for asset in own_assets(MedqaSettings()) if asset.key == ERRORS]
    artifacts = tmp_path / "artifacts" / "medqa" / "few"
    seal(artifacts / "evaluation", adapter="a", examples="f")
    seal(artifacts / "confidence", evaluation="old")
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(MEDQA.partitions.name), ["few"])
        with pytest.raises(MedcodeError, match="medqa/confidence is older than medqa/evaluation"):
            dg.materialize(
                [asset], instance=instance, partition_key="few", resources={"home": Home(folder=str(tmp_path))}
            )


def test_other_patterns_are_another_analysis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = errors_fingerprint("seal", 1.0, ErrorsSection())
    assert errors_fingerprint("seal", 1.0, ErrorsSection()) == before
    assert errors_fingerprint("seal", 1.0, ErrorsSection(least=6)) != before
    (tmp_path / "mine.yaml").write_text("traits: {}")
    monkeypatch.setattr(errors, "PATTERNS", tmp_path / "mine.yaml")
    assert errors_fingerprint("seal", 1.0, ErrorsSection()) != before
