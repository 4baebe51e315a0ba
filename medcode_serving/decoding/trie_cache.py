"""Code tries kept in files: of 75,000 codes one takes seconds to build and milliseconds to read."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_serving.decoding.trie import FORMAT, CodeTrie, build_trie, load_trie
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def trie_key(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> str:
    """Return a sha256 of all that a trie depends on: tokenizer, end-of-text token, codes, format of the file."""
    backend = tokenizer.backend_tokenizer
    # Truncation and padding are left as its last call set them, and are part of its contents.
    backend.no_truncation()
    backend.no_padding()
    digest = hashlib.sha256(json.dumps([FORMAT, tokenizer.eos_token_id, *texts]).encode())
    digest.update(backend.to_str().encode())
    return digest.hexdigest()


def cached_trie(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], folders: Sequence[Path]) -> CodeTrie:
    """Return the trie from the first folder that has it; else build it and keep it in the last one, if that is allowed.

    Raises:
        MedcodeError: as `build_trie`.
    """
    if not folders:
        return build_trie(tokenizer, texts)
    name = f"{trie_key(tokenizer, texts)}.npz"
    for file in (folder / name for folder in folders):
        if file.is_file():
            try:
                return load_trie(file)
            except MedcodeError as error:
                logger.warning("%s", error)
    trie = build_trie(tokenizer, texts)
    try:
        folders[-1].mkdir(parents=True, exist_ok=True)
        trie.save(folders[-1] / name)
    except OSError as error:
        logger.debug("code trie not kept in %s: %s", folders[-1], type(error).__name__)
    return trie
