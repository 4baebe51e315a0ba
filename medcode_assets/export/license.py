"""The base model's licence, which holds for what was made from it."""

import re
import shutil
from pathlib import Path

import yaml

UNKNOWN = "see the base model"
LICENSE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")

_STRING = "tag:yaml.org,2002:str"
_LONGEST = 100
"""Characters of a licence's name."""
_BEGINNING = 500
"""Characters of a licence text that have its title."""
_TITLES = {
    "apache license version 2.0": "apache-2.0",
    "apache-2.0": "apache-2.0",
    "mit license": "mit",
    "permission is hereby granted free of charge": "mit",
    "llama 3.3 community license": "llama3.3",
    "llama 3.2 community license": "llama3.2",
    "llama 3.1 community license": "llama3.1",
    "llama 3 community license": "llama3",
    "llama 2 community license": "llama2",
    "gemma terms of use": "gemma",
    "qwen research license": "qwen-research",
    "deepseek license agreement": "deepseek",
}
"""Title, in lower case, on one line and without commas -> id, as model cards have it."""


def read_license(base: Path) -> str:
    """Return what a base model's folder says of its licence, as in `apache-2.0`.

    Asked are: the front matter of its model card, its licence file's title, the card's section on the licence. Where
    none says anything known, `UNKNOWN`.
    """
    card = _read(base / "README.md")
    found = _from_front_matter(card)
    files = [file for file in license_files(base) if file.name.upper().startswith(("LICENSE", "LICENCE"))]
    section = re.search(r"^#+ *licen[cs]e\s+(.+)", card, re.MULTILINE | re.IGNORECASE)
    texts = [*map(_read, files), section[1] if section else ""]
    return found or next(filter(None, map(_from_title, texts)), UNKNOWN)


def license_files(base: Path) -> list[Path]:
    """Return the files of a base model's folder that have to go with what was made from it."""
    return sorted({file for pattern in LICENSE_FILES for file in base.glob(pattern) if file.is_file()})


def copy_license_files(base: Path, folder: Path) -> list[str]:
    """Copy the base model's licence files, and return their names."""
    files = license_files(base)
    for file in files:
        shutil.copyfile(file, folder / file.name)
    return [file.name for file in files]


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _from_front_matter(card: str) -> str | None:
    block = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", card, re.DOTALL)
    if block is None:
        return None
    try:
        # Nodes and no values: values of a hostile card can fail in many ways (2024-99-99), or fill the memory.
        front = yaml.compose(block[1], Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        return None
    if not isinstance(front, yaml.MappingNode):
        return None
    fields = {key.value: value for key, value in front.value if isinstance(key, yaml.ScalarNode)}
    name = _plain(fields.get("license"))
    if name in (None, "other", "unknown"):
        name = _plain(fields.get("license_name"))
    return re.sub(r"[^\w .+-]", "", name or "").strip() or None  # goes into other files' metadata


def _plain(node: yaml.Node | None) -> str | None:
    """Return a string, or a list of strings as one; None for anything else, or longer than a licence's name."""
    nodes: list[yaml.Node | None] = node.value if isinstance(node, yaml.SequenceNode) else [node]
    words = [one.value for one in nodes if isinstance(one, yaml.ScalarNode) and one.tag == _STRING]
    text = " ".join(words)
    return text if len(words) == len(nodes) and len(text) <= _LONGEST else None


def _from_title(text: str) -> str | None:
    beginning = " ".join(re.sub(r"[,*#]", " ", text[:_BEGINNING]).lower().split())
    return next((known for title, known in _TITLES.items() if title in beginning), None)
