"""Sections of training-config.yaml about training: on which machines, the adapter's shape, the schedule, the search."""

from typing import Literal, Self

from pydantic import Field, model_validator

from medcode_serving.layers import Section

Device = Literal["auto", "cuda", "mps", "cpu"]


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
