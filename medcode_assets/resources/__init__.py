"""Dagster resources: where things are kept. The work they hand out is in plain modules."""
