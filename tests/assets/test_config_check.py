"""`medcode config check`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from medcode_assets.cli import app

ROOT = Path(__file__).parents[2]


def check(*files: Path) -> Result:
    return CliRunner().invoke(app, ["config", "check", *map(str, files)])


def write(folder: Path, contents: str) -> Path:
    file = folder / "settings.yaml"
    file.write_text(contents)
    return file


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("config/training-config.yaml", "training settings, all at their defaults"),
        ("config/inference-config.yaml", "inference settings, all at their defaults"),
        ("medcode_assets/demo.yaml", "training settings, "),
    ],
)
def test_the_committed_files_are_valid(file: str, kind: str) -> None:
    done = check(ROOT / file)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{ROOT / file}: valid {kind}")


def test_every_file_in_config_is_valid() -> None:
    files = sorted((ROOT / "config").glob("*.yaml"))
    done = check(*files)
    assert done.exit_code == 0, done.output
    assert sum(": valid " in line for line in done.stdout.splitlines()) == len(files)
    stages = [file for file in files if file.name.startswith("reasoning-stage")]
    assert done.stdout.count("valid reasoning stage settings") == len(stages)


@pytest.mark.parametrize(
    ("contents", "kind", "settings"),
    [
        ("lora: {r: 16, alpha: 16}\n", "training", ["lora.r: 16 (default 8)"]),
        ("model: {base: embedded}\n", "training", ["model.base: embedded (default deepseek"]),
        ("model: {engine: linear}\n", "inference", ["model.engine: linear (default transformers)"]),
        ("device: cpu\n", "inference", ["device: cpu (default auto)"]),
        ("logging: {audit_file: a.jsonl}\n", "inference", ["logging.audit_file: a.jsonl (default None)"]),
        (
            "reasoning: {stage: 2}\nlora: {r: 8}\n",
            "reasoning stage",
            ["reasoning.stage: 2 (default 1)"],
        ),
    ],
)
def test_sections_tell_the_kind(tmp_path: Path, contents: str, kind: str, settings: list[str]) -> None:
    file = write(tmp_path, contents)
    done = check(file)
    assert done.exit_code == 0, done.output
    first, *listed = done.stdout.splitlines()
    assert first.startswith(f"{file}: valid {kind} settings")
    for line, expected in zip(listed, settings, strict=True):
        assert line.strip().startswith(expected)
    assert f"{len(settings)} not at" in first


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("lora:\n  r: 16\n  rank: 4\n", "line 3: lora.rank: no such setting"),
        ("lora:\n  r: many\n", "line 2: lora.r: "),
        ("api:\n\n  port: 99999\n", "line 3: api.port: "),
        ("api: {port: 80}\nserver: {}\n", "line 2: server: no such setting"),
        ("reasoning:\n  stage: 4\n", "line 2: reasoning.stage: "),
        ("reasoning:\n  sources: {synthetic: 0}\n", "the weight of 'synthetic' is 0"),
        ("lora: [\n", "not YAML"),
        ("- lora\n", "not a mapping"),
        ("", "empty"),
        ("colour: blue\n", "no section of any kind"),
        ("model: {}\n", "nothing that tells which kind"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, contents: str, message: str) -> None:
    file = write(tmp_path, contents)
    done = check(file)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"medcode: {file}")
    assert message in done.stderr


def test_a_bad_file_hides_no_good_one(tmp_path: Path) -> None:
    good = write(tmp_path, "lora: {r: 4}\n")
    done = check(tmp_path / "nowhere.yaml", good)
    assert done.exit_code == 2
    assert "nowhere.yaml" in done.stderr
    assert done.stdout.startswith(f"{good}: valid training settings")


def test_what_the_environment_sets_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCODE_TRAIN_LORA__R", "64")
    done = check(write(tmp_path, "lora: {alpha: 4}\n"))
    assert "  lora.r: 64 (default 8, from the environment)" in done.stdout.splitlines()
    assert "  lora.alpha: 4 (default 16)" in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("lora:\n  r: 8\n  r: 16\n", ", line 3: r stands there twice"),
        ("lora:\n  r: 8\ndata: {}\nlora:\n  alpha: 4\n", ", line 4: lora stands there twice"),
        ("reasoning:\n  sources:\n    synthetic: .nan\n", ", line 3: .nan is no number"),
        ("reasoning:\n  sources: {synthetic: -.INF}\n", ", line 2: -.INF is no number"),
        ("lora: " + "[" * 1500, ": brackets too deep"),
    ],
)
def test_what_yaml_would_let_through_is_refused(tmp_path: Path, contents: str, message: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(contents)
    result = CliRunner().invoke(app, ["config", "check", str(file)])
    assert result.exit_code == 2
    assert f"{file}{message}" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_aliases_are_no_keys_that_stand_twice(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("lora: &it\n  r: 4\nsearch: *it\n")
    assert "twice" not in CliRunner().invoke(app, ["config", "check", str(file)]).stderr
