"""A base model whose tokenizer has special tokens added: made once beside the downloaded ones, and the same anywhere.

The embedding of a new token begins as the mean of those that its text had before. What training learns of it is in the
adapter; so a bundle names the plain base model and the tokens, and nobody has to ship the changed one.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import torch

TOKENIZER, CONFIG, WEIGHTS, INDEX = "tokenizer.json", "config.json", "model.safetensors", "model.safetensors.index.json"
EMBEDDINGS: tuple[str, ...] = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
EMBEDDINGS += ("lm_head.weight", "embed_out.weight", "lm_head.bias")
"""Ends of the names of tensors that have a row a token."""
FORMAT = 1
"""Of what is made; another number, another folder."""


def extended_revision(revision: str, tokens: Sequence[str]) -> str:
    """Return the revision of a base model with added tokens: the plain one's, and what was added."""
    return f"{revision}+{hashlib.sha256(json.dumps([FORMAT, *tokens]).encode()).hexdigest()[:12]}"


def plain_revision(revision: str) -> str:
    """Return the revision of the plain base model."""
    return revision.partition("+")[0]


def added_token_ids(folder: Path, tokens: Sequence[str]) -> list[int]:
    """Return the ids of tokens in a model folder's tokenizer. Raises MedcodeError if it lacks one."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    ids = {token: tokenizer.token_to_id(token) for token in tokens}
    for token, found in ids.items():
        if found is None:
            raise MedcodeError(f"{folder / TOKENIZER}: has no token {token!r}; remove the folder, it is made anew")
    return [found for found in ids.values() if found is not None]


def with_added_tokens(plain: Path, tokens: Sequence[str], target: Path) -> Path:
    """Make a copy of a model folder with special tokens added, unless it is there; return it.

    Weights that stay are hard links where the file system has them.

    Args:
        plain: Folder of the base model.
        tokens: Texts of the new tokens; one that the tokenizer has already keeps its id and its embedding.
        target: Folder to make.

    Raises:
        MedcodeError: the base model has no tokenizer.json, or the target cannot be written.
    """
    if target.is_dir():
        return target
    if not (plain / TOKENIZER).is_file():
        raise MedcodeError(f"{plain / TOKENIZER}: missing, and tokens are added there; take a base model that has one")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise MedcodeError(f"{target.parent}: {error.strerror}; a base model with added tokens is kept there") from None
    try:
        for file in plain.iterdir():
            if file.is_file():
                _link(file.resolve(), aside / file.name)
        made_of = _extend_tokenizer(aside, tokens)
        if made_of:
            _extend_weights(aside, made_of)
        aside.chmod(0o755)
        aside.rename(target)
    except OSError as error:
        if target.is_dir():  # somebody else made it meanwhile
            return target
        raise MedcodeError(f"{target}: {error.strerror}; a base model with added tokens is kept there") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _extend_tokenizer(folder: Path, tokens: Sequence[str]) -> dict[int, list[int]]:
    """Add the tokens; return for each new id the ids that its text had before."""
    from tokenizers import AddedToken, Tokenizer

    file = folder / TOKENIZER
    tokenizer = Tokenizer.from_file(str(file))
    new = [token for token in tokens if tokenizer.token_to_id(token) is None]
    before = [tokenizer.encode(token, add_special_tokens=False).ids for token in new]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in new])
    file.unlink()  # a link: the plain model's file must stay as it is
    tokenizer.save(str(file))
    return dict(zip(added_token_ids(folder, new), before, strict=True))


def _extend_weights(folder: Path, made_of: dict[int, list[int]]) -> None:
    """Give the new tokens their rows, in the files that hold embeddings; the others stay."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    config = json.loads((folder / CONFIG).read_text())
    size = max(int(config["vocab_size"]), max(made_of) + 1)
    index = folder / INDEX
    names: dict[str, str] = json.loads(index.read_text())["weight_map"] if index.exists() else {}
    for file in sorted({folder / name for name in names.values()} or {folder / WEIGHTS}):
        with safe_open(file, "pt") as opened:
            embeddings = [name for name in opened.keys() if name.endswith(EMBEDDINGS)]  # noqa: SIM118 - no mapping
            about: Any = opened.metadata()
        if not embeddings:
            continue
        tensors = load_file(file)
        for name in embeddings:
            tensors[name] = _with_rows(tensors[name], size, made_of)
        file.unlink()
        save_file(tensors, file, metadata=about)
        file.chmod(0o644)
    (folder / CONFIG).unlink()
    (folder / CONFIG).write_text(json.dumps({**config, "vocab_size": size}, indent=2) + "\n")


def _with_rows(matrix: "torch.Tensor", size: int, made_of: dict[int, list[int]]) -> "torch.Tensor":
    import torch

    extended = torch.zeros(max(size, len(matrix)), *matrix.shape[1:], dtype=matrix.dtype)
    extended[: len(matrix)] = matrix
    for token, ids in made_of.items():
        extended[token] = matrix[ids].double().mean(0).to(matrix.dtype)
    return extended
