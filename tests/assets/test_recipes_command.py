"""`medcode recipes`."""

from pathlib import Path

from typer.testing import CliRunner

from medcode_assets.artifacts import making
from medcode_assets.cli import app
from medcode_assets.definitions import RECIPES
from medcode_serving.bundle import LATEST, MANIFEST


def listed(home: Path) -> list[str]:
    done = CliRunner().invoke(app, ["recipes", "--output-dir", str(home)])
    assert done.exit_code == 0, done.exception
    return done.stdout.splitlines()


def test_every_recipe_is_listed_with_what_it_learns_and_from_what(tmp_path: Path) -> None:
    lines = listed(tmp_path)
    assert [line.split(":")[0] for line in lines if line and not line.startswith(" ")] == [
        recipe.name for recipe in RECIPES
    ]
    icd = lines[lines.index("icd: discharge summaries to ICD codes") :]
    assert icd[1:3] == ["  sources: mimic/splits", f"  nothing made yet in {tmp_path}"]
    for recipe in RECIPES:
        for stage in recipe.stages:
            assert f"  stage {stage.number}: {stage.learns} ({stage.objective.upper()})" in lines


def test_what_is_made_is_listed_by_partition_and_bundle(tmp_path: Path) -> None:
    for partition, name in [("demo", "tokens"), ("demo", "adapter"), ("iv-3.1", "tokens")]:
        with making(tmp_path / "artifacts" / "icd" / partition / name, "fingerprint"):
            pass
    (tmp_path / "artifacts" / "icd" / "demo" / "training").mkdir()  # not sealed: it goes on
    (tmp_path / "artifacts" / "icd" / "new" / "training").mkdir(parents=True)
    lines = listed(tmp_path)
    assert "  made of demo: adapter, tokens" in lines
    assert "  made of iv-3.1: tokens" in lines
    assert not any("training" in line or "made of new" in line for line in lines)

    for version in ("v1", "v2"):
        (tmp_path / "bundles" / "icd" / version).mkdir(parents=True)
        (tmp_path / "bundles" / "icd" / version / MANIFEST).write_text("{}")
    assert any(line.endswith("; LATEST: none") for line in listed(tmp_path))
    (tmp_path / "bundles" / "icd" / LATEST).write_text("v1\n")
    assert "  bundles: v1, v2; LATEST: v1" in listed(tmp_path)
