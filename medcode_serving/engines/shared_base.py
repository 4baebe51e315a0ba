"""One base model in memory under the LoRA adapters of several recipes.

Every adapter has a tree of modules of its own over the very same base weights: a copy of the base model whose
parameters are not copied, with PEFT's layers around them. PEFT's own way, several adapters in one tree of which one is
active, changes the layers of the running model while it loads, and an answer in the making would be half another
adapter's. Here, nothing that happens to one adapter can reach another one. A tree without its weights is about a
megabyte.
"""

import copy
import hashlib
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_serving.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    check_adapter,
    load_base_model,
    read_form,
    with_adapter,
)
from medcode_serving.bundle import file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LEAVES_BASE_ALONE = (True, False, "gaussian")
"""Ways to begin an adapter (`init_lora_weights`); the others, pissa for one, write into the base model's weights."""


def can_share(adapter: Path) -> bool:
    """Tell whether an adapter can lie over a base model that others use: a LoRA adapter that leaves its weights alone.

    One that is damaged cannot; loading it alone says why.

    Raises:
        MedcodeError: its adapter.json is damaged.
    """
    if read_form(adapter).mode != "lora":
        return False
    try:
        config = json.loads((adapter / ADAPTER_CONFIG).read_bytes())
    except (OSError, ValueError):
        return False
    return (
        isinstance(config, dict)
        and config.get("peft_type") == "LORA"
        and config.get("bias", "none") == "none"
        and config.get("init_lora_weights", True) in _LEAVES_BASE_ALONE
    )


class SharedBase:
    """A base model and the models that its adapters make of it.

    Every method may be called from any thread, also while models of this base answer on others.
    """

    def __init__(self, path: Path, *, dtype: str, device: str, base_revision: str | None = None) -> None:
        """Load the base model.

        Args:
            path: Its folder: config.json and safetensors.
            dtype: float32, bfloat16 or float16.
            device: Where it computes: cpu, cuda, mps.
            base_revision: Its revision; adapters that name another one are refused. None: not known.

        Raises:
            MedcodeError: weights are missing or no safetensors.
        """
        import torch

        self._path = path
        self._base_revision = base_revision
        base: Any = load_base_model(path, dtype).to(torch.device(device))  # type: ignore[arg-type]
        self._base: PreTrainedModel = base.eval().requires_grad_(False)
        self._models: dict[str, PreTrainedModel] = {}
        self._users: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, adapter: Path) -> str:
        """Lay an adapter over the base model, and return its name; one that lies there already gets one more user.

        Args:
            adapter: A folder that `can_share`.

        Raises:
            MedcodeError: the adapter is damaged, or was made for another base model; the other adapters go on.
        """
        check_adapter(adapter, self._path, self._base_revision)
        name = _digest(adapter)
        with self._lock:
            if name not in self._models:
                self._models[name] = self._adapted(adapter)
            self._users[name] = self._users.get(name, 0) + 1
        return name

    def activate(self, name: str) -> "PreTrainedModel":
        """Return the model that answers with an adapter; it costs a look into a dictionary.

        Raises:
            KeyError: no adapter has this name (any more).
        """
        return self._models[name]

    def remove(self, name: str) -> None:
        """Take one user from an adapter; its weights go with the last one, and those of the base model stay.

        Raises:
            KeyError: no adapter has this name (any more).
        """
        with self._lock:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name], self._models[name]

    def _adapted(self, adapter: Path) -> "PreTrainedModel":
        shared = {id(weight): weight for weight in self._base.parameters()}
        return with_adapter(copy.deepcopy(self._base, shared), self._path, adapter, merge=False).eval()


def _digest(adapter: Path) -> str:
    """Return a sha256 over what makes an adapter answer as it does."""
    parts = (file_sha256(adapter / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))
    return hashlib.sha256("".join(parts).encode()).hexdigest()
