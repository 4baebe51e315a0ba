"""training-config.yaml as pydantic models: every setting of the asset side, its default and what it means.

Sources in rising priority: the defaults below, the YAML file, the environment
(``MEDCODE_TRAIN_<SECTION>__<FIELD>``, e.g. ``MEDCODE_TRAIN_LORA__R=16``), flags of the command line.
The Dagster launchpad shows the same fields (`medcode_assets.launchpad`).
"""

import os
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from medcode_assets.export.quantizations import QUANTIZATIONS
from medcode_serving.errors import MedcodeError
from medcode_serving.layers import layered

PROJECT = Path(__file__).resolve().parent.parent
DEFAULT_CONFIG = PROJECT / "config" / "training-config.yaml"
ENVIRONMENT_PREFIX = "MEDCODE_TRAIN_"

Device = Literal["auto", "cuda", "mps", "cpu"]
ICD_SYSTEMS = ("icd9cm", "icd9pcs", "icd10cm", "icd10pcs")
SYSTEMS = (*ICD_SYSTEMS, "hcpcs", "cpt")
"""CPT and HCPCS are read too, and are no targets by default: MIMIC has them for few admissions."""


class Section(BaseModel):
    """One section of a settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(Section):
    """Which base model is fine-tuned."""

    base: str = Field(
        default="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        description="A Hugging Face id, a local folder, or `embedded` for the small model that medcode ships.",
    )
    revision: str | None = Field(default=None, description="Hub branch, tag or commit; none: the default branch.")


class ComputeSettings(Section):
    """Where models are trained and evaluated: nothing here changes what comes out, but for rounding."""

    device: Device = Field(default="auto", description="auto (CUDA, then MPS, then CPU), cuda, mps or cpu.")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto", description="Of the arithmetic; auto: bf16 or fp16 on CUDA, whichever it has, else fp32."
    )
    memory_gb: float = Field(
        default=0.0,
        ge=0,
        description="Memory that a training may plan with on each device, in GiB; 0: all it has. On the CPU, a limit "
        "also gives freed memory back at once, which costs time.",
    )
    processes: int = Field(
        default=1, ge=1, description="Training processes on each machine, one a GPU; more than one start by torchrun."
    )
    machines: int = Field(default=1, ge=1, description="Machines that train together.")
    rendezvous: str | None = Field(
        default=None,
        pattern=r"^[^\s:]+:\d+$",
        description="host:port at which several machines meet; each starts the same training.",
    )
    sharding: Literal["none", "full"] = Field(
        default="none",
        description="none: every process holds the model (DDP); full: each holds its share of it (FSDP2).",
    )
    max_restarts: int = Field(default=1, ge=0, description="How often torchrun restarts processes that died.")
    launcher: Literal["local", "subprocess", "modal"] = Field(
        default="local",
        description="Where adapters are trained: local: here; subprocess: here, in a detached process with a copy of "
        "the data; modal: at modal.com, which allowed_hosts has to name (docs/remote.md).",
    )
    allowed_hosts: list[str] = Field(
        default=[], description="Hosts besides this machine that notes may be sent to, as tokens, by name."
    )
    gpu: str = Field(
        default="A10", pattern=r"^[A-Za-z0-9-]+!?$", description="Kind of GPU that launcher modal asks for."
    )
    remote_hours: float = Field(
        default=12.0, gt=0, le=23, description="A training elsewhere is ended after so long; modal.com's limit is 24."
    )
    detach: bool = Field(
        default=False,
        description="A training elsewhere goes on when the run that waits for it is canceled; the next one finds it.",
    )

    @model_validator(mode="after")
    def _other_machines_are_single(self) -> Self:
        if self.launcher != "local" and self.machines > 1:
            raise ValueError(f"launcher {self.launcher} trains on one machine; set machines to 1, or launcher to local")
        return self

    @model_validator(mode="after")
    def _machines_meet_somewhere(self) -> Self:
        if self.machines > 1 and self.rendezvous is None:
            raise ValueError("several machines need `rendezvous`, the host:port of one of them")
        if self.sharding == "full" and self.processes * self.machines == 1:
            raise ValueError("sharding: full needs more than one process; set processes or machines")
        return self

    @property
    def launched(self) -> bool:
        """Whether training runs in processes of its own."""
        return self.processes > 1 or self.machines > 1


class LoraSettings(Section):
    """Shape of the adapter; training.mode full has none."""

    r: int = Field(default=8, ge=1, description="Rank of the adapter's matrices.")
    alpha: int = Field(default=16, ge=1, description="Scale: the adapter counts alpha / r.")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: list[str] = Field(
        default=["all-linear"],
        min_length=1,
        description="Layers that get an adapter; all-linear: every one but the output head.",
    )
    rslora: bool = Field(default=False, description="Rank-stabilised: the adapter counts alpha / sqrt(r).")
    dora: bool = Field(
        default=False, description="Weight-decomposed: the adapter also learns each output's magnitude; slower."
    )


class TrainingSettings(Section):
    """How the model is trained."""

    mode: Literal["lora", "qlora", "full"] = Field(
        default="lora",
        description="lora: an adapter; qlora: an adapter over the base in 4 bits (NF4); full: all weights.",
    )
    epochs: float = Field(default=3.0, gt=0, description="Passes over the training split.")
    learning_rate: float = Field(default=2e-4, gt=0, description="Peak learning rate.")
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field(
        default="cosine", description="How the learning rate falls after warm-up."
    )
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1, description="Share of the steps that warm up.")
    batch_size: int = Field(
        default=4, ge=1, description="Examples computed together, in one row without padding: what memory depends on."
    )
    gradient_accumulation: int = Field(
        default=4,
        ge=1,
        description="Rows whose gradients are added up in a step, over all devices: batch_size times this many "
        "examples a step.",
    )
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    gradient_checkpointing: bool = Field(default=True, description="Less memory for about a third more time.")
    attention: Literal["auto", "packed", "sdpa", "eager"] = Field(
        default="auto",
        description="packed: rows of several notes, attention within each; sdpa, eager: padded rows; auto: packed "
        "where it has been shown to give the same numbers.",
    )
    compile: bool = Field(default=False, description="torch.compile each layer; pays in long trainings on CUDA.")
    evaluations_per_epoch: float = Field(default=1.0, gt=0, description="Looks at the validation split an epoch.")
    metric_documents: int = Field(
        default=16, ge=0, description="Validation notes whose codes are predicted at each look, for micro F1; 0: none."
    )
    metric_seconds: float = Field(default=60.0, gt=0, description="Time for that at each look, at most.")
    early_stopping: int = Field(
        default=0, ge=0, description="Stop after this many looks without a lower validation loss; 0: never."
    )
    keep: Literal["best", "last"] = Field(
        default="last", description="Which weights come out: those of the lowest validation loss, or the last."
    )
    checkpoint_minutes: float = Field(default=10.0, gt=0, description="Minutes between checkpoints.")
    resume: Literal["exact", "force", "never"] = Field(
        default="exact",
        description="exact: go on from a checkpoint of the very same training; force: also if library versions or "
        "the device changed; never: begin anew.",
    )
    start_from: str | None = Field(default=None, description="Folder of an adapter over the same base to go on from.")
    seed: int = Field(default=0, ge=0, description="Seed of weights, order and dropout.")

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        if self.mode == "full" and self.start_from is not None:
            raise ValueError("start_from names an adapter, and mode: full has none; name it as model.base")
        if self.attention == "eager" and self.compile:
            raise ValueError("compile needs attention: packed or sdpa")
        return self


class PreferenceSettings(Section):
    """Direct preference optimisation (DPO), for recipes with preference pairs: the chosen gains on the rejected."""

    beta: float = Field(default=0.1, gt=0, description="How far the model may move from where it starts; less: more.")


class SearchSettings(Section):
    """Search for better settings of the adapter (asset `search`)."""

    trials: int = Field(default=12, ge=1, description="Trainings to try, those of earlier runs counted in.")
    epochs: float = Field(default=1.0, gt=0, description="Epochs of each.")
    max_examples: int = Field(default=2000, ge=0, description="Training examples of each, the same ones; 0: all.")
    learning_rate: list[float] = Field(
        default=[5e-5, 1e-3], min_length=2, max_length=2, description="Least and greatest, tried on a log scale."
    )
    r: list[int] = Field(default=[8, 16, 32], min_length=1, description="Ranks to try; alpha keeps its ratio to r.")
    dropout: list[float] = Field(default=[0.0, 0.05, 0.1], min_length=1, description="Dropouts to try.")
    use_best: bool = Field(
        default=False, description="The adapter is trained with the best settings found, over those given here."
    )

    @model_validator(mode="after")
    def _least_before_greatest(self) -> Self:
        if not 0 < self.learning_rate[0] <= self.learning_rate[1]:
            raise ValueError("learning_rate: give the least and the greatest, both above 0")
        return self


class DataSettings(Section):
    """What is read, asked for and tokenized."""

    num_patients: int = Field(
        default=0, ge=0, description="Patients at most, those with a discharge note first; 0: all."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the patient sample and of the splits.")
    split_method: Literal["random", "stratified", "file"] = Field(
        default="random",
        description="How patients come to train, validation and test: random, 80/10/10; stratified: the same shares of "
        "the carriers of every rare code; file: as `split_file` says.",
    )
    split_file: str | None = Field(
        default=None,
        description="Published splits: a CSV, TSV, parquet or feather file with a column split and one of subject_id, "
        "hadm_id, note_id or _id, or CAML's folder of *_hadm_ids.csv. Admissions that it does not name are left out.",
    )
    systems: list[str] = Field(
        default=list(ICD_SYSTEMS),
        min_length=1,
        description=f"Code systems to predict, of {', '.join(SYSTEMS)}.",
    )
    min_frequency: int = Field(
        default=0,
        ge=0,
        description="Codes in fewer admissions leave the task, in the gold too; 0: all stay, unseen ones "
        "included. The literature uses 10.",
    )
    frequency_over: Literal["train", "all"] = Field(
        default="train",
        description="Where min_frequency and top_codes count: train, or all splits as the literature does, "
        "which tells training a little of the test.",
    )
    top_codes: int = Field(default=0, ge=0, description="Only the N most frequent codes; 0: all.")
    max_prompt_tokens: int = Field(
        default=4096, ge=64, description="Longer notes are shortened, least telling sections first, and counted."
    )

    @field_validator("systems")
    @classmethod
    def _known(cls, systems: list[str]) -> list[str]:
        # Not a Literal: Dagster's launchpad knows no list of those.
        for system in systems:
            if system not in SYSTEMS:
                raise ValueError(f"unknown code system {system!r}; choose from {', '.join(SYSTEMS)}")
        return systems

    @model_validator(mode="after")
    def _split_file_belongs_to_its_method(self) -> Self:
        if (self.split_method == "file") != (self.split_file is not None):
            raise ValueError("split_method: file and split_file go together; give both or neither")
        return self


class WarehouseSettings(Section):
    """How DuckDB works on a MIMIC version's file."""

    memory_limit: str = Field(
        default="1GB",
        pattern=r"^\d+(\.\d+)?\s*[KMGT]i?B$",
        description="Memory for tables and queries; what needs more goes through the temp folder.",
    )
    threads: int = Field(default=0, ge=0, description="Threads; 0: one a core.")
    temp_folder: str | None = Field(
        default=None, description="Folder for what does not fit into memory; none: beside the warehouse."
    )
    wait_minutes: float = Field(
        default=60.0, ge=0, description="How long to wait for another process that uses the same version."
    )


