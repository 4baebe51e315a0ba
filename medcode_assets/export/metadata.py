"""What a GGUF file says about itself, beside its weights and its tokenizer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelMetadata:
    """The `general.*`, `medcode.*` and chat-template fields; an empty one is left out."""

    name: str
    """`general.name`. Not one with "phi3" or "phi-3": llama.cpp tokenizes otherwise then."""
    version: str
    """`general.version`: the bundle's version."""
    recipe: str = ""
    base_model: str = ""
    """Id of the base model, as the bundle names it."""
    base_revision: str = ""
    license: str = ""
    """The base model's licence, which the fine-tune inherits: an SPDX id, or what its model card says."""
    data_version: str = ""
    """Release and split hash of the training data."""
    intended_use: str = ""
    """`general.description`."""
    chat_template: str | None = None
    """Jinja. None: the base model's own. The recipe's prompt as a template, so that a chat window sends what training
    saw."""
