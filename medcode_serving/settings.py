"""Settings of serving: defaults, inference-config.yaml, environment and flags, each overriding the one before."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from medcode_serving.home import medcode_home
from medcode_serving.layers import Section, layered

ENVIRONMENT_PREFIX = "MEDCODE_SERVE_"


class ModelSettings(Section):
    """What predicts."""

    engine: Literal["transformers", "llamacpp", "litellm", "linear", "untuned_base", "frequency_prior"] = Field(
        default="transformers",
        description="transformers: the bundle's adapter, on this machine; llamacpp: the bundle's GGUF file, in "
        "llama.cpp, on this machine; litellm: the server that `remote` names; "
        "linear: the bundle's linear baseline, in milliseconds; untuned_base and frequency_prior: to compare with.",
    )
    recipes: tuple[str, ...] = Field(
        default=("icd",), min_length=1, description="Recipes whose bundles are served; the first answers by default."
    )
    bundle: Path | None = Field(
        default=None, description="A bundle's folder, for the first recipe; null takes the one LATEST names."
    )
    home: Path | None = Field(
        default=None, description="Folder of bundles and base models; null: $MEDCODE_HOME, or .medcode."
    )
    vocabulary: Literal["trained", "dictionary"] = Field(
        default="trained",
        description="Codes that can be written: those of the training notes, or all of the release's dictionaries "
        "that the bundle knows (whole ICD-10-CM and PCS with MIMIC-IV).",
    )
    fallback: Literal["linear", "none"] = Field(
        default="linear", description="What answers when the engine fails or is too slow, marked as such."
    )
    watch_s: float = Field(
        default=5, ge=0, description="Seconds between two looks at LATEST; 0: never looked at again."
    )


class GenerationSettings(Section):
    """Which codes an answer has."""

    threshold: float | None = Field(
        default=None, ge=0, le=1, description="Codes below this probability are left out; null: the bundle's own."
    )
    top_k: int | None = Field(default=None, ge=1, description="Codes that an answer has at most; null: all.")
    max_codes: int | None = Field(
        default=None, ge=1, description="Codes that the model writes at most; null: the bundle's own."
    )
    batch_size: int = Field(default=16, ge=1, description="Notes in one forward pass.")


class WritingSettings(Section):
    """How recipes that answer in words write, where a request leaves it open."""

    max_tokens: int | None = Field(
        default=None, ge=1, description="Tokens of an answer at most, for requests too; null: the bundle's own."
    )
    temperature: float = Field(
        default=0, ge=0, le=2, description="0 takes the likeliest word each time; above, words are drawn."
    )
    length_penalty: float = Field(
        default=0,
        ge=-5,
        le=5,
        description="Above 0 answers are shorter: added to the end's logit for each token, in nats.",
    )
    max_sentences: int | None = Field(default=None, ge=1, description="Sentences of an answer at most; null: all.")
    use_safety: bool = Field(default=True, description="Whether questions and answers are checked for dangers.")
    safety_rules: Path | None = Field(
        default=None, description="Folder of a pharmacist's own rules, over the shipped ones; null: those alone."
    )
    max_question_characters: int = Field(default=20_000, ge=1, description="Characters of one question.")


class QueueSettings(Section):
    """Notes that wait for the model."""

    max_notes: int = Field(default=256, ge=1, description="Notes that wait or are being answered; more get a 503.")
    gather_ms: float = Field(
        default=4, ge=0, description="Wait for company of a note, while several clients are about."
    )


class LlamaCppSettings(Section):
    """The bundle's GGUF file in llama.cpp, inside this process: engine llamacpp."""

    quantization: str | None = Field(
        default=None,
        description="Number format of the file, as in q4_k_m; null: q8_0, or what the bundle has nearest to it.",
    )
    threads: int | None = Field(default=None, ge=1, description="CPU threads; null: as many as torch takes.")
    slots: int = Field(default=4, ge=1, description="Notes that are answered side by side.")
    gpu_layers: int = Field(
        default=0, ge=0, description="Layers that a GPU holds; the wheel on the package index knows none."
    )


class RemoteSettings(Section):
    """An OpenAI-compatible server: vLLM, llama.cpp, LM Studio, Ollama."""

    model: str | None = Field(default=None, description="The model's name on that server.")
    api_base: str | None = Field(default=None, description="Its address, as in http://127.0.0.1:8080/v1.")
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Hosts besides this machine that notes may be sent to, by name."
    )
    timeout_s: float = Field(default=60, gt=0, description="Seconds to wait for one answer.")
    max_tokens: int = Field(
        default=512, ge=1, description="Tokens of one answer; of one in words, the bundle's limit holds."
    )
    protocol: Literal["completions", "chat"] = Field(
        default="completions",
        description="completions sends the very text that training saw; chat is for servers that offer only that.",
    )
    constraint: Literal["auto", "grammar", "regex", "none"] = Field(
        default="auto",
        description="How the server is held to valid codes: llama.cpp takes a grammar, vLLM a regex; auto asks the "
        "server what it is. Answers are parsed and validated all the same.",
    )
    concurrency: int = Field(default=8, ge=1, description="Notes asked for at the same time.")


class DocumentSettings(Section):
    """Limits of a PDF."""

    max_bytes: int = Field(default=10_000_000, ge=1, description="Size of the file.")
    max_pages: int = Field(default=200, ge=1, description="Pages.")
    max_characters: int = Field(default=400_000, ge=1, description="Characters of text.")
    timeout_s: float = Field(default=10, gt=0, description="Seconds to read it.")
    memory_bytes: int = Field(
        default=1_000_000_000, ge=300_000_000, description="Address space of the process that reads it."
    )


class ApiSettings(Section):
    """The HTTP server."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port; 0 takes a free one.")
    max_body_bytes: int = Field(
        default=12_000_000, ge=1024, description="Size of a request; of one line where lines are streamed."
    )
    max_note_characters: int = Field(default=400_000, ge=1, description="Characters of one note.")
    max_batch_notes: int = Field(
        default=1000, ge=1, description="Notes of one JSON list; streamed lines have no limit."
    )
    timeout_s: float = Field(
        default=60, gt=0, description="Seconds until a note is answered by the fallback, or with a 504."
    )
    shutdown_s: float = Field(default=30, ge=0, description="Seconds that running requests are given on shutdown.")
    keys_file: Path | None = Field(
        default=None, description="File of hashed API keys, made by `medcode keys new`; null: no keys, loopback only."
    )
    rate_limit: str | None = Field(
        default=None, description="Requests of one key (or address, without keys), as in 60/minute; null: no limit."
    )
    cors_origins: tuple[str, ...] = Field(
        default=(), description="Web pages of other origins that may ask, as in https://coding.hospital.example."
    )
    trusted_hosts: tuple[str, ...] = Field(
        default=(),
        description="Names that requests may use for this server; empty: this machine's on loopback, else any.",
    )
    ui: bool = Field(default=True, description="Whether the page at /ui is served.")


class LoggingSettings(Section):
    """What is logged; note text never is."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="Least level logged.")
    audit_file: Path | None = Field(
        default=None,
        description="JSON lines, one a prediction: ids, key, the note's sha256, codes, timings; null: none. Codes are "
        "health data: keep it as the notes.",
    )


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
    writing: WritingSettings = WritingSettings()
    queue: QueueSettings = QueueSettings()
    llamacpp: LlamaCppSettings = LlamaCppSettings()
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
