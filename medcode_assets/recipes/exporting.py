"""A bundle to a verified GGUF file inside it."""

import json
import shutil
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from medcode_assets.artifacts import replace_folder
from medcode_assets.export.gguf import FileType, write_gguf
from medcode_assets.export.merge import merge_adapter
from medcode_assets.export.verify import verify_gguf
from medcode_assets.progress import advance
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import GGUF, Bundle, file_sha256
from medcode_serving.engines.transformers import load_tokenizer
from medcode_serving.prompts import encode_prompts

if TYPE_CHECKING:
    import duckdb

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


def export_gguf(bundle: Bundle, base: LocalModel, file_type: FileType, prompts: Sequence[str]) -> dict[str, Any]:
    """Merge, convert and verify; the bundle's gguf/ folder appears only as a whole, with the returned manifest.

    A file that fails verification is kept out of the bundle; the manifest's `problems` say why.

    Args:
        bundle: The bundle to export.
        base: Its base model.
        file_type: f16, f32 or q8_0.
        prompts: Prompts to compare answers on; not stored.
    """
    name = f"medcode-{bundle.manifest.recipe}-{bundle.manifest.version}-{file_type.upper()}.gguf"
    work = bundle.path.parent / f".{bundle.manifest.version}.gguf"  # one name: what a killed export left goes now
    shutil.rmtree(work, ignore_errors=True)
    try:
        merged = merge_adapter(base.path, bundle.adapter, work / "merged", base_revision=base.revision)
        file = work / GGUF / name
        with tqdm(desc="writing GGUF", unit="tensor", delay=1) as bar:
            model_name = f"medcode-{bundle.manifest.recipe}"
            write_gguf(
                merged,
                file,
                file_type=file_type,
                name=model_name,
                version=bundle.manifest.version,
                on_progress=partial(advance, bar),
            )
        with tqdm(desc="verifying GGUF", unit="prompt", delay=1) as bar:
            report = verify_gguf(file, merged, prompts, on_progress=partial(advance, bar))
        manifest = {
            "file": name,
            "file_type": file_type,
            "sha256": file_sha256(file),
            "size_bytes": file.stat().st_size,
            "verification": report.model_dump(mode="json"),
        }
        if report.passed:
            (file.parent / GGUF_MANIFEST).write_text(json.dumps(manifest, indent=2))
            replace_folder(file.parent, bundle.path / GGUF)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def sample_prompts(con: "duckdb.DuckDBPyConnection", bundle: Bundle, base: LocalModel, count: int = 10) -> list[str]:
    """Return the prompts of some validation examples, the same ones each time, shortened as in training."""
    recipe = bundle.manifest.recipe
    rows = con.execute(
        f"SELECT note FROM {recipe}.notes WHERE example_id IN (SELECT example_id FROM {recipe}.examples "
        "WHERE split = 'validation' ORDER BY md5(CAST(example_id AS VARCHAR)) LIMIT ?) ORDER BY example_id",
        [count],
    ).fetchall()
    tokenizer = load_tokenizer(base.path)
    limit = bundle.manifest.decoding.max_prompt_tokens
    encoded = encode_prompts(tokenizer, bundle.manifest.prompt, [row[0] for row in rows], limit)
    return [str(tokenizer.decode(prompt.input_ids, skip_special_tokens=True)) for prompt in encoded]
