"""Resource `home`: the one folder with all state."""

from pathlib import Path

import dagster as dg
from pydantic import Field


class Home(dg.ConfigurableResource):
    """MEDCODE_HOME and what lies where in it."""

    folder: str = Field(description="MEDCODE_HOME: warehouse, artifacts, bundles, base models, mlruns.")

    @property
    def path(self) -> Path:
        """The folder itself."""
        return Path(self.folder)

    @property
    def bundles(self) -> Path:
        """Published bundles, by recipe and version."""
        return self.path / "bundles"

    @property
    def base_models(self) -> Path:
        """Cache of downloaded base models."""
        return self.path / "base_models"

    def artifact(self, recipe: str, partition: str, name: str) -> Path:
        """Folder of one artifact of a recipe for a MIMIC version."""
        return self.path / "artifacts" / recipe / partition / name

    def answering(self, recipe: str, partition: str, engine: str, fingerprint: str) -> Path:
        """Folder of an engine's answers so far, until all are sealed."""
        return self.artifact(recipe, partition, "answering") / engine / fingerprint[:12]

    def training(self, recipe: str, partition: str, fingerprint: str) -> Path:
        """Folder of one training: tokens and checkpoints, until its adapter is sealed."""
        return self.artifact(recipe, partition, "training") / fingerprint[:12]
