"""A training step without weights and without data, to see how much memory the real one takes.

What runs is the training's own code (`models.adapted`, the objective, `steps.RowComputer`, `loop.clip_and_step`), on
fake tensors (`live_memory`). Only two things are put in the place of others: 4-bit layers, whose kernels need a
device, and on CUDA the attention over packed rows.

Two and three layers are rehearsed, whatever the model has: every phase's memory grows by the same amount a layer.
"""

import copy
import logging
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medcode_assets.training.attention import PACKED, RowLayout, packed_attention, register_packed_attention
from medcode_assets.training.models import Precision, adapted, lora_config, own_attention, packs
from medcode_assets.training.settings import LoraSettings, TrainingSettings
from medcode_serving.base_models import LocalModel
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from medcode_assets.training.live_memory import Bytes, LiveMemory
    from medcode_assets.training.steps import RowComputer

PLANNED = "medcode_planned"
"""Name under which transformers finds the attention of a rehearsal for CUDA."""
FEW_LAYERS = (2, 3)
"""How many layers are rehearsed."""
FORWARD, LAST_LAYER, BETWEEN, FIRST_LAYER, STEP = "forward", "last layer", "between", "first layer", "step"
"""Phases of a step. Between the last layer's backward pass and the first one's memory only rises or only falls."""

Lengths = Sequence[tuple[int, ...]]
"""Tokens of each example of a row: its prompt's and its completions'."""


@dataclass(frozen=True)
class Stage:
    """What is rehearsed: a base model, how it is trained, and on what."""

    config: "PretrainedConfig"
    mode: Literal["lora", "qlora", "full"]
    lora: LoraSettings
    training: TrainingSettings
    precision: Precision
    device: str = "cpu"
    """Kind of device: cuda, mps or cpu."""
    objective: Literal["sft", "dpo"] = "sft"
    summed: bool = False
    """Whether gradients are added up over processes after the backward pass."""
    sharded: bool = False
    """Whether weights are gathered layer by layer in the arithmetic's format."""

    @property
    def layers(self) -> int:
        """Number of the model's layers."""
        return int(self.config.get_text_config().num_hidden_layers)


class Rows:
    """Examples of given lengths in the place of a token file; every token is 0."""

    def __init__(self, lengths: Lengths, objective: str) -> None:
        """Take the tokens of each example."""
        names = ("prompt_ids", "completion_ids") if objective == "sft" else ("prompt_ids", "chosen_ids", "rejected_ids")
        self.lengths = {name: np.array([row[at] for row in lengths]) for at, name in enumerate(names)}
        self.example_ids = np.arange(len(lengths))
        self.reference = np.zeros((len(lengths), 2))

    def __len__(self) -> int:
        return len(self.example_ids)

    def __getitem__(self, place: int) -> dict[str, np.ndarray]:
        return {name: np.zeros(lengths[place], dtype=np.int64) for name, lengths in self.lengths.items()}


