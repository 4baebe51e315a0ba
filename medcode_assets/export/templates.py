"""The texts that go with a GGUF file, as Jinja files beside this module."""

from pathlib import Path
from typing import Any


def fill(name: str, /, **values: Any) -> str:
    """Return a template of this folder, filled in. Raises jinja2.UndefinedError for a value that was not given."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(  # plain text and Markdown, not HTML
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template(name).render(values)
