"""Settings of serving: defaults, inference-config.yaml, environment and flags, each overriding the one before."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from medcode_serving.home import medcode_home
from medcode_serving.layers import layered

ENVIRONMENT_PREFIX = "MEDCODE_SERVE_"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSettings(_Section):
    """What predicts."""

    engine: Literal["transformers", "litellm", "linear", "untuned_base", "frequency_prior"] = Field(
        default="transformers",
        description="transformers: the bundle's adapter, on this machine; litellm: the server that `remote` names; "
        "linear: the bundle's linear baseline, in milliseconds; untuned_base and frequency_prior: to compare with.",
    )
    recipe: str = Field(default="icd", description="Recipe whose bundle is served.")
    bundle: Path | None = Field(default=None, description="A bundle's folder; null takes the one LATEST names.")
    home: Path | None = Field(
        default=None, description="Folder of bundles and base models; null: $MEDCODE_HOME, or .medcode."
    )


class GenerationSettings(_Section):
    """Which codes an answer has."""

    threshold: float | None = Field(
        default=None, ge=0, le=1, description="Codes below this probability are left out; null: the bundle's own."
    )
    top_k: int | None = Field(default=None, ge=1, description="Codes that an answer has at most; null: all.")
    max_codes: int | None = Field(
        default=None, ge=1, description="Codes that the model writes at most; null: the bundle's own."
    )
    batch_size: int = Field(default=16, ge=1, description="Notes in one forward pass.")


class RemoteSettings(_Section):
    """An OpenAI-compatible server: vLLM, llama.cpp, LM Studio, Ollama."""

    model: str | None = Field(default=None, description="The model's name on that server.")
    api_base: str | None = Field(default=None, description="Its address, as in http://127.0.0.1:8080/v1.")
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Hosts besides this machine that notes may be sent to, by name."
    )
    timeout_s: float = Field(default=60, gt=0, description="Seconds to wait for one answer.")
    max_tokens: int = Field(default=512, ge=1, description="Tokens of one answer.")


class DocumentSettings(_Section):
    """Limits of a PDF."""

    max_bytes: int = Field(default=10_000_000, ge=1, description="Size of the file.")
    max_pages: int = Field(default=200, ge=1, description="Pages.")
    max_characters: int = Field(default=400_000, ge=1, description="Characters of text.")
    timeout_s: float = Field(default=10, gt=0, description="Seconds to read it.")
    memory_bytes: int = Field(
        default=1_000_000_000, ge=300_000_000, description="Address space of the process that reads it."
    )


class ApiSettings(_Section):
    """The HTTP server."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port; 0 takes a free one.")
    max_body_bytes: int = Field(default=12_000_000, ge=1024, description="Size of a request.")


class LoggingSettings(_Section):
    """What is logged; note text never is."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="Least level logged.")


class InferenceSettings(BaseSettings):
    """Everything in inference-config.yaml; MEDCODE_SERVE_<SECTION>__<FIELD> in the environment overrides it."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        env_parse_none_str="null",
        hide_input_in_errors=True,
    )

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="auto takes CUDA, then MPS, then the CPU."
    )
    model: ModelSettings = ModelSettings()
    generation: GenerationSettings = GenerationSettings()
    remote: RemoteSettings = RemoteSettings()
    documents: DocumentSettings = DocumentSettings()
    api: ApiSettings = ApiSettings()
    logging: LoggingSettings = LoggingSettings()

    @property
    def home(self) -> Path:
        """The folder that holds bundles and base models."""
        return self.model.home or medcode_home()


def load_inference_settings(path: Path | None = None, **overrides: Any) -> InferenceSettings:
    """Read the settings: defaults < file < environment < overrides.

    Args:
        path: inference-config.yaml; None for no file.
        overrides: Values by dotted key: `**{"api.port": 9000}`; None is a flag that was not given.

    Raises:
        MedcodeError: the file is missing or no mapping, or a key or value is wrong; the message names source and key.
    """
    return layered(InferenceSettings, path, overrides)
