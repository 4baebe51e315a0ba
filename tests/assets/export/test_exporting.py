"""A bundle to a folder of verified GGUF files: all or nothing, and nothing twice."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

from medcode_assets.evaluation.predictions import LabelledNotes
from medcode_assets.export import exporting as room
from medcode_assets.export.exporting import Export, bundle_folder, lora_name, verify_files
from medcode_assets.export.gguf import write_gguf
from medcode_assets.export.lora_check import lora_problems
from medcode_assets.export.reference import TransformersModel
from medcode_assets.export.report import F1Comparison, GgufReport
from medcode_assets.export.validation import ValidationSample, Verification, invented_sample, measured
from medcode_assets.export.workfolder import work_folder
from medcode_serving.base_models import resolve_base_model
from medcode_serving.bundle import Bundle, latest_bundle, open_bundle
from medcode_serving.errors import MedcodeError
from medcode_serving.gguf_folder import verify_folder

from .conftest import CODES, METADATA, NOTES, exporting


@pytest.fixture
def bundle(home: Path) -> Bundle:
    return latest_bundle(home / "bundles", "icd")


@pytest.fixture
def export(home: Path):
    return exporting(home)


def inodes(folder: Path) -> dict[str, int]:
    return {file.stem.partition("-v1-")[2]: file.stat().st_ino for file in folder.glob("*.gguf")}


def test_files_are_delivered_together_and_nothing_is_made_twice(bundle: Bundle, export, tmp_path: Path) -> None:
    folder = bundle_folder(bundle)
    manifest = verify_folder(folder)
    (file,) = manifest.files
    assert file.quantization == "f16"
    assert file.verification["f1"]["notes"] == 2
    assert file.verification["template_equal"]
    assert file.verification["fine_tune_kept"] > 0.99
    assert file.verification["problems"] == []
    before = inodes(folder)
    assert before.keys() == {"F16", "LoRA-F32"}
    assert export("f16").unchanged
    assert inodes(export("f16", target=tmp_path / "out").folder) == {"F16": before["F16"]}
    assert not work_folder(bundle, folder).exists()
    open_bundle(bundle.path)  # as it was sealed


def test_an_export_that_was_cut_off_goes_on_and_what_failed_is_not_used_again(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "home")
    bundle, export = latest_bundle(tmp_path / "home" / "bundles", "icd"), exporting(tmp_path / "home")
    folder, work = bundle_folder(bundle), work_folder(bundle, bundle_folder(bundle))
    with pytest.raises(MedcodeError, match="prompts that are not empty"):
        export("f32", "q4_k_m", sample=ValidationSample(("",)))
    made = inodes(work / "files")
    assert made.keys() == {"F32", "F16", "Q4_K_M"}
    merged = (work / "merged" / "config.json").stat().st_ino
    (corrupted,) = (work / "files").glob("*-F32.gguf")
    tensor = next(tensor for tensor in gguf.GGUFReader(corrupted, "r+").tensors if tensor.name == "blk.1.attn_v.weight")
    tensor.data.flat[7] = 9.0
    failed = export("f32", "f16")
    assert failed.manifest is None
    assert not folder.exists()
    assert all(problem.startswith(f"{corrupted.name}: ") for problem in failed.problems)
    assert "blk.1.attn_v.weight" in failed.problems[0]
    assert inodes(work / "files").keys() == {"F16", "Q4_K_M"}
    assert (work / "merged" / "config.json").stat().st_ino == merged
    assert failed.checksums == {}


def verified(export: Export) -> tuple[int, list[int]]:
    """Return prompts and F1 notes of the only file's report, and what was written."""
    (report,) = export.reports
    return report.greedy_total, [report.f1.notes] if report.f1 else []


def test_a_report_stays_only_if_a_new_one_would_say_no_more(bundle: Bundle, export) -> None:
    folder = bundle_folder(bundle)
    before = inodes(folder)["F16"]
    invented = invented_sample(bundle, 1)
    assert export("f16", sample=invented).unchanged  # no warehouse there: F1 is not thrown away
    one = LabelledNotes("validation", [1], NOTES[:1], [[("icd10cm", CODES[0])]])
    again = export("f16", sample=ValidationSample(invented.prompts, one))
    assert verified(again) == (1, [1])
    assert not again.unchanged
    assert inodes(folder)["F16"] == before  # verified again, not written again
    assert export("f16", sample=ValidationSample(invented.prompts, one)).unchanged


