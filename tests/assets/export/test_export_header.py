import dataclasses
import shutil
from pathlib import Path

import gguf
import pytest

from medcode_assets.export.gguf import write_gguf
from medcode_assets.export.header import changed_fields
from medcode_assets.export.quantize import quantize_gguf

from .conftest import FAMILY_MODELS, METADATA

TOKENS = "tokenizer.ggml.tokens"
FULL = dataclasses.replace(
    METADATA,
    recipe="icd",
    base_model="someone/some-base",
    base_revision="abc",
    license="apache-2.0",
    data_version="mimic-iv 1",
    intended_use="Research.",
    chat_template="{{ messages }}",
)


def with_value(file: Path, target: Path, name: str, value: object) -> Path:
    """A copy of a GGUF file in which a number, or a text of the same length, is another one."""
    shutil.copyfile(file, target)
    field = gguf.GGUFReader(target, "r+").fields[name]
    field.parts[-1][:] = list(value.encode()) if isinstance(value, str) else value
    return target


def with_swapped_tokens(file: Path, target: Path) -> Path:
    """A copy of a GGUF file in which the tokens of the bytes FE and FF, which no text has, have each other's text."""
    shutil.copyfile(file, target)
    tokens = gguf.GGUFReader(target, "r+").fields[TOKENS]
    texts = {tokens.parts[part].tobytes().decode(): tokens.parts[part] for part in tokens.data}
    texts["þ"][:], texts["ÿ"][:] = list("ÿ".encode()), list("þ".encode())
    return target


@pytest.fixture(scope="module")
def full(merged, tmp_path_factory) -> Path:
    """An f16 file with every field of metadata."""
    return write_gguf(merged, tmp_path_factory.mktemp("full") / "m.gguf", metadata=FULL)


@pytest.mark.parametrize("name", FAMILY_MODELS)
def test_an_export_of_every_family_has_its_models_header(family_models, tmp_path, name):
    file = write_gguf(family_models[name], tmp_path / "m.gguf", file_type="q8_0", metadata=FULL)
    assert changed_fields(file, family_models[name], FULL) == ()
    assert changed_fields(file, family_models[name], None) == ()


def test_llamacpps_quantizer_leaves_the_header_alone(full, merged, tmp_path):
    file = quantize_gguf(full, tmp_path / "q.gguf", "q4_k_m")
    assert changed_fields(file, merged, FULL) == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("qwen2.rope.freq_base", 100_000.0),
        ("qwen2.context_length", 256 * 64),
        ("tokenizer.ggml.eos_token_id", 1),
        ("tokenizer.ggml.add_bos_token", True),
        ("general.architecture", "qwen3"),
    ],
)
def test_an_altered_value_is_named(full, merged, tmp_path, name, value):
    file = with_value(full, tmp_path / "m.gguf", name, value)
    assert changed_fields(file, merged, FULL) == (name,)
    assert changed_fields(file, merged, None) == (name,)


def test_swapped_tokens_are_seen(full, merged, tmp_path):
    assert changed_fields(with_swapped_tokens(full, tmp_path / "m.gguf"), merged, None) == (TOKENS,)


def test_another_type_of_the_same_bytes_is_a_change(full, merged, tmp_path):
    file = tmp_path / "m.gguf"
    shutil.copyfile(full, file)
    gguf.GGUFReader(file, "r+").fields["qwen2.block_count"].parts[2][:] = gguf.GGUFValueType.INT32
    assert changed_fields(file, merged, FULL) == ("qwen2.block_count",)


def test_missing_extra_and_false_metadata_are_named_and_a_foreign_exports_is_its_own(full, merged):
    claimed = dataclasses.replace(FULL, license="mit", data_version="", chat_template="{{ messages[0] }}")
    expected = ("general.license", "medcode.data_version", "tokenizer.chat_template")
    assert changed_fields(full, merged, claimed) == expected
    assert {"medcode.recipe", "general.base_model.0.name", *expected} <= set(changed_fields(full, merged, METADATA))
    assert changed_fields(full, merged, None) == ()


def test_another_models_file_differs_in_its_architecture(family_models, full):
    assert "qwen2.context_length" in changed_fields(full, family_models["llama3"], None)
    assert "llama.context_length" in changed_fields(full, family_models["llama3"], None)
