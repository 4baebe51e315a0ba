import asyncio
import csv
import os
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_serving import documents
from medcode_serving.documents import Document, DocumentError, page_of, pdf_to_document, read_pdf
from medcode_serving.pdf_reader import join_pages, read_text
from medcode_serving.settings import DocumentSettings

CORPUS = Path(__file__).parents[3] / "shared" / "data" / "pdf"
EXPECTED = {
    "text_ok": {"text"},
    "encrypted_opens_with_empty_password": {"text", "no_text"},
    "encrypted_needs_password": {"encrypted"},
    "parses_no_text_layer": {"no_text"},
    "malformed_raises": {"malformed", "not_a_pdf"},
}
CATALOG = b"<</Type/Catalog/Pages 2 0 R>>"
PAGE = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Resources<</Font<</F 3 0 R>>>>/Contents %d 0 R>>"


def assemble(objects: Sequence[bytes]) -> bytes:
    """A PDF of these objects, the first of them its catalog."""
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj%s\nendobj\n" % (number, body)
    xref = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, xref)
    return bytes(out)


def tree(kids: bytes) -> bytes:
    return b"<</Type/Pages/Count 1/Kids[%s]>>" % kids


def make_pdf(*contents: bytes, pages: int | None = None) -> bytes:
    """A PDF with a page for each content stream, or with so many that all show the first."""
    streams = [zlib.compress(content) for content in contents]
    shown = [4 + number for number in range(len(contents))] if pages is None else [4] * pages
    first = 4 + len(streams)
    kids = b" ".join(b"%d 0 R" % (first + number) for number in range(len(shown)))
    return assemble(
        [CATALOG, tree(kids), b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"]
        + [b"<</Length %d/Filter/FlateDecode>>stream\n%s\nendstream" % (len(packed), packed) for packed in streams]
        + [PAGE % number for number in shown]
    )


def show(text: bytes) -> bytes:
    return b"BT /F 9 Tf (%s) Tj ET" % text


HELLO = make_pdf(show(b"Type 2 diabetes"))
PATIENT = DocumentSettings(timeout_s=60)
"""A process may begin late on a busy machine."""
SLOW = make_pdf(b"BT /F 9 Tf " + b"(x) Tj " * 20_000 + b"ET", pages=200)  # over 10 s


def kind_of(data: bytes, **limits) -> str:
    try:
        pdf_to_document(data, DocumentSettings(timeout_s=60, **limits))
    except DocumentError as error:
        return error.kind
    return "text"


def outcome_of(data: bytes, max_pages: int = 200) -> str:
    """What the reader says, asked in this process: to start one takes as long as fifty small documents."""
    return read_text(data, max_pages, 400_000)[0]


def test_text_comes_out_and_knows_its_pages() -> None:
    document = pdf_to_document(make_pdf(b"", show(b"one"), b"", show(b"two"), b""), PATIENT)
    assert document == Document("one\ntwo", (0, 0, 4, 4, 7))
    assert [page_of(document.pages, offset) for offset in (0, 3, 4, 6)] == [2, 2, 4, 4]


@given(st.lists(st.text(alphabet=" \nab\ud800", max_size=4), min_size=1, max_size=6))
def test_every_page_begins_where_it_says(pages: list[str]) -> None:
    text, starts = join_pages(pages)
    assert text == text.strip() and len(starts) == len(pages) and starts == sorted(starts)
    bounds = [*starts, len(text)]
    for page, start, end in zip(pages, bounds, bounds[1:], strict=False):
        assert text[start:end].strip() == page.strip().replace("\ud800", "?")
        if page.strip():
            assert page_of(starts, end - 1) == page_of(starts, start) == starts.index(start) + starts.count(start)


def test_every_limit_is_kept() -> None:
    assert kind_of(b"") == "not_a_pdf"
    assert kind_of(b"PK\x03\x04 something else") == "not_a_pdf"
    assert kind_of(HELLO, max_bytes=10) == "too_big"
    assert kind_of(HELLO, max_characters=5) == "too_big"
    assert outcome_of(make_pdf(show(b"x"), pages=4), max_pages=3) == "too_many_pages"
    assert outcome_of(make_pdf(b"")) == "no_text"
    assert outcome_of(HELLO[:200]) == "malformed"


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (make_pdf(show(b"x") + b" " * 60_000_000), "too_big"),  # 58 KB that unpack to 60 MB
        (assemble([CATALOG, tree(b"3 0 R"), tree(b"2 0 R")]), "malformed"),  # a cycle
        (assemble([CATALOG, tree(b"3 0 R " * 90_000), PAGE % 9]), "too_many_pages"),  # one page 90,000 times
        (assemble([CATALOG, *(tree(b"%d 0 R" % number) for number in range(3, 2000)), PAGE % 9]), "too_many_pages"),
    ],
    ids=["bomb", "cycle", "repeated", "deep"],
)
def test_hostile_documents_are_refused(data: bytes, outcome: str) -> None:
    assert outcome_of(data) == outcome


def test_a_pdf_that_takes_for_ever_is_ended_and_the_next_one_is_read() -> None:
    before = children()

    async def both() -> Document:
        with pytest.raises(DocumentError) as error:
            await read_pdf(SLOW, DocumentSettings(timeout_s=1.5))
        assert error.value.kind == "timeout"
        assert children() <= before
        return await read_pdf(HELLO, PATIENT)

    assert anyio.run(both).text == "Type 2 diabetes"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_whoever_goes_away_ends_the_reading_and_few_are_read_at_once() -> None:
    before = children()

    async def leave() -> int:
        reading = [asyncio.create_task(read_pdf(SLOW, PATIENT)) for _ in range(documents.READERS + 2)]
        while len(children() - before) < documents.READERS:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        at_once = len(children() - before)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        return at_once

    assert asyncio.run(leave()) == documents.READERS
    assert children() <= before


def test_too_many_that_wait_are_refused_and_told_when_to_come_back() -> None:
    async def crowd() -> DocumentError:
        waiting = [
            asyncio.create_task(read_pdf(SLOW, PATIENT)) for _ in range(documents.READERS + documents.MAX_WAITING)
        ]
        await asyncio.sleep(0)
        with pytest.raises(DocumentError) as refused:
            await read_pdf(HELLO, DocumentSettings(timeout_s=7))
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert (await read_pdf(HELLO, PATIENT)).text == "Type 2 diabetes"
        return refused.value

    error = asyncio.run(crowd())
    assert (error.kind, error.retry_after) == ("busy", 7)


def children() -> set[int]:
    """Readers that this process started and that run, or ended and were not waited for; so may others' processes be."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"PPid:\t{os.getpid()}\n" in (entry / "status").read_text():
                command = (entry / "cmdline").read_bytes()
                if b"pdf_reader.py" in command or not command:
                    found.add(int(entry.name))
        except OSError:  # it ended meanwhile
            continue
    return found


@pytest.mark.skipif(not CORPUS.is_dir(), reason=f"no corpus of PDFs in {CORPUS}")
def test_the_corpus_ends_in_text_or_a_typed_error() -> None:
    with (CORPUS / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 81
    outcomes = {}
    for row in rows:
        data = (CORPUS / row["file"]).read_bytes()
        outcomes[row["file"]] = outcome_of(data) if b"%PDF-" in data[:1024] else "not_a_pdf"
    assert [row["file"] for row in rows if outcomes[row["file"]] not in EXPECTED[row["category"]]] == []
