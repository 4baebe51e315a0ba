"""From a PDF to its text, whatever the PDF holds: in a guarded process, within limits of size, time and memory.

Every PDF gets a fresh process. It costs a third of a second, where a process kept warm (`anyio.to_process`) costs
milliseconds, but then nothing of one patient's document is there while the next one's is read, no hostile document
leaves its memory behind, and the program that called is not imported again into the child.
"""

import json
import signal
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio
from anyio.lowlevel import RunVar

from medcode_serving.errors import MedcodeError
from medcode_serving.settings import DocumentSettings

Kind = Literal["too_big", "not_a_pdf", "encrypted", "malformed", "no_text", "too_many_pages", "timeout", "busy"]

READERS = 4
"""PDFs read at the same time in one event loop; more wait. Each may take a core for all of `documents.timeout_s` and
`documents.memory_bytes` of memory, 4 GB together with the default, beside the model that the server holds."""

MAX_WAITING = 4 * READERS
"""PDFs that wait for a reader; more are refused. With slow ones in front, the last waits 4 x `documents.timeout_s`."""

_READER = Path(__file__).with_name("pdf_reader.py")
_readers: RunVar[anyio.CapacityLimiter] = RunVar("_readers")


@dataclass(frozen=True)
class Document:
    """The text of a PDF."""

    text: str
    pages: tuple[int, ...]
    """Index in `text` of the first character of each page, ascending; pages without text begin where the next does."""


class DocumentError(MedcodeError):
    """A PDF that gives no text; `kind` says why in one word.

    `retry_after` is the number of seconds after which it may be sent again; None where that would not help.
    """

    def __init__(self, kind: Kind, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.retry_after = retry_after


def page_of(pages: Sequence[int], offset: int) -> int:
    """Return the page, counted from 1, that a character of the text stands on.

    Args:
        pages: `Document.pages`.
        offset: Index in `Document.text`.
    """
    return bisect_right(pages, offset)


def pdf_to_document(data: bytes, limits: DocumentSettings) -> Document:
    """Return a PDF's text; for callers without an event loop. See `read_pdf`."""
    return anyio.run(read_pdf, data, limits)


async def read_pdf(data: bytes, limits: DocumentSettings) -> Document:
    """Return a PDF's text, its pages joined by new lines.

    The time limit begins when one of the `READERS` is free. A caller who is cancelled ends the reading process.

    Raises:
        DocumentError: the PDF is over a limit, encrypted, malformed, a scan without text, or no PDF; or too many wait.
    """
    if len(data) > limits.max_bytes:
        raise _error("too_big", limits)
    if b"%PDF-" not in data[:1024]:
        raise _error("not_a_pdf", limits)
    limiter = _limiter()
    if limiter.statistics().tasks_waiting >= MAX_WAITING:
        raise _error("busy", limits)
    async with limiter:
        try:
            with anyio.fail_after(limits.timeout_s):
                exit_code, answer = await _run_reader(data, limits)
        except TimeoutError:
            raise _error("timeout", limits) from None
    if exit_code > 0:
        raise RuntimeError(f"the PDF reader ended with exit code {exit_code}: is pypdf installed in {sys.executable}?")
    if exit_code < 0:  # the process died of the document
        raise _error("timeout" if -exit_code == getattr(signal, "SIGXCPU", None) else "malformed", limits)
    outcome, text, pages = json.loads(answer)
    if outcome != "text":
        raise _error(outcome, limits)
    return Document(text, tuple(pages))


def _limiter() -> anyio.CapacityLimiter:
    try:
        return _readers.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(READERS)
        _readers.set(limiter)
        return limiter


async def _run_reader(data: bytes, limits: DocumentSettings) -> tuple[int, bytes]:
    """Return the reader's exit code (below 0: the signal that ended it) and what it wrote."""
    # A second more of CPU time than of the clock: who waits ends it first. -P: this folder's modules are not libraries.
    numbers = (limits.max_pages, limits.max_characters, limits.memory_bytes, limits.timeout_s + 1)
    command = [sys.executable, "-P", str(_READER), *map(str, numbers)]
    async with await anyio.open_process(command, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            # It answers only when it has read everything, so neither side waits for the other's full pipe.
            await process.stdin.send(data)
            await process.stdin.aclose()
            answer = b"".join([chunk async for chunk in process.stdout])
            return await process.wait(), answer
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return await process.wait(), b""  # it ended before it had read everything
        finally:
            # anyio ends a process for its own cancellation, not for asyncio's `Task.cancel`.
            if process.returncode is None:
                process.kill()


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
        "busy": "too many PDFs are waiting to be read; try again later",
    }
    # By then the readers are done with what they read now.
    return DocumentError(kind, message[kind], retry_after=limits.timeout_s if kind == "busy" else None)
