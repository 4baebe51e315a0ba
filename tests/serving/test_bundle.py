import dataclasses
import json
from pathlib import Path

import pytest

from medcode_serving.bundle import latest_bundle, latest_version, open_bundle, publish, write_bundle
from medcode_serving.errors import MedcodeError
from medcode_serving.settings import load_inference_settings


def test_what_is_written_is_read(make_bundle, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    assert open_bundle(bundle.path).manifest == bundle.manifest
    assert "codes.parquet" in bundle.manifest.files
    modes = {file: (bundle.path / file).stat().st_mode & 0o777 for file in bundle.manifest.files}
    assert len(set(modes.values())) == 1  # the umask's; safetensors are written as 0600, and others serve the bundle


def test_a_version_is_written_once(make_bundle, tmp_path: Path) -> None:
    make_bundle(tmp_path)
    with pytest.raises(MedcodeError, match="immutable"):
        make_bundle(tmp_path)


@pytest.mark.parametrize("file", ["codes.parquet", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"])
def test_a_changed_byte_is_found(make_bundle, tmp_path: Path, file: str) -> None:
    path = make_bundle(tmp_path).path
    data = bytearray((path / file).read_bytes())
    data[len(data) // 2] ^= 1
    (path / file).write_bytes(data)
    with pytest.raises(MedcodeError, match=f"{Path(file).name}: changed"):
        open_bundle(path)


def test_missing_and_foreign_files_are_found(make_bundle, tmp_path: Path) -> None:
    path = make_bundle(tmp_path).path
    (path / "adapter" / "extra.py").write_text("")
    with pytest.raises(MedcodeError, match="extra.py: not part"):
        open_bundle(path)
    (path / "adapter" / "extra.py").unlink()
    (path / "codes.parquet").unlink()
    with pytest.raises(MedcodeError, match="codes.parquet: missing"):
        open_bundle(path)


def test_a_gguf_may_be_added(make_bundle, tmp_path: Path) -> None:
    path = make_bundle(tmp_path).path
    (path / "gguf").mkdir()
    (path / "gguf" / "model.gguf").write_bytes(b"GGUF")
    assert open_bundle(path)


def test_a_newer_schema_is_refused(make_bundle, tmp_path: Path) -> None:
    path = make_bundle(tmp_path).path
    manifest = json.loads((path / "bundle.json").read_text())
    (path / "bundle.json").write_text(json.dumps(manifest | {"schema_version": 5}))
    with pytest.raises(MedcodeError, match="schema_version"):
        open_bundle(path)
    (path / "bundle.json").write_text(json.dumps(manifest | {"threshold": 7}))
    with pytest.raises(MedcodeError, match="threshold"):
        open_bundle(path)
    (path / "bundle.json").write_text("{")
    with pytest.raises(MedcodeError, match="not JSON"):
        open_bundle(path)


@pytest.mark.parametrize("contents", [b"", b"\n", b"\xff\xfe", b"../other/v1", b".hidden", b"v1\x00", None])
def test_a_latest_that_names_no_version_is_told(tmp_path: Path, contents: bytes | None) -> None:
    pointer = tmp_path / "icd" / "LATEST"
    pointer.parent.mkdir()
    if contents is None:
        pointer.mkdir()
    else:
        pointer.write_bytes(contents)
    with pytest.raises(MedcodeError, match="LATEST: "):
        latest_version(tmp_path, "icd")


def test_pickles_are_refused_and_nothing_is_left(make_bundle, adapter, tmp_path: Path) -> None:
    import shutil

    manifest = make_bundle(tmp_path / "source").manifest
    unsafe = tmp_path / "unsafe"
    shutil.copytree(adapter, unsafe)
    (unsafe / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(MedcodeError, match="safetensors"):
        write_bundle(tmp_path / "root", manifest, adapter=unsafe, codes=tmp_path / "codes.parquet")
    with pytest.raises(FileNotFoundError):
        write_bundle(tmp_path / "root", manifest, adapter=adapter, codes=tmp_path / "no-codes.parquet")
    assert list((tmp_path / "root" / "icd").iterdir()) == []


def test_the_command_of_the_recipe_is_told(make_bundle, tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match=r"no bundle of recipe 'icd' is published yet; make one: medcode run$"):
        latest_version(tmp_path, "icd")
    with pytest.raises(MedcodeError, match="make one: medcode consult run$"):
        latest_version(tmp_path, "consult")
    bundle = make_bundle(tmp_path)
    with pytest.raises(MedcodeError, match="'icdd' is published yet; there are bundles of icd: name one of these"):
        latest_version(tmp_path, "icdd")
    bundle.codes.unlink()
    with pytest.raises(MedcodeError, match="missing from the bundle; publish it anew: medcode run$"):
        open_bundle(bundle.path)


def test_latest_names_the_published_one(make_bundle, tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match="no bundle of recipe 'icd' is published"):
        latest_version(tmp_path, "icd")
    first, second = make_bundle(tmp_path, "v1"), make_bundle(tmp_path, "v2")
    publish(first)
    assert latest_bundle(tmp_path, "icd").manifest.version == "v1"
    publish(second)
    assert latest_bundle(tmp_path, "icd").manifest.version == "v2"
    assert sorted(file.name for file in (tmp_path / "icd").iterdir()) == ["LATEST", "v1", "v2"]


def test_a_base_model_that_changed_is_refused(make_bundle, base_model, tmp_path: Path, monkeypatch) -> None:
    from medcode_serving.loading import load_predictor

    bundle = make_bundle(tmp_path)
    manifest = json.loads((bundle.path / "bundle.json").read_text())
    manifest["base_model"]["revision"] = "0" * 64
    (bundle.path / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(MedcodeError, match="revision"):
        load_predictor(load_inference_settings(None, **{"model.bundle": str(bundle.path), "device": "cpu"}))


def test_a_bundle_that_was_cut_by_another_list_of_sections_says_so(
    make_bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Training and serving must cut long notes alike; the list may change between versions of medcode."""
    from medcode_serving.engines.loading import load_engine
    from medcode_serving.sections import sections_hash
    from medcode_serving.settings import InferenceSettings

    bundle = make_bundle(tmp_path / "bundles")
    for sections, warnings in (("", 0), (sections_hash(), 0), ("0" * 64, 1)):
        decoding = bundle.manifest.decoding.model_copy(update={"sections": sections})
        manifest = bundle.manifest.model_copy(update={"decoding": decoding})
        caplog.clear()
        load_engine(dataclasses.replace(bundle, manifest=manifest), InferenceSettings(), tmp_path)
        assert (
            len([record for record in caplog.records if "another list of note sections" in record.message]) == warnings
        )
