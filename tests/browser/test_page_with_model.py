"""The page before the real service and a tiny real model: what the two say to each other fits together."""

import json
from pathlib import Path

from playwright.sync_api import Browser, expect

from medcode_serving.api import create_app
from medcode_serving.settings import load_inference_settings
from tests.serving.conftest import adapter, base_model, home, make_bundle, vocabulary  # noqa: F401 - fixtures
from tests.serving.test_documents import make_pdf, show

from .conftest import SECONDS_TO_SHOW
from .page_server import running

NOTE = "\U0001f600 Long-standing hypertension.\nType 2 diabetes mellitus, pneumonia."


def test_a_note_and_a_pdf_get_codes_and_evidence(chromium: Browser, home: Path, tmp_path: Path) -> None:  # noqa: F811
    flags = {"model.home": str(home), "device": "cpu", "model.watch_s": 0, "documents.timeout_s": 60}
    settings = load_inference_settings(None, **flags)
    with running(create_app(settings)) as address:
        page = chromium.new_page(base_url=address)
        page.set_default_timeout(SECONDS_TO_SHOW * 1000)
        expect.set_options(timeout=SECONDS_TO_SHOW * 1000)
        page.goto("/ui")
        expect(page.locator("#status")).to_have_text("icd v1")
        page.get_by_label("Text of the note").fill(NOTE)
        page.get_by_label("Text of the note").press("Control+Enter")
        codes = page.locator("button.code")
        expect(codes.first).to_be_visible()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download JSON").click()
        answer = json.loads(Path(download.value.path()).read_text())
        assert answer["model"]["version"] == "v1"
        assert codes.count() == len(answer["codes"])
        for place, code in enumerate(answer["codes"]):
            codes.nth(place).click()
            marked = "".join(page.locator("mark").all_inner_texts())
            assert sorted(marked) == sorted("".join(span["text"] for span in code["evidence"]))
        page.locator("input[type=file]").set_input_files(
            {"name": "letter.pdf", "mimeType": "application/pdf", "buffer": make_pdf(show(b"Type 2 diabetes"))}
        )
        page.get_by_role("button", name="Predict codes").click()
        expect(page.locator("#reading")).to_have_text("Type 2 diabetes")
        page.close()