class AutomationSettings(Section):
    """What happens by itself when a new MIMIC release appears."""

    watch_folder: str | None = Field(
        default=None, description="Folder into which new releases are downloaded; none: nothing is watched."
    )
    watch_seconds: int = Field(
        default=300, ge=5, description="Between two looks at it; a release is complete once two looks agree."
    )
    retrain: bool = Field(
        default=False, description="A new release is trained on, evaluated and published; else it is only tokenized."
    )
    cron_schedule: str = Field(
        default="0 3 * * 0",
        pattern=r"^(\S+\s+){4}\S+$|^@(hourly|daily|weekly|monthly)$",
        description="When versions that are missing or whose files changed are requested again.",
    )


class EvaluationSettings(Section):
    """How much is evaluated, and how fast."""

    batch_size: int = Field(default=16, ge=1, description="Notes that are decoded together.")
    max_documents: int = Field(default=0, ge=0, description="Documents a split, the same each time; 0: all.")
    untuned_base: bool = Field(default=True, description="Also evaluate the base model without the adapter.")
    calibration: Literal["auto", "temperature", "isotonic", "none"] = Field(
        default="auto",
        description="How probabilities are calibrated on validation; auto: isotonic where there are enough codes.",
    )
    resamples: int = Field(default=1000, ge=100, le=100_000, description="Bootstrap samples behind each interval.")


