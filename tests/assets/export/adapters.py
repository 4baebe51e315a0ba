"""Random adapters of every kind that PEFT makes."""

from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def write_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """Write an adapter in which everything that training would move was moved at random."""
    import torch

    torch.manual_seed(3)
    defaults: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    config = LoraConfig(**defaults | settings)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(str(folder))
    return folder
