"""An evaluated adapter that answers in words to a bundle."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_assets.recipes.bundling import sealed_before
from medcode_assets.recipes.words.measuring import WordReport
from medcode_assets.recipes.words.plots import word_metric
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import (
    CODES,
    BaseModelRef,
    Bundle,
    BundleManifest,
    DataVersion,
    DecodingSettings,
    Metric,
    Provenance,
    write_bundle,
)
from medcode_serving.prompts import PromptTemplate

if TYPE_CHECKING:
    import pyarrow as pa


def compose_word_bundle(
    root: Path,
    *,
    recipe: str,
    version: str,
    base: LocalModel,
    prompt: PromptTemplate,
    decoding: DecodingSettings,
    report: WordReport,
    data: DataVersion,
    provenance: Provenance,
    adapter: Path,
    codes: "pa.Table",
) -> tuple[Bundle, bool]:
    """Write a bundle, or open the one that the same inputs made before; return it and whether it was there.

    Args:
        root: Folder of all bundles.
        recipe: Whose.
        version: `bundle_version`.
        base: The base model.
        prompt: The recipe's, for this base model.
        decoding: The adapter's limits.
        report: Its evaluation.
        data: What it learned from.
        provenance: Which code and runs made it.
        adapter: Folder of its weights.
        codes: The rows of codes.parquet: none, for it has no codes.
    """
    import pyarrow.parquet as pq

    if earlier := sealed_before(root / recipe / version):
        return earlier, True
    manifest = BundleManifest(
        recipe=recipe,
        version=version,
        base_model=BaseModelRef(id=base.id, revision=base.revision, added_tokens=base.added_tokens),
        prompt=prompt,
        decoding=decoding,
        threshold=0.0,
        metrics=word_metrics(report),
        data=data,
        provenance=provenance,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / CODES
        pq.write_table(codes, file)
        return write_bundle(root, manifest, adapter=adapter, codes=file), False


def word_metrics(report: WordReport) -> tuple[Metric, ...]:
    """Return every metric of every model as bundles have them."""
    return tuple(
        metric
        for engine, measured in report.models.items()
        for one in measured.metrics
        if (metric := word_metric(measured, one.name, engine)) is not None
    )
