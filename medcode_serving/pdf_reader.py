"""Reads a PDF inside a process of its own; `medcode_serving.documents` starts it and ends it.

This module imports nothing of the service, so that the process is small and starts fast.
"""

import logging
import sys
from typing import Literal

Outcome = Literal["text", "encrypted", "malformed", "no_text", "too_many_pages", "too_big"]


def read_text(data: bytes, max_pages: int, max_characters: int, memory_bytes: int) -> tuple[Outcome, str]:
    """Return `("text", the text)`, or what stands in the way and the name of pypdf's error.

    No exception leaves: one could quote the document, and one of pypdf's might not survive the way back.
    """
    logging.disable(logging.CRITICAL)  # pypdf's warnings quote the document
    _limit_memory(memory_bytes)
    try:
        return _read(data, max_pages, max_characters)
    except MemoryError:
        return "too_big", "MemoryError"
    except Exception as error:  # noqa: BLE001 - pypdf raises from several hierarchies, and plain TypeErrors too
        name = type(error).__name__
        if name in {"FileNotDecryptedError", "WrongPasswordError"}:
            return "encrypted", name
        return ("too_big" if name == "LimitReachedError" else "malformed"), name


def _limit_memory(memory_bytes: int) -> None:
    if sys.platform != "linux":  # macOS refuses the limit and Windows has none
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _read(data: bytes, max_pages: int, max_characters: int) -> tuple[Outcome, str]:
    import io

    import pypdf

    with pypdf.apply_configuration(zlib_maximum_output_length=50_000_000, stream_parsing_work_maximum_count=1_000_000):
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            return "encrypted", ""
        pages: list[str] = []
        characters = 0
        for number, page in enumerate(reader.pages, start=1):
            if number > max_pages:
                return "too_many_pages", ""
            pages.append(page.extract_text())
            characters += len(pages[-1])
            if characters > max_characters:
                return "too_big", ""
    text = "\n".join(pages).strip()
    # Lone surrogates come out of broken fonts and could be neither tokenized nor sent.
    text = text.encode("utf-8", errors="replace").decode("utf-8")
    return ("text", text) if text else ("no_text", "")
