"""The processes of a training: one, or as many as torchrun started.

Gradients are added up over all processes once a step, by hand: rows differ in length, a step may be done again
after memory ran out, and sums over label tokens are not what DistributedDataParallel's means are. With
`sharding: full`, torch's own `fully_shard` holds every process's share of the weights, gradients and optimizer state.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class World:
    """Which process this is, of how many."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    sharded: bool = False

    @property
    def first(self) -> bool:
        """Whether this is the process that reports and writes."""
        return self.rank == 0

    @property
    def writes_or_shares(self) -> bool:
        """Whether this process's tensors are needed for writing: the first writes, and shares are put together."""
        return self.first or self.sharded

    @property
    def restarted(self) -> bool:
        """Whether torchrun started the processes again after one of them died."""
        return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0

    def add(self, *values: float) -> list[float]:
        """Return each value summed over all processes."""
        if self.size == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        # On the device of the backend: NCCL knows no other.
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        sums = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(sums)
        return [float(value) for value in sums.tolist()]

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return self.add(float(flag))[0] > 0

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()

    def add_gradients(self, parameters: "list[torch.nn.Parameter]") -> None:
        """Sum the gradients over all processes; shares of a sharded model are summed already."""
        if self.size == 1 or self.sharded:
            return
        import torch
        import torch.distributed as dist

        for parameter in parameters:
            if parameter.grad is None:  # an epoch's last step may have fewer rows than there are processes
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.nn.utils.parameters_to_vector(gradients)
        dist.all_reduce(flat)
        torch.nn.utils.vector_to_parameters(flat, gradients)


@contextmanager
def joined_world(device: str, *, sharded: bool) -> "Iterator[World]":
    """Join the processes that torchrun started, if it did; leave them at the end."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        if sharded:
            raise MedcodeError("compute.sharding full: this is the only process; set compute.processes")
        yield World()
        return
    import torch
    import torch.distributed as dist

    local_rank = int(os.environ["LOCAL_RANK"])
    if device == "mps":
        raise MedcodeError("compute.processes: MPS is one device; set 1, or compute.device=cpu")
    if device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise MedcodeError(
                f"compute.processes {os.environ['LOCAL_WORLD_SIZE']}: this machine has {torch.cuda.device_count()} GPUs"
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), local_rank, sharded)
    finally:
        dist.destroy_process_group()


def shard(model: Any, world: World, compute: "torch.dtype") -> None:
    """Share a model's weights out over all processes, layer by layer, if the world does that.

    Raises:
        MedcodeError: the model has no list of layers to share out, or its weights cannot be.
    """
    if not world.sharded:
        return
    import torch
    from torch.distributed import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if not all(parameter.is_floating_point() for parameter in model.parameters()):
        raise MedcodeError("compute.sharding full: weights in 4 bits cannot be shared out; set training.mode=lora")
    # On the model's device, which need not be the one that torch would choose on this machine.
    mesh = init_device_mesh(next(model.parameters()).device.type, (world.size,))
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    for module in (*decoder_layers(model), model):
        shared = fully_shard(module, mesh=mesh, mp_policy=policy)
        # Summed, not averaged: the loss is divided by the whole step's weight. And by a plain sum: gloo has no other.
        shared.set_gradient_divide_factor(1.0)
        shared.set_force_sum_reduction_for_comms(True)
    _assert_shared_out(model, world)


def _assert_shared_out(model: Any, world: World) -> None:
    """Raise RuntimeError unless this process holds its share of every weight and no more; never only assumed."""
    for name, parameter in model.named_parameters():
        whole, own = parameter.numel(), parameter.to_local().numel() if hasattr(parameter, "to_local") else None
        # Shared out by rows: the first processes have one more where they do not come out even.
        rows = -(-parameter.shape[0] // world.size) if parameter.ndim else 1
        if own is None or own > whole // max(1, parameter.shape[0]) * rows:
            raise RuntimeError(f"compute.sharding full: process {world.rank} holds {own} of {whole} numbers of {name}")


def decoder_layers(model: Any) -> "torch.nn.ModuleList":
    """Return a model's list of layers. Raises MedcodeError if it has none."""
    import torch

    count = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise MedcodeError(f"models of type {model.config.model_type!r} have no list of layers to share out")


def whole_tensor(tensor: "torch.Tensor") -> "torch.Tensor":
    """Return a weight or optimizer tensor on the CPU, put together from its shares; all processes must call it.

    Of a shared-out tensor, only the first process, which writes, gets it; the others get an empty one: a machine's
    memory need not hold the model once for each GPU.
    """
    if not hasattr(tensor, "full_tensor"):
        return tensor.detach().cpu().contiguous()
    import torch.distributed as dist

    shared: Any = tensor.detach()
    whole: torch.Tensor = shared.full_tensor()
    return whole.cpu().contiguous() if dist.get_rank() == 0 else whole.new_empty(0, device="cpu")


def own_share(whole: "torch.Tensor", like: "torch.Tensor") -> "torch.Tensor":
    """Return this process's share of a whole tensor, laid out as `like`."""
    if not hasattr(like, "device_mesh"):
        return whole.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    shared: Any = like
    # Every process has read the whole: nothing need be sent.
    return distribute_tensor(whole.to(like.device), shared.device_mesh, shared.placements, src_data_rank=None)
