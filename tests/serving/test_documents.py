import csv
import zlib
from pathlib import Path

import anyio
import pytest

from medcode_serving.documents import DocumentError, pdf_to_text, read_pdf
from medcode_serving.settings import DocumentSettings

CORPUS = Path(__file__).parents[3] / "shared" / "data" / "pdf"
EXPECTED = {
    "text_ok": {"text"},
    "encrypted_opens_with_empty_password": {"text", "no_text"},
    "encrypted_needs_password": {"encrypted"},
    "parses_no_text_layer": {"no_text"},
    "malformed_raises": {"malformed", "not_a_pdf"},
}


def make_pdf(content: bytes, pages: int = 1) -> bytes:
    """A PDF whose pages all show one compressed content stream."""
    packed = zlib.compress(content)
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>" % (pages, b" ".join(b"%d 0 R" % (5 + n) for n in range(pages))),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        b"<</Length %d/Filter/FlateDecode>>stream\n%s\nendstream" % (len(packed), packed),
    ] + [b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Resources<</Font<</F 3 0 R>>>>/Contents 4 0 R>>"] * pages
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


HELLO = make_pdf(b"BT /F 9 Tf (Type 2 diabetes) Tj ET")


def kind_of(data: bytes, **limits) -> str:
    try:
        pdf_to_text(data, DocumentSettings(**limits))
    except DocumentError as error:
        return error.kind
    return "text"


def test_text_comes_out() -> None:
    assert pdf_to_text(HELLO, DocumentSettings()) == "Type 2 diabetes"


def test_every_limit_is_kept() -> None:
    assert kind_of(b"") == "not_a_pdf"
    assert kind_of(b"PK\x03\x04 something else") == "not_a_pdf"
    assert kind_of(HELLO, max_bytes=10) == "too_big"
    assert kind_of(HELLO, max_characters=5) == "too_big"
    assert kind_of(make_pdf(b"BT /F 9 Tf (x) Tj ET", pages=4), max_pages=3) == "too_many_pages"
    assert kind_of(make_pdf(b"")) == "no_text"
    assert kind_of(HELLO[:200]) == "malformed"


def test_a_pdf_that_takes_for_ever_is_ended() -> None:
    slow = make_pdf(b"BT /F 9 Tf " + b"(x) Tj " * 900_000 + b"ET")
    assert kind_of(slow, timeout_s=0.8) == "timeout"


@pytest.mark.skipif(not CORPUS.is_dir(), reason=f"no corpus of PDFs in {CORPUS}")
def test_the_corpus_ends_in_text_or_a_typed_error() -> None:
    with (CORPUS / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 81

    async def read_all() -> dict[str, str]:
        outcomes = {}
        for row in rows:
            try:
                await read_pdf((CORPUS / row["file"]).read_bytes(), DocumentSettings())
                outcomes[row["file"]] = "text"
            except DocumentError as error:
                outcomes[row["file"]] = error.kind
        return outcomes

    outcomes = anyio.run(read_all)
    assert [row["file"] for row in rows if outcomes[row["file"]] not in EXPECTED[row["category"]]] == []
