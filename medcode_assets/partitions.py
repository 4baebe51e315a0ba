"""The partitions of the graph: one a registered MIMIC version."""

import dagster as dg

MIMIC_VERSIONS = dg.DynamicPartitionsDefinition(name="mimic_versions")
"""Keys are the names under which folders are registered (`medcode register`, `medcode_assets.mimic.sources`)."""
