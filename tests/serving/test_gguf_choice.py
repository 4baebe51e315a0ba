"""Which GGUF file of a bundle the engine llamacpp takes, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest

from medcode_serving.bundle import GGUF, Bundle, file_sha256
from medcode_serving.engines.loading import gguf_file, load_engine
from medcode_serving.errors import MedcodeError
from medcode_serving.gguf_folder import GGUF_MANIFEST, GgufFile, GgufManifest
from medcode_serving.settings import InferenceSettings, ModelSettings


def export(bundle: Bundle, *quantizations: str, version: str | None = None) -> None:
    """Put files that are no models into a bundle's gguf folder."""
    folder = bundle.path / GGUF
    folder.mkdir(exist_ok=True)
    files = []
    for name in quantizations:
        file = folder / f"m-{name}.gguf"
        file.write_bytes(name.encode())
        files.append(
            GgufFile(file=file.name, quantization=name, sha256=file_sha256(file), size_bytes=len(name), verification={})
        )
    manifest = GgufManifest(recipe="icd", version=version or bundle.manifest.version, files=tuple(files), others={})
    (folder / GGUF_MANIFEST).write_text(manifest.model_dump_json())


@pytest.fixture
def bundle(make_bundle: Callable[..., Bundle], tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundles")


def test_the_nearest_to_exact_at_half_the_size_serves_where_nobody_chose(bundle: Bundle) -> None:
    export(bundle, "f16", "q8_0", "q4_k_m")
    assert gguf_file(bundle, None).name == "m-q8_0.gguf"
    assert gguf_file(bundle, "Q4_K_M").name == "m-q4_k_m.gguf"
    export(bundle, "f16", "q4_k_m")
    assert gguf_file(bundle, None).name == "m-q4_k_m.gguf"


def test_what_cannot_serve_says_what_to_do(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(MedcodeError, match=r"manifest\.json: missing; export the bundle first: medcode export"):
        gguf_file(bundle, None)
    settings = InferenceSettings(model=ModelSettings(engine="llamacpp", home=tmp_path))
    with pytest.raises(MedcodeError, match="export the bundle first"):
        load_engine(bundle, settings, tmp_path)

    export(bundle, "f16")
    with pytest.raises(MedcodeError, match=r"no GGUF file q4_k_m \(it has f16\).*--quantization q4_k_m"):
        gguf_file(bundle, "q4_k_m")
    file = bundle.path / GGUF / "m-f16.gguf"
    file.write_bytes(b"f17")
    with pytest.raises(MedcodeError, match=r"m-f16\.gguf: missing, or changed since"):
        gguf_file(bundle, "f16")
    file.unlink()
    with pytest.raises(MedcodeError, match=r"m-f16\.gguf: missing, or changed since"):
        gguf_file(bundle, "f16")
    export(bundle, "f16", version="another")
    with pytest.raises(MedcodeError, match="of bundle another; export this one: medcode export --bundle"):
        gguf_file(bundle, None)
    (bundle.path / GGUF / GGUF_MANIFEST).write_text('{"file": "m.gguf", "file_type": "f16"}')
    with pytest.raises(MedcodeError, match="not as this medcode writes it; export anew"):
        gguf_file(bundle, None)
