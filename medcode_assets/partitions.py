"""The partitions of the graph: one a registered MIMIC version, a corpus of narratives, or a set of questions."""

import warnings
from collections.abc import Container, Iterable, Mapping

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


def checks_each_version(
    asset: dg.AssetKey,
    checks: Mapping[str, str],
    *,
    blocking: Container[str] = (),
    partitions: dg.PartitionsDefinition = MIMIC_VERSIONS,
) -> list[dg.AssetCheckSpec]:
    """Return checks by name and description, as `check_each_version` does; `blocking` names those that block."""
    return [
        check_each_version(asset, name, description, blocking=name in blocking, partitions=partitions)
        for name, description in checks.items()
    ]


def check_results(
    found: Iterable[tuple[str, bool, str]], *, blocking: Container[str] = ()
) -> list[dg.AssetCheckResult]:
    """Return what checks found: name, whether it passed, and the reason of each; those in `blocking` are errors."""
    return [
        dg.AssetCheckResult(
            check_name=name,
            passed=passed,
            severity=dg.AssetCheckSeverity.ERROR if name in blocking else dg.AssetCheckSeverity.WARN,
            metadata={"reason": reason},
        )
        for name, passed, reason in found
    ]
