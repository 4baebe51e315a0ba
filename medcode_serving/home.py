"""The one folder that holds all state."""

import os
from pathlib import Path


def medcode_home() -> Path:
    """Return $MEDCODE_HOME, or `.medcode` in the working directory."""
    return Path(os.environ.get("MEDCODE_HOME") or ".medcode")
