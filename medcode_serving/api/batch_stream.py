"""Notes as a stream of JSON lines: answered while they arrive, in their order, within bounded memory.

Three tasks: one receives the body, one cuts it into lines and starts notes, one sends results. Only the first calls
`receive`, of which a server has one. What bounds the memory:

- Notes in work: when all slots are taken, no more of the body is read, and so the client cannot send.
- Results that cannot be sent yet, because an earlier note is not done or the client does not read. Many clients send
  everything before they read; not to read their body until they read results would stop both sides for ever. So results
  are held up to `HELD_BYTES`. A client that neither takes the next result nor sends for a while is given up.
"""

import logging
import math
from collections.abc import AsyncIterator, Iterator

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream, TaskGroup
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from medcode_serving.api.batch_notes import NoteAnswerer
from medcode_serving.note_lines import NoteLine, parse_note_line

HELD_BYTES = 64 << 20
"""Of results that wait to be sent: about 20,000, or 50,000 problems."""
RESULT_BYTES = 1000
"""What a result takes beside its text."""
CHUNKS_AHEAD = 4
"""Pieces of the body that are received before they are needed, so that a client's leaving is noticed early."""

logger = logging.getLogger(__name__)


class Lines:
    """Cuts a stream of bytes into lines; of one that is too long, only its end is looked for."""

    def __init__(self, max_bytes: int) -> None:
        """Take the most bytes of a line."""
        self._max_bytes = max_bytes
        self._held = bytearray()
        self._too_long = False

    def feed(self, chunk: bytes) -> Iterator[bytes | None]:
        """Yield the lines that end in this chunk, without their ends; None stands for one that is too long."""
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            self._add(part)
            yield self._line()
        self._add(rest)

    def end(self) -> Iterator[bytes | None]:
        """Yield the last line if nothing ended it."""
        if self._held or self._too_long:
            yield self._line()

    def _add(self, part: bytes) -> None:
        self._too_long = self._too_long or len(self._held) + len(part) > self._max_bytes
        if self._too_long:
            self._held.clear()
        else:
            self._held += part

    def _line(self) -> bytes | None:
        line = None if self._too_long else bytes(self._held)
        self._held.clear()
        self._too_long = False
        return line


def parse_line(line: bytes | None, max_bytes: int) -> NoteLine:
    """Return what a line says; None stands for one that is too long."""
    if line is not None:
        return parse_note_line(line)
    detail = f"the line has more than {max_bytes} bytes (api.max_body_bytes)"
    return NoteLine(None, kind="line_too_long", detail=detail)


class _Pending:
    """The result of a line, once it is there."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.encoded = b""

    @property
    def size(self) -> int:
        """Bytes in memory, once it is done."""
        return len(self.encoded) + RESULT_BYTES


class BatchStream(Response):
    """The response to a stream of lines; reads the request's body while it is sent."""

    def __init__(self, answerer: NoteAnswerer, *, media_type: str, max_line_bytes: int, patience_s: float) -> None:
        """Prepare; nothing is read yet.

        Args:
            answerer: Answers the notes.
            media_type: Of the results.
            max_line_bytes: A longer line becomes a problem and is not held in memory.
            patience_s: Seconds that a client may leave results unread while it sends nothing, or cannot send because
                no more results can be held.
        """
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers()
        self._answerer = answerer
        self._max_line_bytes = max_line_bytes
        self._patience_s = patience_s
        self._begun = anyio.Event()
        self._held = 0
        self._sent = anyio.Event()
        self._sending = anyio.CancelScope()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer until the body ends or the client leaves."""
        to_read, chunks = anyio.create_memory_object_stream[bytes](CHUNKS_AHEAD)
        to_send, results = anyio.create_memory_object_stream[_Pending](math.inf)
        # The group innermost: if the server cancels this, the tasks have to end before their streams close.
        async with to_read, chunks, to_send, results, anyio.create_task_group() as group:
            group.start_soon(self._receive, receive, to_read, group)
            group.start_soon(self._read, chunks, to_send, group)
            await self._send(results, send)
            group.cancel_scope.cancel()  # ends the wait for a disconnect

    async def _receive(self, receive: Receive, to_read: ObjectSendStream[bytes], group: TaskGroup) -> None:
        """Pass the body on; when the client leaves, cancel everything."""
        more = True
        while (message := await receive())["type"] != "http.disconnect":
            # Only now: a client that announced `Expect: 100-continue` must be told to go on before it has an answer.
            self._begun.set()
            self._be_patient()
            if more and message.get("body"):
                await to_read.send(message["body"])
            if more and not message.get("more_body"):
                more = False
                await to_read.aclose()
        group.cancel_scope.cancel()

    async def _read(
        self, chunks: ObjectReceiveStream[bytes], to_send: ObjectSendStream[_Pending], group: TaskGroup
    ) -> None:
        """Start the notes, as many at once as there are slots."""
        async with to_send:
            async for number, line in self._numbered(chunks):
                await self._wait_for_room()
                await self._answerer.slots.acquire()
                pending = _Pending()
                await to_send.send(pending)
                group.start_soon(self._answer, parse_line(line, self._max_line_bytes), number, pending)

    async def _numbered(self, chunks: ObjectReceiveStream[bytes]) -> AsyncIterator[tuple[int, bytes | None]]:
        """Yield the lines that are not blank with their numbers."""
        lines = Lines(self._max_line_bytes)
        number = 0
        async for chunk in chunks:
            for line in lines.feed(chunk):
                number += 1
                if line is None or line.strip():
                    yield number, line
        for line in lines.end():
            if line is None or line.strip():
                yield number + 1, line

    async def _answer(self, note: NoteLine, number: int, pending: _Pending) -> None:
        try:
            result = await self._answerer.answer(note, number)
        finally:
            self._answerer.slots.release()
        pending.encoded = result.encoded() + b"\n"
        self._held += pending.size
        pending.done.set()
        self._be_patient()

    def _be_patient(self) -> None:
        """Give the result in hand its whole time again: the client has sent something, or has been kept waiting."""
        self._sending.deadline = anyio.current_time() + self._patience_s

    async def _wait_for_room(self) -> None:
        """Wait while too many results are held."""
        while self._held > HELD_BYTES:
            self._sent = anyio.Event()
            await self._sent.wait()

    async def _send(self, results: ObjectReceiveStream[_Pending], send: Send) -> None:
        """Send each result as soon as it and all before it are there; give up a client that does not read them."""
        await self._begun.wait()
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for pending in results:
            await pending.done.wait()
            with anyio.move_on_after(self._patience_s) as self._sending:
                await send({"type": "http.response.body", "body": pending.encoded, "more_body": True})
            if self._sending.cancelled_caught:
                logger.warning("a client of /predict/batch reads no results; connection given up")
                return
            self._held -= pending.size
            self._sent.set()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
