"""The partitions of the graph: one a registered MIMIC version, a corpus of narratives, or a set of questions."""

import warnings

import dagster as dg

MIMIC_VERSIONS = dg.DynamicPartitionsDefinition(name="mimic_versions")
"""Keys are the names under which folders are registered (`medcode versions add`, `medcode_assets.mimic.versions`)."""

CORPORA = dg.DynamicPartitionsDefinition(name="corpora")
"""Keys are the names under which `medcode reasoning run` makes corpora of narratives."""

CONVERSATIONS = dg.DynamicPartitionsDefinition(name="conversations")
"""Keys are the names under which `medcode consult run` makes sets of doctors' answers."""

QUESTIONS = dg.DynamicPartitionsDefinition(name="questions")
"""Keys are the names under which `medcode medqa run` makes sets of exam questions."""

ITERATIONS = dg.DynamicPartitionsDefinition(name="specialty_iterations")
"""Keys are `<name>-<two digits>`: the iterations of a progressive training (`medcode specialty next`)."""


def check_each_version(
    asset: dg.AssetKey,
    name: str,
    description: str,
    *,
    blocking: bool = False,
    partitions: dg.PartitionsDefinition = MIMIC_VERSIONS,
) -> dg.AssetCheckSpec:
    """Return a check that keeps a status for each version; without partitions the last one's would stand for all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # partitions of checks are new in Dagster 1.13
        return dg.AssetCheckSpec(
            name, asset=asset, description=description, blocking=blocking, partitions_def=partitions
        )
