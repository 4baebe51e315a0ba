"""From a bundle to the engine that answers with it."""

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from medcode_serving.base_models import LocalModel, resolve_base_model
from medcode_serving.bundle import GGUF, TRIES, Bundle, file_sha256, publishing_command
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.device import resolve_device
from medcode_serving.engines.baseline import FrequencyPriorEngine
from medcode_serving.engines.protocol import Engine
from medcode_serving.errors import MedcodeError
from medcode_serving.gguf_folder import EXPORT, TOKENIZER, read_gguf_manifest
from medcode_serving.sections import sections_hash

if TYPE_CHECKING:
    from medcode_serving.engines.linear import LinearEngine
    from medcode_serving.engines.shared_base import SharedBase
    from medcode_serving.settings import InferenceSettings

logger = logging.getLogger(__name__)

BASELINES = ("linear", "untuned_base", "frequency_prior")
"""Engines with a threshold and a calibration of their own in the bundle."""
WORD_ENGINES = ("transformers", "llamacpp", "litellm", "untuned_base")
"""Engines that can answer in words."""


class SharedBases:
    """The base models in memory that several recipes' adapters lie over."""

    def __init__(self) -> None:
        # Engines keep them alive: a base that the last bundle over it has left gives its memory back.
        self._bases: WeakValueDictionary[tuple[Path, str], SharedBase] = WeakValueDictionary()
        self._lock = threading.Lock()

    def get(self, base: LocalModel, device: str) -> "SharedBase":
        """Return a base model, loaded at the first call.

        Raises:
            MedcodeError: it cannot be loaded.
        """
        from medcode_serving.engines.adapted import default_dtype
        from medcode_serving.engines.shared_base import SharedBase

        with self._lock:
            key = (base.path, base.revision)
            found = self._bases.get(key)
            if found is None:
                resolved = resolve_device(device)
                found = self._bases[key] = SharedBase(
                    base.path, dtype=default_dtype(resolved), device=resolved, base_revision=base.revision
                )
            return found


def load_linear(bundle: Bundle) -> "LinearEngine | None":
    """Return the bundle's linear model; None if the bundle has none, or was not measured beside it."""
    if "linear" not in bundle.manifest.baselines or not bundle.linear.is_dir():
        return None
    from medcode_serving.engines.linear import LinearEngine

    return LinearEngine.load(bundle.linear)


def load_engine(
    bundle: Bundle, settings: "InferenceSettings", cache: Path, shared_bases: SharedBases | None = None
) -> Engine:
    """Build the engine that the settings ask for, over a bundle's vocabulary, prompt and limits.

    Args:
        bundle: What to predict with.
        settings: Its `model.engine` is `transformers` (the bundle's adapter, here), `llamacpp` (its GGUF file, here),
            `litellm` (a server), or a baseline that the bundle was measured beside.
        cache: Folder of downloaded base models.
        shared_bases: Keeps base models for several adapters; None: the engine loads its own, which is a seventh faster.

    Raises:
        MedcodeError: the base model, the adapter, the GGUF file or the server's settings are not usable, or the bundle
            lacks the baseline or the file.
    """
    chosen = settings.model.engine
    manifest = bundle.manifest
    if manifest.answers_in_words:
        return _load_words(bundle, settings, cache, shared_bases)
    if chosen in BASELINES and chosen not in manifest.baselines:
        raise MedcodeError(
            f"bundle {manifest.version} was not measured beside {chosen}; publish it anew: "
            f"{publishing_command(manifest.recipe)}"
        )
    if chosen == "linear":
        from medcode_serving.engines.linear import LinearEngine

        return LinearEngine.load(bundle.linear)
    vocabulary = _vocabulary(bundle, settings)
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
    trie_folders = (bundle.path / TRIES, settings.home / "cache" / TRIES)
    if chosen == "llamacpp":
        from medcode_serving.engines.llamacpp import LlamaCppEngine

        return LlamaCppEngine(
            _served_gguf(bundle, settings),
            bundle.path / GGUF / TOKENIZER,
            vocabulary,
            manifest.prompt,
            decoding,
            trie_folders=trie_folders,
            **settings.llamacpp.model_dump(exclude={"quantization"}),
        )

    from medcode_serving.engines.transformers import TransformersEngine

    base, adapter, shared = _weights(bundle, settings, cache, shared_bases)
    return TransformersEngine(
        chosen,
        base.path,
        adapter,
        vocabulary,
        manifest.prompt,
        decoding,
        device=settings.device,
        batch_size=settings.generation.batch_size,
        base_revision=base.revision,
        shared=shared,
        trie_folders=trie_folders,
    )


