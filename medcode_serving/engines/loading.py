"""From a bundle to the engine that answers with it."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_serving.base_models import resolve_base_model
from medcode_serving.bundle import Bundle
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.engines.baseline import FrequencyPriorEngine
from medcode_serving.engines.protocol import Engine
from medcode_serving.errors import MedcodeError
from medcode_serving.sections import sections_hash

if TYPE_CHECKING:
    from medcode_serving.settings import InferenceSettings

logger = logging.getLogger(__name__)

BASELINES = ("linear", "untuned_base", "frequency_prior")
"""Engines with a threshold and a calibration of their own in the bundle."""


def load_engine(bundle: Bundle, settings: "InferenceSettings", cache: Path) -> Engine:
    """Build the engine that the settings ask for, over a bundle's vocabulary, prompt and limits.

    Args:
        bundle: What to predict with.
        settings: Its `model.engine` is `transformers` (the bundle's adapter, here), `litellm` (a server), or a
            baseline that the bundle was measured beside.
        cache: Folder of downloaded base models.

    Raises:
        MedcodeError: the base model, the adapter or the server's settings are not usable, or the bundle lacks the
            baseline.
    """
    chosen = settings.model.engine
    if chosen in BASELINES and chosen not in bundle.manifest.baselines:
        raise MedcodeError(
            f"bundle {bundle.manifest.version} was not measured beside {chosen}; publish it anew: medcode run"
        )
    if chosen == "linear":
        from medcode_serving.engines.linear import LinearEngine

        return LinearEngine.load(bundle.linear)
    vocabulary = Vocabulary.read(bundle.codes)
    manifest = bundle.manifest
    if chosen == "frequency_prior":
        return FrequencyPriorEngine(vocabulary, manifest.data.train_documents)
    decoding = manifest.decoding
    if decoding.sections not in ("", sections_hash()):
        logger.warning(
            "bundle %s was trained with another list of note sections than this version of medcode has: long notes are "
            "shortened differently now; train it again, or serve it with the version that made it",
            manifest.version,
        )
    if settings.generation.max_codes is not None:
        decoding = decoding.model_copy(update={"max_codes": settings.generation.max_codes})
    if chosen == "litellm":
        from medcode_serving.engines.litellm import LiteLLMEngine

        return LiteLLMEngine(vocabulary, manifest.prompt, decoding, settings.remote)

    from medcode_serving.engines.transformers import TransformersEngine

    base = resolve_base_model(manifest.base_model.id, cache, revision=manifest.base_model.revision)
    return TransformersEngine(
        chosen,
        base.path,
        None if chosen == "untuned_base" else bundle.adapter,
        vocabulary,
        manifest.prompt,
        decoding,
        device=settings.device,
        batch_size=settings.generation.batch_size,
        base_revision=base.revision,
    )
