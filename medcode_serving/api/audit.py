"""Who had what predicted, and who changed the model: one JSON line each, without the note."""

import hashlib
import json
import logging
import os
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Literal

from fastapi import Request

from medcode_serving.answers import PredictionResponse, WrittenResponse
from medcode_serving.errors import MedcodeError

logger = logging.getLogger(__name__)


class AuditLog:
    """Appends to a file of mode 0600, from any thread; follows a rotation that renames or removes the file.

    What cannot be written (a full disk) is an error in the log and stops no answer.
    """

    def __init__(self, path: Path | None) -> None:
        """Open the file; None for no audit.

        Raises:
            MedcodeError: the file cannot be opened.
        """
        self._handler: _PrivateFileHandler | None = None
        if path is None:
            return
        try:
            self._handler = _PrivateFileHandler(path, encoding="utf-8")
        except OSError as error:
            raise MedcodeError(
                f"logging.audit_file {path}: {error.strerror}; name a file that can be written"
            ) from None

    def prediction(
        self,
        request: Request,
        note: str,
        response: PredictionResponse | WrittenResponse | None,
        *,
        note_id: str | None = None,
        outcome: str = "answered",
    ) -> None:
        """Write one line: who asked, the note's SHA-256 and length, what was answered.

        Args:
            request: After `require` and `RequestLog` have seen it.
            note: The text, or the question; it is not written, and an answer in words neither.
            response: The answer, if there is one.
            note_id: The client's name for the note, in a batch.
            outcome: Of a note without an answer: the kind of its problem.
        """
        if self._handler is None:
            return
        line = {
            **_who(request),
            "note_id": note_id,
            "note_sha256": _sha256(note),
            "characters": len(note),
            "outcome": outcome,
            **(_told(response) if response else {}),
        }
        self._write(line)

    def admin(
        self,
        request: Request,
        action: Literal["reload", "rollback"],
        recipe: str | None,
        version: str | None,
        outcome: str,
    ) -> None:
        """Write one line, and one to the log: who changed, or wanted to change, what serves.

        Args:
            request: After `require` and `RequestLog` have seen it.
            action: What was asked for.
            recipe: One that is served; None if an unknown one was named.
            version: The bundle that was to be loaded; None if there is no such one.
            outcome: loaded, unchanged, or the kind of the problem.
        """
        who = _who(request)
        logger.info(
            "request_id=%s key=%s %s of recipe %s to %s: %s",
            *(who["request_id"], who["key"], action, recipe or "(unknown)", version or "(none)", outcome),
        )
        self._write({**who, "action": action, "recipe": recipe, "version": version, "outcome": outcome})

    def _write(self, line: dict[str, object]) -> None:
        if self._handler is None:
            return
        try:
            self._handler.handle(logging.makeLogRecord({"msg": json.dumps(line)}))
        except OSError as error:
            _report(error)

    def close(self) -> None:
        """Close the file."""
        if self._handler is not None:
            try:
                self._handler.close()
            except OSError as error:  # what a full disk kept in the buffer
                _report(error)


def _who(request: Request) -> dict[str, object]:
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": request.state.request_id,
        "key": request.state.api_key.name,
        "route": request.scope["route"].path,
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _told(response: PredictionResponse | WrittenResponse) -> dict[str, object]:
    if isinstance(response, PredictionResponse):
        return _codes(response)
    report = response.safety_report
    return {
        "recipe": response.model.recipe,
        "version": response.model.version,
        "engine": response.engine,
        "response_sha256": _sha256(response.response),
        "tokens": response.tokens,
        "cut": response.cut,
        "risk_level": report.risk_level if report else None,
        "safety_rules": report.rules if report else None,
        "processing_time_ms": round(response.inference_time_ms, 3),
    }


def _codes(response: PredictionResponse) -> dict[str, object]:
    return {
        "recipe": response.model.recipe,
        "version": response.model.version,
        "engine": response.engine,
        "fallback": response.fallback.reason if response.fallback else None,
        "codes": [f"{code.system}:{code.code}" for code in response.codes],
        "processing_time_ms": round(response.processing_time_ms, 3),
    }


class _PrivateFileHandler(WatchedFileHandler):
    """Opens the file for its owner only, and never prints a line that it could not write."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return open(descriptor, "a", buffering=1, encoding=self.encoding)  # noqa: PTH123 - a path could not set the mode

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # noqa: PLE0704 - logging calls this within its except block


def _report(error: OSError) -> None:
    logger.error("the audit log cannot be written: %s", error.strerror)