GATES = {
    "outputs_parse": "What the adapter writes is codes.",
    "not_collapsed": "Metrics are finite and the adapter does not give every document the same codes.",
    "above_frequency_prior": "Test micro F1 above the frequency prior.",
    "above_untuned_base": "Test micro F1 above the untuned base.",
    "no_regression": "Not significantly below the served adapter on the same test split (paired bootstrap).",
}
"""What a bundle must pass before LATEST names it (medcode_assets/evaluation/gates.py)."""


class GateSettings(Section):
    """What decides whether a bundle is published."""

    relax: list[str] = Field(
        default=[], description=f"Gates that may fail and be published all the same, of {', '.join(GATES)}."
    )
    most_dropped: float = Field(
        default=0.05, ge=0, le=1, description="outputs_parse: fragments that are no code, of all that was answered."
    )

    @field_validator("relax")
    @classmethod
    def _known(cls, relax: list[str]) -> list[str]:
        for gate in relax:
            if gate not in GATES:
                raise ValueError(f"unknown gate {gate!r}; choose from {', '.join(GATES)}")
        return relax


class ExportSettings(Section):
    """Which GGUF files are made, and how each is held against the model."""

    quantizations: list[str] = Field(
        default=["f16", "q8_0", "q4_k_m"],
        min_length=1,
        description=f"Number formats of the GGUF files, of {', '.join(QUANTIZATIONS)}.",
    )
    prompts: int = Field(
        default=10,
        ge=3,  # the positions of one are too few to tell how often the likeliest token is the same
        description="Validation notes whose next-token distributions and greedy answers are compared.",
    )
    f1_notes: int = Field(
        default=100,
        ge=0,
        description="Validation notes on which file and model are scored; 0: micro F1 is not measured.",
    )
    most_f1_lost: float = Field(
        default=0.03, ge=0, le=1, description="Micro F1 that a file may lose against the model and still be delivered."
    )

    @field_validator("quantizations")
    @classmethod
    def _known(cls, quantizations: list[str]) -> list[str]:
        # Not a Literal: Dagster's launchpad knows no list of those.
        for name in quantizations:
            if name not in QUANTIZATIONS:
                raise ValueError(f"unknown quantization {name!r}; choose from {', '.join(QUANTIZATIONS)}")
        if len(set(quantizations)) < len(quantizations):
            raise ValueError("a quantization is named twice")
        return quantizations