def test_a_report_with_f1_stands_where_there_are_no_notes_unless_it_loses_too_much(
    bundle: Bundle, base: Path, tmp_path: Path
) -> None:
    (file,) = verify_folder(bundle_folder(bundle)).files
    report = GgufReport.model_validate(file.verification)
    lossy = report.model_copy(
        update={"f1": F1Comparison(notes=100, merged=0.5, file=0.4, low=0.05, high=0.15, equal_answers=9)}
    )
    blind = report.model_copy(update={"f1": None})
    invented = invented_sample(bundle, 1)
    model = resolve_base_model(str(base), tmp_path)
    strict, mild = (
        Verification(bundle, model, tmp_path, invented, most_f1_lost=lost, metadata=METADATA, folder=tmp_path)
        for lost in (0.09, 0.11)
    )
    assert mild.stands(lossy, "another sample")
    assert not strict.stands(lossy, "another sample")
    assert not strict.stands(blind, "another sample")
    assert strict.stands(blind, strict.fingerprint)
    assert strict.fingerprint == mild.fingerprint  # without F1, what may be lost plays no part
    assert measured(invented, [lossy, report]) == {
        "sample": "validation notes",
        "prompts": 2,
        "positions": report.positions,
        "f1_notes": 2,
    }
    assert measured(invented, [lossy, blind])["sample"] == "invented text"
    assert measured(replace(invented, invented=False), [blind])["sample"] == "validation notes"


def test_a_file_stays_only_if_it_would_be_made_from_the_same(bundle: Bundle, export, monkeypatch) -> None:
    folder = bundle_folder(bundle)
    before = inodes(folder)
    monkeypatch.setattr(room, "INTENDED_USE", "other words")
    done = export("f32", sample=invented_sample(bundle, 1))
    assert [report.quantization for report in done.reports] == ["f32", "f16"]  # what was there stays, made anew
    assert inodes(folder).keys() == {"F32", "F16", "LoRA-F32"}
    for file in done.manifest.files:
        description = gguf.GGUFReader(folder / file.file).get_field("general.description")
        assert description.contents() == "other words"
    assert inodes(folder)["F16"] != before["F16"]


def test_what_a_kill_between_the_two_renames_left_is_put_back(bundle: Bundle, export, tmp_path: Path) -> None:
    folder = bundle_folder(bundle)
    places = [folder, tmp_path / "a"]
    for place in places:
        export("f16", target=place)  # links what the bundle has
        work = work_folder(bundle, place)
        work.mkdir()
        place.rename(work / "replaced")
        (work / "gguf").mkdir()
    base = resolve_base_model(bundle.manifest.base_model.id, tmp_path)
    with pytest.raises(MedcodeError, match="no such file"):
        verify_files(bundle, base, [tmp_path / "none.gguf"], sample=invented_sample(bundle, 1))
    assert inodes(export("f16", target=tmp_path / "b").folder)  # of its own work folder
    for place in places:
        assert export("f16", target=place).unchanged
        assert inodes(place)
        assert not work_folder(bundle, place).exists()


def test_the_adapter_alone_is_held_against_the_merged_model(
    bundle: Bundle, base: Path, merged: Path, prompts: list[str], tmp_path: Path
) -> None:
    lora = bundle_folder(bundle) / lora_name(bundle)
    plain = write_gguf(base, tmp_path / "base.gguf", file_type="f32", metadata=METADATA)
    reference = TransformersModel(merged)
    assert lora_problems(lora, plain, reference, prompts[:1]) == []
    field = gguf.GGUFReader(lora, "r+").fields["adapter.lora.alpha"]
    field.parts[field.data[0]][0] *= 2
    (problem,) = lora_problems(lora, plain, reference, prompts[:1])
    assert "next-token distributions differ" in problem


def test_a_folder_of_anything_else_is_left_alone(bundle: Bundle, export, tmp_path: Path) -> None:
    other, out = tmp_path / "other", tmp_path / "out"
    other.mkdir()
    (other / "thesis.docx").touch()
    with pytest.raises(MedcodeError, match="holds something else"):
        export("f16", target=other)
    with pytest.raises(MedcodeError, match="inside the bundle"):
        export("f16", target=bundle.path / "files")
    shutil.copytree(bundle_folder(bundle), out)
    (out / "mine.txt").touch()
    with pytest.raises(MedcodeError, match=r"mine\.txt: not of the export"):
        export("f32", target=out)
    (out / "mine.txt").unlink()
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"version": "v0"}))
    with pytest.raises(MedcodeError, match="holds the files of bundle v0"):
        export("f16", target=out)


def test_little_disk_is_one_line_before_anything_is_made(bundle: Bundle, export, monkeypatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(MedcodeError, match=r"0\.\d+ GB needed for the merged model, F16, Q4_K_M, 0\.000 GB free"):
        export("q4_k_m", anew=True)
    assert verify_folder(bundle_folder(bundle))


def test_invented_prompts_stand_in_for_notes(bundle: Bundle) -> None:
    sample = invented_sample(bundle, 5)
    assert len(sample.prompts) == 5
    assert sample.notes is None
    assert all(prompt.endswith("Codes:") for prompt in sample.prompts)
