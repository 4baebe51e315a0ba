"""One note as it is sent among many, `{"id": ..., "text": ...}`: what can be read of it, or what is wrong with it.

The API's batches and `medcode predict --jsonl` judge notes alike, one by one.
"""

import json
from dataclasses import dataclass

MAX_ID_CHARACTERS = 200

FORM = '{"id": ..., "text": "..."}'


@dataclass(frozen=True)
class NoteLine:
    """A note, or why it is none: `kind` and `detail` are set if and only if `text` is None."""

    id: str | int | None
    """As sent; None if there is none that can be given back."""
    text: str | None = None
    """Not blank, and valid Unicode."""
    kind: str | None = None
    """invalid_json, invalid_request, empty or not_unicode, as in problem documents."""
    detail: str | None = None
    """One sentence; never quotes what was sent."""


def parse_note_line(line: bytes) -> NoteLine:
    """Return what a line of JSON says; any bytes may be given."""
    try:
        sent = json.loads(line)
    except (ValueError, RecursionError):  # ValueError: no JSON, no UTF-8, or a number of thousands of digits
        return NoteLine(None, kind="invalid_json", detail=f"the line is no JSON in UTF-8; send {FORM}")
    return parse_note(sent)


def parse_note(sent: object) -> NoteLine:
    """Return what a JSON value says; any value may be given. One pass, however much is wrong with it."""
    if not isinstance(sent, dict):
        return NoteLine(None, kind="invalid_request", detail=f"a note is an object, {FORM}")
    note_id, text = sent.get("id"), sent.get("text")
    known = note_id is None or (isinstance(note_id, str | int) and not isinstance(note_id, bool))
    if not known or (isinstance(note_id, str) and (len(note_id) > MAX_ID_CHARACTERS or not is_unicode(note_id))):
        detail = f"id: has to be a whole number, or valid Unicode of at most {MAX_ID_CHARACTERS} characters"
        return NoteLine(None, kind="invalid_request", detail=detail)
    if not sent.keys() <= {"id", "text"}:
        return NoteLine(note_id, kind="invalid_request", detail="unknown field; allowed are: id, text")
    if not isinstance(text, str):
        detail = "text: has to be a string" if "text" in sent else "text: field required"
        return NoteLine(note_id, kind="invalid_request", detail=detail)
    if not text.strip():
        return NoteLine(note_id, kind="empty", detail="the text is empty")
    if not is_unicode(text):
        return NoteLine(note_id, kind="not_unicode", detail="the text holds half of a surrogate pair")
    return NoteLine(note_id, text)


def is_unicode(text: str) -> bool:
    """Tell whether a text has no lone surrogates, which no tokenizer takes (broken JSON or file encodings do)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
