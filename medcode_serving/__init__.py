"""Turns clinical text into medical codes with a published bundle: no Dagster, no training code."""
