"""One thread: on models of a few thousand weights, handing work to a second one costs more than the work."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a MEDCODE_HOME with an empty MLflow store: its migrations take seconds, a copy of it none."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("store")
    (folder / "mlruns").mkdir()
    MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}").search_experiments()
    return folder


@pytest.fixture
def home(empty_store: Path, tmp_path: Path) -> Path:
    """Return a MEDCODE_HOME of the test's own."""
    shutil.copytree(empty_store, tmp_path / "home")
    return tmp_path / "home"
