from pathlib import Path

import pytest
import yaml

from medcode_serving.errors import MedcodeError
from medcode_serving.home import medcode_home
from medcode_serving.settings import InferenceSettings, load_inference_settings

COMMITTED = Path(__file__).parents[2] / "config" / "inference-config.yaml"


def test_the_committed_file_lists_every_default() -> None:
    assert load_inference_settings(COMMITTED) == InferenceSettings()
    fields = {
        name: set(field.annotation.model_fields) if hasattr(field.annotation, "model_fields") else None
        for name, field in InferenceSettings.model_fields.items()
    }
    listed = {
        name: set(value) if isinstance(value, dict) else None
        for name, value in yaml.safe_load(COMMITTED.read_text()).items()
    }
    assert listed == fields


def test_later_sources_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "inference.yaml"
    file.write_text("api: {port: 1, max_body_bytes: 2048}\ngeneration: {top_k: 3}\n")
    assert load_inference_settings(file).api.port == 1
    monkeypatch.setenv("MEDCODE_SERVE_API__PORT", "2")
    settings = load_inference_settings(file)
    assert (settings.api.port, settings.api.max_body_bytes, settings.generation.top_k) == (2, 2048, 3)
    assert load_inference_settings(file, **{"api.port": 3, "api.host": None}).api.port == 3


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("api: {prot: 1}", "api.prot: no such setting"),
        ("apis: {port: 1}", "apis: no such setting"),
        ("api: {port: many}", "api.port: "),
        ("generation: {threshold: 1.5}", "generation.threshold: "),
        ("- api", "mapping"),
        ("api: [", "line 1"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, contents: str, message: str) -> None:
    file = tmp_path / "inference.yaml"
    file.write_text(contents)
    with pytest.raises(MedcodeError) as caught:
        load_inference_settings(file)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mistakes_elsewhere_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MedcodeError, match="nowhere.yaml"):
        load_inference_settings(tmp_path / "nowhere.yaml")
    with pytest.raises(MedcodeError, match="flags: api.port"):
        load_inference_settings(None, **{"api.port": 70000})
    with monkeypatch.context() as context:
        context.setenv("MEDCODE_SERVE_API__PORT", "70000")
        with pytest.raises(MedcodeError, match="MEDCODE_SERVE_API__PORT"):
            load_inference_settings()
    monkeypatch.setenv("MEDCODE_SERVE_APIS__PORT", "1")
    with pytest.raises(MedcodeError, match="MEDCODE_SERVE_APIS__PORT"):
        load_inference_settings()


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MEDCODE_HOME", raising=False)
    assert medcode_home() == Path(".medcode")
    monkeypatch.setenv("MEDCODE_HOME", str(tmp_path))
    assert InferenceSettings().home == tmp_path
    assert load_inference_settings(None, **{"model.home": "elsewhere"}).home == Path("elsewhere")
