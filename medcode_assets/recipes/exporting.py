"""A bundle to a verified GGUF file inside it."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medcode_assets.export.gguf import FileType, write_gguf
from medcode_assets.export.merge import merge_adapter
from medcode_assets.export.verify import GgufReport, verify_gguf
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import GGUF, Bundle, file_sha256

GGUF_MANIFEST = "manifest.json"


def exported(bundle: Bundle, file_type: str) -> dict[str, Any] | None:
    """Return the manifest of a bundle's GGUF folder if it holds this file type intact, else None."""
    folder = bundle.path / GGUF
    try:
        manifest: dict[str, Any] = json.loads((folder / GGUF_MANIFEST).read_text())
    except FileNotFoundError:
        return None
    file = folder / manifest["file"]
    intact = file.exists() and file_sha256(file) == manifest["sha256"]
    return manifest if intact and manifest["file_type"] == file_type else None


def export_gguf(
    bundle: Bundle, base: LocalModel, file_type: FileType, prompts: Sequence[str]
) -> tuple[Path, GgufReport]:
    """Merge, convert and verify; the bundle's gguf/ folder appears only as a whole, with a manifest.

    A file that fails verification is kept out of the bundle: the report says why.

    Args:
        bundle: The bundle to export.
        base: Its base model.
        file_type: f16 or f32.
        prompts: Prompts to compare answers on; not stored.
    """
    name = f"medcode-{bundle.manifest.recipe}-{bundle.manifest.version}-{file_type.upper()}.gguf"
    work = Path(tempfile.mkdtemp(prefix=f".{GGUF}-", dir=bundle.path.parent))
    try:
        merged = merge_adapter(base.path, bundle.adapter, work / "merged")
        folder = work / GGUF
        folder.mkdir()
        file = write_gguf(
            merged,
            folder / name,
            file_type=file_type,
            name=f"medcode-{bundle.manifest.recipe}",
            version=bundle.manifest.version,
        )
        report = verify_gguf(file, merged, prompts)
        if report.passed:
            manifest = {
                "file": name,
                "file_type": file_type,
                "sha256": file_sha256(file),
                "size_bytes": file.stat().st_size,
                "verification": report.model_dump(mode="json"),
            }
            (folder / GGUF_MANIFEST).write_text(json.dumps(manifest, indent=2))
            shutil.rmtree(bundle.path / GGUF, ignore_errors=True)
            folder.rename(bundle.path / GGUF)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return bundle.path / GGUF / name, report
