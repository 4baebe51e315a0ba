"""From a bundle to the engine that answers with it."""

from pathlib import Path
from typing import TYPE_CHECKING

from medcode_serving.base_models import resolve_base_model
from medcode_serving.bundle import Bundle
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.engines.protocol import Engine

if TYPE_CHECKING:
    from medcode_serving.settings import InferenceSettings


def load_engine(bundle: Bundle, settings: "InferenceSettings", cache: Path) -> Engine:
    """Build the engine that the settings ask for, over a bundle's vocabulary, prompt and limits.

    Args:
        bundle: What to predict with.
        settings: Its `model.engine` is `transformers` (the bundle's adapter, here) or `litellm` (a server).
        cache: Folder of downloaded base models.

    Raises:
        MedcodeError: the base model, the adapter or the server's settings are not usable.
    """
    vocabulary = Vocabulary.read(bundle.codes)
    manifest = bundle.manifest
    decoding = manifest.decoding
    if settings.generation.max_codes is not None:
        decoding = decoding.model_copy(update={"max_codes": settings.generation.max_codes})
    if settings.model.engine == "litellm":
        from medcode_serving.engines.litellm import LiteLLMEngine

        return LiteLLMEngine(vocabulary, manifest.prompt, decoding, settings.remote)

    from medcode_serving.engines.transformers import TransformersEngine

    base = resolve_base_model(manifest.base_model.id, cache, revision=manifest.base_model.revision)
    return TransformersEngine(
        "transformers",
        base.path,
        bundle.adapter,
        vocabulary,
        manifest.prompt,
        decoding,
        device=settings.device,
        batch_size=settings.generation.batch_size,
    )