def _load_words(bundle: Bundle, settings: "InferenceSettings", cache: Path, shared_bases: SharedBases | None) -> Engine:
    """Build the engine of a bundle that answers in words."""
    manifest = bundle.manifest
    if settings.model.engine not in WORD_ENGINES:
        raise MedcodeError(
            f"recipe {manifest.recipe!r} answers in words, which engine {settings.model.engine} does not; "
            f"set model.engine to {' or '.join(WORD_ENGINES)}"
        )
    if settings.model.engine == "llamacpp":
        from medcode_serving.engines.llamacpp_words import LlamaCppWordsEngine

        return LlamaCppWordsEngine(
            _served_gguf(bundle, settings),
            bundle.path / GGUF / TOKENIZER,
            manifest.prompt,
            manifest.decoding,
            **settings.llamacpp.model_dump(exclude={"quantization"}),
        )
    if settings.model.engine == "litellm":
        from medcode_serving.engines.litellm_words import NO_LENGTH_PENALTY, LiteLLMWordsEngine

        if settings.writing.length_penalty:
            raise MedcodeError(f"writing.length_penalty: {NO_LENGTH_PENALTY}")
        return LiteLLMWordsEngine(manifest.prompt, manifest.decoding, settings.remote)
    from medcode_serving.engines.words import WordsEngine

    base, adapter, shared = _weights(bundle, settings, cache, shared_bases)
    return WordsEngine(
        settings.model.engine,
        base.path,
        adapter,
        manifest.prompt,
        manifest.decoding,
        device=settings.device,
        batch_size=settings.generation.batch_size,
        base_revision=base.revision,
        shared=shared,
    )


def _weights(
    bundle: Bundle, settings: "InferenceSettings", cache: Path, shared_bases: SharedBases | None
) -> "tuple[LocalModel, Path | None, SharedBase | None]":
    """Return a bundle's base model, the adapter that goes over it, and the base in memory if that can be shared."""
    from medcode_serving.engines.shared_base import can_share

    named = bundle.manifest.base_model
    base = resolve_base_model(named.id, cache, revision=named.revision, added_tokens=named.added_tokens)
    if settings.model.engine == "untuned_base":
        return base, None, None
    if shared_bases is not None and can_share(bundle.adapter):  # not qlora's rounded base, not full
        return base, bundle.adapter, shared_bases.get(base, settings.device)
    return base, bundle.adapter, None


def _served_gguf(bundle: Bundle, settings: "InferenceSettings") -> Path:
    file = gguf_file(bundle, settings.llamacpp.quantization)
    logger.info("bundle %s: llama.cpp runs %s", bundle.manifest.version, file.name)
    return file


def gguf_file(bundle: Bundle, quantization: str | None) -> Path:
    """Return a bundle's GGUF file, as it was when it was verified.

    Args:
        bundle: Whose.
        quantization: Its number format; None: `medcode_serving.gguf_folder.SERVED_FIRST` says.

    Raises:
        MedcodeError: the bundle was not exported, or not in that format, or the folder is another bundle's, or the file
            was changed since.
    """
    folder = bundle.path / GGUF
    manifest = read_gguf_manifest(folder)
    if (manifest.recipe, manifest.version) != (bundle.manifest.recipe, bundle.manifest.version):
        raise MedcodeError(f"{folder}: of bundle {manifest.version}; export this one: {EXPORT} --bundle {bundle.path}")
    chosen = manifest.choose(quantization)
    tokenizer = {name: sha256 for name, sha256 in manifest.others.items() if name.startswith(f"{TOKENIZER}/")}
    for name, sha256 in {chosen.file: chosen.sha256, **tokenizer}.items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise MedcodeError(f"{folder / name}: missing, or changed since it was exported; export it anew: {EXPORT}")
    for stray in sorted((folder / TOKENIZER).glob("*")):
        if f"{TOKENIZER}/{stray.name}" not in tokenizer:  # a stray added_tokens.json would change every prompt
            raise MedcodeError(f"{stray}: not of the export; remove it")
    return folder / chosen.file


def _vocabulary(bundle: Bundle, settings: "InferenceSettings") -> Vocabulary:
    """Return the codes that can be written."""
    if settings.model.vocabulary == "trained":
        return Vocabulary.read(bundle.codes)
    from medcode_serving.codes.dictionary import Dictionary

    return Dictionary.read(bundle).vocabulary()
