import importlib.util
import multiprocessing
import resource
import shutil
import time
from collections import namedtuple
from pathlib import Path

import gguf
import numpy as np
import pytest

from medcode_assets.export import quantize
from medcode_assets.export.gguf import write_gguf
from medcode_assets.export.gguf_reader import open_gguf
from medcode_assets.export.metadata import ModelMetadata
from medcode_assets.export.quantize import quantize_gguf
from medcode_serving.errors import MedcodeError


def fields(file: Path) -> dict[str, object]:
    changing = ("general.file_type", "GGUF.kv_count")
    return {name: field.contents() for name, field in open_gguf(file).fields.items() if name not in changing}


def refused(source: Path, folder: Path, message: str, name: str = "q4_k_m", **options) -> None:
    """Quantizing is one clear error and leaves nothing behind."""
    with pytest.raises(MedcodeError, match=message) as error:
        quantize_gguf(source, folder / "q.gguf", name, **options)
    assert "\n" not in str(error.value)
    assert not list(folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_the_result_says_all_that_the_source_said(merged, tmp_path, folder):
    metadata = ModelMetadata(
        name="Tiny", version="1", recipe="icd", base_model="a/b", license="mit", chat_template="{{ messages }}"
    )
    source = write_gguf(merged, tmp_path / "f16.gguf", metadata=metadata)
    told: list[tuple[int, int]] = []
    result = quantize_gguf(source, folder / "new" / "q.gguf", "q4_k_m", on_progress=lambda *counts: told.append(counts))
    assert told == [(done, 26) for done in range(27)]
    assert list(result.parent.iterdir()) == [result]
    assert open_gguf(result).get_field("general.file_type").contents() == gguf.LlamaFileType.MOSTLY_Q4_K_M
    assert fields(result) == fields(source)
    assert fields(result)["tokenizer.chat_template"] == "{{ messages }}"
    assert fields(result)["medcode.recipe"] == "icd"
    assert result.stat().st_size < 0.7 * source.stat().st_size


def test_a_file_of_f32_will_do_and_a_coarser_one_will_not(merged, tmp_path, folder):
    for kind in ("f32", "bf16", "q8_0"):
        write_gguf(merged, tmp_path / f"{kind}.gguf", file_type=kind, metadata=ModelMetadata("tiny", "1"))
    quantize_gguf(tmp_path / "f32.gguf", tmp_path / "q.gguf", "q6_k")
    for kind in ("bf16", "q8_0"):
        refused(tmp_path / f"{kind}.gguf", folder, f"{kind} is too coarse")


def test_what_is_no_k_quant_is_refused(f16, folder):
    refused(f16, folder, "write_gguf writes it", "q8_0")
    refused(f16, folder, "not one that is exported", "q3_k_s")


def test_a_missing_a_truncated_and_a_broken_source_are_refused(f16, tmp_path, folder):
    refused(tmp_path / "none.gguf", folder, "no such file")
    (tmp_path / "cut.gguf").write_bytes(f16.read_bytes()[:-100])
    refused(tmp_path / "cut.gguf", folder, "truncated")
    shutil.copyfile(f16, tmp_path / "nan.gguf")
    matrix = next(t for t in gguf.GGUFReader(tmp_path / "nan.gguf", "r+").tensors if t.name == "blk.0.ffn_up.weight")
    matrix.data[0, 0] = np.nan
    matrix.data.flush()
    refused(
        tmp_path / "nan.gguf", folder, r"llama\.cpp does not quantize it: tensor 'blk\.0\.ffn_up\.weight' has invalid"
    )


def test_a_child_that_is_stopped_is_one_clear_error(f16, folder, tmp_path, monkeypatch):
    (tmp_path / "abort.py").write_text("import os; os.abort()")
    monkeypatch.setattr(quantize.quantizer, "__file__", str(tmp_path / "abort.py"))
    refused(f16, folder, "it was stopped by SIGABRT")


def test_without_cyllama_the_extra_is_named(f16, folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(f16, folder, r"pip install 'medcode\[assets\]'")


def test_a_full_disk_is_noticed_before_and_while_it_is_written(f16, folder, tmp_path, monkeypatch):
    size = quantize_gguf(f16, tmp_path / "q.gguf", "q4_k_m").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, limits[1]))
        refused(f16, folder, "cannot be written to its end; make room")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    usage = namedtuple("usage", "total used free")(10, 10, size // 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    refused(f16, folder, "GB needed for q.gguf")


def test_an_interrupt_leaves_nothing(f16, folder):
    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_gguf(f16, folder / "q.gguf", "q4_k_m", on_progress=interrupt)
    assert not list(folder.iterdir())


def test_a_killed_parent_leaves_nothing(f16, folder):
    fork = multiprocessing.get_context("fork")  # it has imported torch already
    complete = fork.Event()

    def told(done: int, total: int) -> None:
        if done == total:
            complete.set()
            time.sleep(600)

    parent = fork.Process(
        target=quantize_gguf, args=(f16, folder / "q.gguf", "q4_k_m"), kwargs={"on_progress": told}, daemon=True
    )
    parent.start()
    assert complete.wait(300)
    assert [path.name[:8] for path in folder.iterdir()] == [".q.gguf."]
    parent.kill()
    parent.join()
    for _ in range(600):  # at most a minute; a few milliseconds are enough
        if not list(folder.iterdir()):
            break
        time.sleep(0.1)
    assert not list(folder.iterdir())
