"""From a PDF to its text, whatever the PDF holds: in a guarded process, within limits of size, time and memory."""

from typing import Literal

import anyio
import anyio.to_process

from medcode_serving.errors import MedcodeError
from medcode_serving.pdf_reader import read_text
from medcode_serving.settings import DocumentSettings

Kind = Literal["too_big", "not_a_pdf", "encrypted", "malformed", "no_text", "too_many_pages", "timeout"]


class DocumentError(MedcodeError):
    """A PDF that gives no text; `kind` says why in one word."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: Kind = kind


def pdf_to_text(data: bytes, limits: DocumentSettings) -> str:
    """Return a PDF's text; for callers without an event loop. See `read_pdf`."""
    return anyio.run(read_pdf, data, limits)


async def read_pdf(data: bytes, limits: DocumentSettings) -> str:
    """Return a PDF's text, its pages joined by new lines.

    Raises:
        DocumentError: the PDF is over a limit, encrypted, malformed, a scan without text, or no PDF.
    """
    if len(data) > limits.max_bytes:
        raise _error("too_big", limits)
    if b"%PDF-" not in data[:1024]:
        raise _error("not_a_pdf", limits)
    try:
        with anyio.fail_after(limits.timeout_s):
            outcome, answer = await anyio.to_process.run_sync(
                read_text, data, limits.max_pages, limits.max_characters, limits.memory_bytes, cancellable=True
            )
    except TimeoutError:
        raise _error("timeout", limits) from None
    except (anyio.BrokenWorkerProcess, MemoryError):
        raise _error("malformed", limits) from None  # the reading process died of it
    if outcome == "text":
        return answer
    raise _error(outcome, limits)


def _error(kind: Kind, limits: DocumentSettings) -> DocumentError:
    megabytes = limits.max_bytes / 1e6
    message = {
        "too_big": f"the PDF is over {megabytes:g} MB, {limits.max_characters} characters, or needs too much memory; "
        "split it, or raise the limits under `documents`",
        "not_a_pdf": "the file is no PDF; send plain text as text",
        "encrypted": "the PDF is encrypted; save it without a password",
        "malformed": "the PDF is damaged and cannot be read; save it anew",
        "no_text": "the PDF holds no text, it is probably a scan; run text recognition (OCR) on it first",
        "too_many_pages": f"the PDF has more than {limits.max_pages} pages; split it, or raise documents.max_pages",
        "timeout": f"the PDF was not read within {limits.timeout_s:g} s; split it, or raise documents.timeout_s",
    }
    return DocumentError(kind, message[kind])
