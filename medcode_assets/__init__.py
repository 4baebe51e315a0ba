"""Makes adapters: every step from MIMIC's files to the published bundle is a Dagster asset."""
