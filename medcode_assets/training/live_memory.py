"""How many bytes of tensors are alive at once, by what they are for: followed while fake tensors go through a step.

torch's `FakeTensorMode` gives every tensor its shape, type and storage and no data. So the real code of a training
step runs in a second, on models larger than this machine, and allocates and frees as it would with data.
"""

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

KINDS = ("weights", "gradients", "optimizer", "activations", "logits")

Bytes = dict[str, int]
"""Bytes alive at one moment, by kind."""


class LiveMemory(TorchDispatchMode):
    """Counts the storages that are alive, and keeps for each phase the moment at which they were most.

    Enter it inside a FakeTensorMode.
    """

    def __init__(self, vocabulary: int) -> None:
        """Begin with nothing alive; tensors whose rows are as wide as the vocabulary are logits."""
        super().__init__()
        self.now: Bytes = dict.fromkeys(KINDS, 0)
        self.peaks: dict[str, Bytes] = {}
        self._total = 0
        self._vocabulary = vocabulary
        self._kind: str | None = None
        self._phase = ""
        self._seen: dict[int, tuple[int, str]] = {}

    def enter_phase(self, name: str) -> None:
        """From here on, the peak is that of another phase; one may be entered more than once."""
        self._phase = name
        self._note_peak()

    @contextmanager
    def allocating(self, kind: str) -> Iterator[None]:
        """Whatever is allocated meanwhile is of this kind."""
        before, self._kind = self._kind, kind
        try:
            yield
        finally:
            self._kind = before

    def belongs_to(self, tensor: torch.Tensor, kind: str) -> None:
        """Say what a tensor that is alive already turned out to be for."""
        place = id(tensor.untyped_storage())
        if place in self._seen:
            size, before = self._seen[place]
            self.now[before] -= size
            self.now[kind] += size
            self._seen[place] = (size, kind)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation and take note of what it allocated."""
        if func is torch.ops.aten._local_scalar_dense.default:
            # A fake tensor has no value; the step asks for the loss and the norm only to report them. A mask, where a
            # model asks whether it is all true, is taken to mask something.
            return False if args[0].dtype is torch.bool else 1.0
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor)
        return out

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        place = id(storage)
        if place in self._seen:
            return
        size = storage.nbytes()
        wide = tensor.ndim > 1 and tensor.shape[-1] == self._vocabulary
        kind = self._kind or ("logits" if wide else "activations")
        self._seen[place] = (size, kind)
        self.now[kind] += size
        self._total += size
        weakref.finalize(storage, self._forget, place).atexit = False
        self._note_peak()

    def _forget(self, place: int) -> None:
        size, kind = self._seen.pop(place)
        self.now[kind] -= size
        self._total -= size

    def _note_peak(self) -> None:
        peak = self.peaks.get(self._phase)
        if self._phase and (peak is None or self._total > sum(peak.values())):
            self.peaks[self._phase] = dict(self.now)
