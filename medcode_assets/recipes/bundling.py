"""An evaluated adapter to a published bundle."""

import subprocess
from importlib.metadata import version as library_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.config import PROJECT
from medcode_assets.mimic.transform import split_hash
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import (
    BaseModelRef,
    Bundle,
    BundleManifest,
    DataVersion,
    DecodingSettings,
    Metric,
    Provenance,
    open_bundle,
    write_bundle,
)
from medcode_serving.prompts import PromptTemplate

if TYPE_CHECKING:
    import duckdb

LIBRARIES = ("medcode", "torch", "transformers", "peft", "accelerate", "duckdb")


def bundle_version(partition: str, made_from: str) -> str:
    """Return a version that is equal for equal inputs: `mimic-iv-3.1-1f0c9a2b44d1`."""
    return f"{partition}-{made_from[:12]}"


def compose_bundle(
    root: Path,
    *,
    recipe: str,
    version: str,
    base: LocalModel,
    prompt: PromptTemplate,
    decoding: DecodingSettings,
    threshold: float,
    metrics: tuple[Metric, ...],
    data: DataVersion,
    provenance: Provenance,
    adapter: Path,
    codes: Path,
) -> tuple[Bundle, bool]:
    """Write a bundle, or open the one that the same inputs made before; return it and whether it was there."""
    if (root / recipe / version).exists():
        return open_bundle(root / recipe / version), True
    manifest = BundleManifest(
        recipe=recipe,
        version=version,
        base_model=BaseModelRef(id=base.id, revision=base.revision),
        prompt=prompt,
        decoding=decoding,
        threshold=threshold,
        metrics=metrics,
        data=data,
        provenance=provenance,
    )
    return write_bundle(root, manifest, adapter=adapter, codes=codes), False


def data_version(con: "duckdb.DuckDBPyConnection", partition: str, release: str) -> DataVersion:
    """Return which data a warehouse holds: fingerprints of its raw tables and the split hash."""
    sources = con.execute("SELECT name, fingerprint FROM made WHERE name LIKE 'raw.%' ORDER BY name").fetchall()
    return DataVersion(partition=partition, release=release, sources=dict(sources), split_hash=split_hash(con))


def provenance(settings: dict[str, Any], *, mlflow_run: str | None, dagster_run: str | None) -> Provenance:
    """Return which code and which runs make a bundle."""
    return Provenance(
        code_version=code_version(),
        libraries={name: library_version(name) for name in LIBRARIES},
        settings=settings,
        mlflow_run=mlflow_run,
        dagster_run=dagster_run,
    )


def code_version() -> str:
    """Return the checkout's commit, marked `+changes` if files differ from it; or the installed version."""
    git = ["git", "-C", str(PROJECT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return library_version("medcode")
    return commit + ("+changes" if changes else "")


def write_codes(con: "duckdb.DuckDBPyConnection", recipe: str, file: Path) -> Path:
    """Write codes.parquet: the labels that training saw, in label order."""
    con.execute(
        f"COPY (SELECT system, code, text, description, CAST(frequency AS BIGINT) AS frequency FROM {recipe}.labels "
        f"WHERE frequency > 0 ORDER BY label) TO '{str(file).replace(chr(39), chr(39) * 2)}' (FORMAT parquet)"
    )
    return file