def read_model_config(folder: Path) -> "PretrainedConfig":
    """Read a model folder's config.json; no weights are needed. Raises MedcodeError if it cannot be read."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise MedcodeError(f"base model {folder}: no config.json there; name a Hugging Face model folder")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MedcodeError(f"{folder / 'config.json'}: transformers cannot read it ({reason})") from None


def rehearse(stage: Stage, lengths: Lengths) -> "dict[str, Bytes]":
    """Return the bytes alive at the peak of each phase of a step, by kind.

    Args:
        stage: The training.
        lengths: Of the row's examples, in tokens.

    Raises:
        MedcodeError: the model has no decoder layers or no layers of the names that the adapter targets.
    """
    if stage.layers <= FEW_LAYERS[-1] or not _alike(stage.config):
        return _rehearse(stage, lengths)
    few, more = (_rehearse(with_layers(stage, count), lengths) for count in FEW_LAYERS)
    steps = (stage.layers - FEW_LAYERS[0]) / (FEW_LAYERS[1] - FEW_LAYERS[0])
    return {
        phase: {kind: round(size + (more[phase][kind] - size) * steps) for kind, size in sizes.items()}
        for phase, sizes in few.items()
    }


def with_layers(stage: Stage, count: int) -> Stage:
    """Return the stage with as many layers."""
    config = copy.deepcopy(stage.config)
    text = config.get_text_config()
    text.num_hidden_layers = count
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:count]
    return Stage(**{**stage.__dict__, "config": config})


def meta_model(stage: Stage) -> Any:
    """Return the model that is trained, with its adapter, on the meta device: shapes and no weights."""
    import torch
    from transformers import AutoModelForCausalLM

    from medcode_assets.training.stand_ins import adapt_quantised, quantise

    training = stage.training.model_copy(update={"start_from": None})
    dtype = stage.precision.compute if stage.sharded else stage.precision.weights(stage.mode)
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(
                stage.config, dtype=dtype, attn_implementation=own_attention(training)
            )
    except (ValueError, KeyError) as error:
        raise MedcodeError(f"no causal language model of type {stage.config.model_type!r}: {error}") from None
    model.config.use_cache = False
    if packs(training, model):
        register_packed_attention()
        _register_planned_attention()
        model.set_attn_implementation(PLANNED if stage.device == "cuda" else PACKED)
    if training.gradient_checkpointing:
        # The state of the random numbers is left alone: fake tensors have none.
        options = {"use_reentrant": False, "preserve_rng_state": False}
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    if stage.mode == "qlora":
        quantise(model, stage.precision.compute)
        model = adapt_quantised(model, lora_config(stage.lora))
    if stage.mode == "lora":
        model = adapted(model, LocalModel(stage.config.model_type, Path(), ""), stage.lora, training)
    return model.train()


def _rehearse(stage: Stage, lengths: Lengths) -> "dict[str, Bytes]":
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from medcode_assets.training.live_memory import LiveMemory
    from medcode_assets.training.loop import clip_and_step, make_optimizer

    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))  # whoever trains next must not notice
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_quiet(logging.getLogger("transformers")))
        model = meta_model(stage)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        memory = stack.enter_context(LiveMemory(stage.config.get_text_config().vocab_size))
        with memory.allocating("weights"):
            _make_fake(model)
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        optimizer = make_optimizer(parameters, stage.training)
        for group in optimizer.param_groups:
            group["foreach"] = stage.device == "cuda"  # torch's own choice there, which it does not make for fakes
        with memory.allocating("optimizer"):
            _first_step(optimizer, list(parameters.values()))
        _mark_phases(model, memory)
        for parameter in parameters.values():
            parameter.register_post_accumulate_grad_hook(lambda p: memory.belongs_to(p.grad, "gradients"))

        memory.enter_phase(FORWARD)
        rows: Any = Rows(lengths, stage.objective)
        computer = computer_for(model, stage.objective, stage.training, stage.precision.compute)
        computer.gradients(rows, range(len(rows)), seed=0, step=0)
        memory.enter_phase(STEP)
        if stage.summed:
            _flat = torch.nn.utils.parameters_to_vector([p.grad for p in parameters.values() if p.grad is not None])
            del _flat
        clip_and_step(optimizer, stage.training.learning_rate, stage.training.max_grad_norm, None)
        return memory.peaks


def computer_for(model: Any, objective: str, training: TrainingSettings, compute: "torch.dtype") -> "RowComputer":
    """Return what computes a step's examples in one row on the CPU, or on fakes of it."""
    from medcode_assets.training.objectives.dpo import DirectPreference
    from medcode_assets.training.objectives.objective import Objective
    from medcode_assets.training.objectives.sft import SupervisedFineTuning
    from medcode_assets.training.steps import RowComputer
    from medcode_assets.training.world import World

    chosen: Objective = SupervisedFineTuning() if objective == "sft" else DirectPreference(beta=0.1)
    return RowComputer(model, chosen, packs(training, model), 0, "cpu", compute, World(), rows=1)


def _alike(config: "PretrainedConfig") -> bool:
    """Whether all layers are of one kind."""
    return len(set(getattr(config.get_text_config(), "layer_types", None) or [])) <= 1


def _make_fake(model: Any) -> None:
    """Replace weights on the meta device by fake ones; tied ones stay tied."""
    import torch

    made: dict[int, Any] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                if id(weight) not in made:
                    fake = torch.empty_like(weight, device="cpu")
                    made[id(weight)] = torch.nn.Parameter(fake, requires_grad=weight.requires_grad)
                module._parameters[name] = made[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")


def _first_step(optimizer: "torch.optim.Optimizer", parameters: "list[torch.nn.Parameter]") -> None:
    """Give the optimizer its state, which it has in all steps but the first."""
    import torch

    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _mark_phases(model: Any, memory: "LiveMemory") -> None:
    """Have the memory told when the backward pass comes to the last layer, leaves it, and comes to the first."""
    from medcode_assets.training.world import decoder_layers

    def begin(phase: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if hidden.requires_grad:
                hidden.register_hook(lambda _gradient: memory.enter_phase(phase))

        return hook

    layers = decoder_layers(model)
    # In this order: with two layers, the one before the last is the first.
    phases = {len(layers) - 1: LAST_LAYER, max(0, len(layers) - 2): BETWEEN, 0: FIRST_LAYER}
    for place, phase in phases.items():
        layers[place].register_forward_hook(begin(phase))


def _register_planned_attention() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(PLANNED, _planned_attention)
    AttentionMaskInterface.register(PLANNED, lambda *_, **__: None)


def _planned_attention(
    module: "torch.nn.Module",
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    *,
    layout: RowLayout,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> "tuple[torch.Tensor, None]":
    """As `packed_attention` on CUDA: one call for all examples keeps query, key, value, output and their log-sums."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    if query.dtype not in (torch.float16, torch.bfloat16) or layout.branched or dropout:
        return packed_attention(
            module, query, key, value, attention_mask, layout=layout, scaling=scaling, dropout=dropout
        )
    grouped = query.shape[1] != key.shape[1]
    output = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped)
    return output.transpose(1, 2).contiguous(), None


class _quiet:  # noqa: N801 - reads as a verb
    """Silence a logger meanwhile: a rehearsal has nothing to tell that the training would not."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger, self._level = logger, logger.level

    def __enter__(self) -> None:
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
