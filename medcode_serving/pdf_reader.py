"""Reads one PDF in a process of its own; `medcode_serving.documents` starts it and ends it.

Is run by its path, and imports nothing of the service nor of the program that started it, so that the process is small
and starts fast. The PDF comes in on stdin; one line of JSON goes out: the outcome, the text, where each page begins.
"""

import itertools
import json
import logging
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pypdf

Outcome = Literal["text", "encrypted", "malformed", "no_text", "too_many_pages", "too_big"]

_TREE_ENTRIES = 10
"""Nodes of the page tree for each page allowed; a tree with more is no document but an attack."""


def main(arguments: Sequence[str]) -> None:
    """Read stdin, write the answer to stdout.

    Args:
        arguments: Pages, characters, bytes of address space, seconds of CPU time: the limits.
    """
    max_pages, max_characters, memory_bytes, seconds = (float(argument) for argument in arguments)
    logging.disable(logging.CRITICAL)  # pypdf's warnings quote the document
    _limit_process(int(memory_bytes), math.ceil(seconds))
    import pypdf  # noqa: F401 - outside the guard: were it missing, the document would be blamed

    data = sys.stdin.buffer.read()
    sys.stdout.write(json.dumps(read_text(data, int(max_pages), int(max_characters))))


def read_text(data: bytes, max_pages: int, max_characters: int) -> tuple[Outcome, str, list[int]]:
    """Return `("text", the text, where each page begins in it)`, or what stands in the way.

    No exception leaves: one could quote the document.
    """
    try:
        return _read(data, max_pages, max_characters)
    except MemoryError:
        return "too_big", "", []
    except Exception as error:  # noqa: BLE001 - pypdf raises from several hierarchies, and plain TypeErrors too
        name = type(error).__name__
        if name in {"FileNotDecryptedError", "WrongPasswordError"}:
            return "encrypted", "", []
        return ("too_big" if name == "LimitReachedError" else "malformed"), "", []


def _limit_process(memory_bytes: int, seconds: int) -> None:
    if sys.platform != "linux":  # macOS refuses the limit of memory and Windows has none
        return
    import resource

    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: seconds,  # ends the process also where its server was killed and cannot
        resource.RLIMIT_CORE: 0,  # a core file would hold the document
    }
    for which, limit in limits.items():
        hard = resource.getrlimit(which)[1]
        resource.setrlimit(which, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _read(data: bytes, max_pages: int, max_characters: int) -> tuple[Outcome, str, list[int]]:
    import io

    import pypdf

    with pypdf.apply_configuration(
        zlib_maximum_output_length=50_000_000,
        stream_parsing_work_maximum_count=1_000_000,
        page_tree_maximum_entries=_TREE_ENTRIES * max_pages,
    ):
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            return "encrypted", "", []
        if _page_count(reader) > max_pages:
            return "too_many_pages", "", []
        pages: list[str] = []
        characters = 0
        for page in reader.pages:
            pages.append(page.extract_text())
            characters += len(pages[-1])
            if characters > max_characters:
                return "too_big", "", []
    text, starts = join_pages(pages)
    return ("text", text, starts) if text else ("no_text", "", [])


def _page_count(reader: "pypdf.PdfReader") -> float:
    """Return the number of pages; infinity where the tree of pages is larger than any document's."""
    from pypdf.errors import LimitReachedError

    try:
        return len(reader.pages)
    except LimitReachedError:
        return math.inf


def join_pages(pages: Sequence[str]) -> tuple[str, list[int]]:
    """Return the text of all pages, a new line between two, and where each page begins in it.

    Pages of white space alone leave nothing in the text: they begin where the next one does.
    """
    pieces = [page + "\n" if page.strip() else "" for page in pages]
    joined = "".join(pieces)
    # Lone surrogates come out of broken fonts and could be neither tokenized nor sent; each becomes one "?".
    text = joined.strip().encode("utf-8", errors="replace").decode("utf-8")
    before = len(joined) - len(joined.lstrip())
    starts = itertools.accumulate((len(piece) for piece in pieces[:-1]), initial=0)
    return text, [min(max(start - before, 0), len(text)) for start in starts]


if __name__ == "__main__":
    main(sys.argv[1:])