class LoggingSettings(Section):
    """Where training reports to."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="WARNING", description="Least level shown.")
    steps: int = Field(default=10, ge=1, description="Training steps between two logged losses.")
    mlflow_uri: str | None = Field(
        default=None, description="MLflow tracking server; none: a sqlite file below MEDCODE_HOME."
    )


class Settings(BaseSettings):
    """All settings of the asset side, in the sections of training-config.yaml."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        env_parse_none_str="null",
        extra="forbid",
        frozen=True,
    )

    model: ModelSettings = ModelSettings()
    compute: ComputeSettings = ComputeSettings()
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    preference: PreferenceSettings = PreferenceSettings()
    search: SearchSettings = SearchSettings()
    data: DataSettings = DataSettings()
    warehouse: WarehouseSettings = WarehouseSettings()
    automation: AutomationSettings = AutomationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    gates: GateSettings = GateSettings()
    export: ExportSettings = ExportSettings()
    logging: LoggingSettings = LoggingSettings()


def load_settings(path: Path | None = None, flags: dict[str, Any] | None = None) -> Settings:
    """Return the settings of a YAML file, overridden by the environment and then by flags.

    Args:
        path: The YAML file; none: MEDCODE_CONFIG, or config/training-config.yaml of the checkout if it is there.
        flags: Values by dotted name, e.g. `{"lora.r": 16}`.

    Raises:
        MedcodeError: the file is missing or no YAML mapping, or a setting is unknown or out of bounds.
    """
    path = path or (Path(os.environ["MEDCODE_CONFIG"]) if "MEDCODE_CONFIG" in os.environ else None)
    if path is None and DEFAULT_CONFIG.exists():
        path = DEFAULT_CONFIG
    return layered(Settings, path, flags or {})


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Turn `["lora.r=16"]` into `{"lora.r": 16}`; values are YAML. Raises MedcodeError on anything else."""
    flags = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or "." not in name:
            raise MedcodeError(f"--set {assignment}: expected section.field=value, e.g. --set lora.r=16")
        try:
            flags[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise MedcodeError(f"--set {assignment}: the value is not YAML") from None
    return flags
