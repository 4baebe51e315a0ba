"""`medcode export` and `medcode verify-export` of a bundle that is there."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from medcode_assets.cli import app
from medcode_assets.export.exporting import bundle_folder
from medcode_assets.export.gguf import write_gguf
from medcode_serving.bundle import latest_bundle
from medcode_serving.errors import MedcodeError

from .conftest import METADATA


def medcode(*arguments: object) -> Result:
    """Run a command in this process; what `main` would print in one line is `exception`."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def gguf_folder(home: Path) -> Path:
    return bundle_folder(latest_bundle(home / "bundles", "icd"))


def test_an_exported_bundle_is_shown_again_and_put_into_lm_studio(home: Path, gguf_folder: Path) -> None:
    (home / "models").mkdir()
    done = medcode("export", "--quantization", "f16", "--output-dir", home, "--lm-studio", home)
    assert done.exit_code == 0, done.output
    assert "KL divergence, nats" in done.stdout
    assert f"Unchanged: {gguf_folder}" in done.stdout
    assert "micro F1 is not measured" in done.stderr  # there is no warehouse
    assert (home / "models" / "medcode" / "medcode-icd-v1" / "medcode-icd-v1-F16.gguf").exists()


def test_a_file_is_verified_wherever_it_is_and_a_wrong_one_fails(
    home: Path,
    gguf_folder: Path,
    base: Path,
    merged: Path,
    tmp_path: Path,
) -> None:
    options = ("--output-dir", home, "--set", "export.prompts=3")
    file = (gguf_folder / "medcode-icd-v1-F16.gguf").rename(tmp_path / "mine.gguf")
    good = medcode("verify-export", file, "--json", *options)
    assert good.exit_code == 0, good.output
    assert json.loads(good.stdout)[0]["problems"] == []
    assert not list((home / "bundles" / "icd").glob(".*-work"))
    unmerged = write_gguf(base, tmp_path / "base.gguf", metadata=METADATA)
    bad = medcode("verify-export", unmerged, "--bundle", gguf_folder.parent, *options)
    assert bad.exit_code == 1
    assert "base.gguf: 14 of 26 tensors are not the merged model's" in bad.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--quantization", "q3_k"], "quantization q3_k: not one that is exported; choose from f32, f16"),
        (["export", "--set", "export.prompts=2"], "prompts.*greater than or equal to 3"),
        (["export", "--version", "v7"], "no such bundle of recipe icd in .*; there are: v1"),
        (["export", "--bundle", "BUNDLE", "--version", "v1"], "both name a bundle; give one"),
        (["export", "--name", "x"], "--name needs --mimic-dir"),
        (["export", "--mimic-dir", ".", "--lora"], "--lora is for a bundle that is there"),
        (["export", "--mimic-dir", "."], "--mimic-dir needs --dataset-version"),
        (["export", "--lm-studio", "nowhere"], "--lm-studio nowhere: no such folder"),
        (["verify-export", "nowhere.gguf"], "no such file"),
        (["verify-export", "CUT"], "truncated or no GGUF file"),
        (["verify-export", "UNNAMED"], "does not say which bundle"),
        (["verify-export", "OTHER", "--bundle", "BUNDLE"], "holds another model than the bundle: .* tensors"),
        (["verify-export", "FOLDER"], "medcode-icd-v1-F16.gguf: changed since its export"),
    ],
)
def test_a_mistake_is_one_line(
    home: Path,
    gguf_folder: Path,
    family_models: dict[str, Path],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    file = gguf_folder / "medcode-icd-v1-F16.gguf"
    cut, unnamed = tmp_path / "cut.gguf", tmp_path / "unnamed.gguf"
    cut.write_bytes(file.read_bytes()[:-1000])
    if {"UNNAMED", "OTHER"} & set(arguments):
        write_gguf(family_models["phi2"], unnamed, metadata=METADATA)
    file.write_bytes(cut.read_bytes())
    places = {"BUNDLE": gguf_folder.parent, "CUT": cut, "UNNAMED": unnamed, "OTHER": unnamed, "FOLDER": gguf_folder}
    done = medcode(*(places.get(argument, argument) for argument in arguments), "--output-dir", home)
    assert isinstance(done.exception, MedcodeError), done.output
    with pytest.raises(MedcodeError, match=message):
        raise done.exception
    assert "\n" not in str(done.exception)
