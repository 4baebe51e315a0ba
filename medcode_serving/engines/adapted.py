"""The weights that an engine answers with: a model of its own, or an adapter over a base model that others share."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_serving.adapters import load_adapted_model
from medcode_serving.device import resolve_device
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from medcode_serving.engines.shared_base import SharedBase


class AdaptedModel:
    """A base model with or without an adapter, in memory until it is closed."""

    def __init__(
        self,
        engine: str,
        model_path: Path,
        adapter: Path | None,
        *,
        device: str = "auto",
        dtype: str | None = None,
        base_revision: str | None = None,
        shared: "SharedBase | None" = None,
    ) -> None:
        """Load it.

        Args:
            engine: Whose model, for messages.
            model_path: Folder of the base model.
            adapter: Folder that training wrote; None for the untuned base.
            device: auto, cpu, cuda or mps.
            dtype: float32, bfloat16 or float16; None takes the device's default.
            base_revision: Revision that the adapter must name if it names one; None: not known.
            shared: The base model in memory that the adapter is laid over; None: a model of its own.

        Raises:
            MedcodeError: model, adapter and device do not fit together, or are not to be had.
        """
        import torch

        self.device = resolve_device(device)
        self._engine = engine
        self._shared = shared if adapter is not None else None
        self._own: PreTrainedModel | None = None
        if shared is not None and adapter is not None:
            self._weights = shared.add(adapter)
            return
        precision = dtype or default_dtype(self.device)
        own = load_adapted_model(
            model_path, adapter, dtype=precision, merge=precision == "float32", base_revision=base_revision
        )
        self._own = own.to(torch.device(self.device)).eval()  # type: ignore[arg-type]

    def get(self) -> Any:
        """Return the model; to be asked for anew before each batch. Raises MedcodeError once it is closed."""
        if self._shared is not None:
            return self._shared.activate(self._weights)
        if self._own is None:
            raise MedcodeError(f"engine {self._engine} was closed; load it anew")
        return self._own

    @property
    def context(self) -> int | None:
        """How many tokens prompt and answer may have together, if the model says."""
        context: int | None = getattr(self.get().config, "max_position_embeddings", None)
        return context

    def ends(self, end_of_text: int) -> set[int]:
        """Return the tokens that end a free answer; an untuned model may end a turn instead of the text."""
        told = self.get().generation_config.eos_token_id
        return {end_of_text, *([told] if isinstance(told, int) else told or [])}

    def close(self) -> None:
        """Give up the weights; the base model only if it is not shared."""
        if self._shared is not None:
            self._shared.remove(self._weights)
        self._shared = self._own = None


def default_dtype(device: str) -> str:
    """Return the precision that models answer in on a device."""
    return "bfloat16" if device == "cuda" else "float32"
