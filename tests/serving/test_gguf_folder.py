import hashlib
from pathlib import Path

import pytest

from medcode_serving.errors import MedcodeError
from medcode_serving.gguf_folder import GGUF_MANIFEST, GgufFile, GgufManifest, read_gguf_manifest, verify_folder

CONTENTS = {
    "m-F16.gguf": b"GGUF 1",
    "m-Q4_K_M.gguf": b"GGUF 2",
    "README.md": b"card",
    "tokenizer/tokenizer.json": b"{}",
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def gguf_file(name: str, quantization: str) -> GgufFile:
    data = CONTENTS[name]
    return GgufFile(
        file=name, quantization=quantization, sha256=sha256(data), size_bytes=len(data), verification={"kl_mean": 0}
    )


MANIFEST = GgufManifest(
    recipe="icd",
    version="v1",
    files=(gguf_file("m-F16.gguf", "f16"), gguf_file("m-Q4_K_M.gguf", "q4_k_m")),
    others={name: sha256(CONTENTS[name]) for name in ("README.md", "tokenizer/tokenizer.json")},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer").mkdir()
    for name, data in CONTENTS.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / GGUF_MANIFEST).write_text(MANIFEST.model_dump_json())
    return tmp_path


def test_an_intact_folder_gives_its_manifest(folder: Path) -> None:
    assert verify_folder(folder) == read_gguf_manifest(folder) == MANIFEST


@pytest.mark.parametrize("name", CONTENTS)
def test_a_changed_or_missing_file_is_named(folder: Path, name: str) -> None:
    data = bytearray(CONTENTS[name])
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(MedcodeError, match=f"{Path(name).name}: changed") as error:
        verify_folder(folder)
    assert "\n" not in str(error.value)
    (folder / name).unlink()
    with pytest.raises(MedcodeError, match=f"{Path(name).name}: missing"):
        verify_folder(folder)


def test_a_users_own_file_beside_them_does_not_matter(folder: Path) -> None:
    (folder / "note.txt").touch()
    (folder / "mine").mkdir()
    (folder / "mine" / "tokenizer.json").touch()
    assert verify_folder(folder) == MANIFEST


def test_a_file_that_would_change_the_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer" / "added_tokens.json").touch()
    with pytest.raises(MedcodeError, match=r"tokenizer/added_tokens\.json: no file of this export"):
        verify_folder(folder)


def test_a_manifest_that_names_files_elsewhere_finds_none(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "secret"
    elsewhere.write_bytes(b"card")
    manifest = MANIFEST.model_copy(update={"others": {**MANIFEST.others, str(elsewhere): sha256(b"card")}})
    (folder / GGUF_MANIFEST).write_text(manifest.model_dump_json())
    with pytest.raises(MedcodeError, match="secret: missing"):
        verify_folder(folder)


def test_a_folder_without_a_manifest_or_with_a_damaged_one_is_refused(folder: Path) -> None:
    (folder / GGUF_MANIFEST).write_text('{"recipe": "icd"}')
    with pytest.raises(MedcodeError, match="not as this medcode writes it"):
        verify_folder(folder)
    (folder / GGUF_MANIFEST).unlink()
    with pytest.raises(MedcodeError, match=r"manifest\.json: missing"):
        verify_folder(folder)


def test_the_file_that_serves_is_q8_0_or_nearest_to_it() -> None:
    assert MANIFEST.choose(None).quantization == "q4_k_m"
    assert MANIFEST.choose("F16").file == "m-F16.gguf"
    with pytest.raises(MedcodeError, match=r"no GGUF file q8_0 \(it has f16, q4_k_m\)"):
        MANIFEST.choose("q8_0")
