import subprocess
import sys

import pytest

SERVICE = ["dagster", "mlflow", "medcode_assets", "duckdb", "litellm", "pypdf"]


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("medcode_serving", [*SERVICE, "torch", "transformers", "fastapi"]),
        ("medcode_serving.settings", [*SERVICE, "torch", "transformers", "fastapi"]),
        ("medcode_serving.api", [*SERVICE, "torch", "transformers"]),
        ("medcode_serving.engines.loading", [*SERVICE, "torch", "transformers", "peft"]),
        ("medcode_serving.pdf_reader", [*SERVICE, "torch", "pydantic", "medcode_serving.settings"]),
    ],
)
def test_importing_serving_stays_light(module: str, unwanted: list[str]) -> None:
    code = f"import sys, {module}; print([name for name in {unwanted!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
