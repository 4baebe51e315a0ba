"""What a coder sees and does on the page at /ui, in a real Chromium; behind it stands in an API that tests instruct."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from medcode_serving.answers import Fallback

from .conftest import SECONDS_TO_SHOW, keep_for_good
from .page_server import PDF_PAGES, StubApi, create_stub, running

NOTE = "\U0001f600\U0001f3e5 Seen at home. Hypertension for years.\nNow AKI with a creatinine of 2.1.\n"
HOSTILE = "AKI <script>document.title = 'x'</script><img src=x onerror=\"document.title = 'x'\"> & Hypertension"


@pytest.fixture(scope="module")
def api() -> StubApi:
    return StubApi()


@pytest.fixture(scope="module")
def ui(chromium: Browser, api: StubApi) -> Iterator[str]:
    """The page's server. Asking for Chromium first: without it the tests are skipped."""
    with running(create_stub(api)) as address:
        yield address


@dataclass
class Tab:
    """One tab for all tests: a new one takes longer than most of them."""

    page: Page
    elsewhere: list[str] = field(default_factory=list)
    """Addresses on other servers that were asked for."""
    complaints: list[str] = field(default_factory=list)
    """What the console says: errors, and whatever breaks the content security policy."""


@pytest.fixture(scope="module")
def tab(chromium: Browser, ui: str) -> Iterator[Tab]:
    context = chromium.new_context(base_url=ui, viewport={"width": 1280, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab = Tab(context.new_page())
    here = (f"{ui}/", f"blob:{ui}/")
    tab.page.on("request", lambda request: request.url.startswith(here) or tab.elsewhere.append(request.url))
    tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    # A status of 4xx or 5xx is in the console too; those are answers that the tests ask for.
    answer = "Failed to load resource: the server responded"
    tab.page.on("console", lambda message: message.text.startswith(answer) or tab.complaints.append(message.text))
    yield tab
    context.close()


@pytest.fixture
def page(tab: Tab, api: StubApi) -> Iterator[Page]:
    """The page, opened anew; whatever a test does, it calls no other server and has nothing to complain of."""
    api.reset()
    tab.page.set_default_timeout(SECONDS_TO_SHOW * 1000)
    expect.set_options(timeout=SECONDS_TO_SHOW * 1000)
    tab.page.goto("/ui")
    expect(tab.page.locator("#status")).to_have_text("icd 20261120-1")
    yield tab.page
    api.release.set()
    assert (tab.elsewhere, tab.complaints) == ([], [])


def predict(page: Page, note: str) -> None:
    page.get_by_label("Text of the note").fill(note)
    page.get_by_label("Text of the note").press("Control+Enter")


def expect_marks(page: Page, *texts: str) -> None:
    expect(page.locator("mark")).to_have_text(list(texts))


def test_a_code_that_is_chosen_shows_its_evidence_in_the_note(page: Page) -> None:
    predict(page, NOTE)
    codes = page.locator("button.code")
    expect(codes.locator("b")).to_have_text(["I10", "N17.9", "E86.0"])  # sent the other way round
    expect(codes.first).to_contain_text("ICD-10-CM")
    expect(codes.first).to_contain_text("Essential (primary) hypertension")
    expect(codes.first).to_contain_text("93%")
    expect_marks(page)

    codes.first.click()
    expect_marks(page, "Hypertension")  # the emoji before it are one code point each, and two in JavaScript
    page.keyboard.press("ArrowDown")
    expect_marks(page, "AKI", "creatinine of 2.1")
    strong, weak = (page.locator("mark").nth(i).evaluate("m => getComputedStyle(m).backgroundColor") for i in (0, 1))
    assert strong != weak
    page.keyboard.press("ArrowDown")
    expect_marks(page)
    expect(page.locator(".detail:visible")).to_contain_text("No evidence found.")
    page.keyboard.press("Enter")
    expect(page.locator(".detail:visible")).to_have_count(0)
    assert page.locator("#reading").evaluate("view => view.textContent") == NOTE

    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Text of the note").press_sequentially("x")
    expect(page.get_by_text("The note on the left was changed since.")).to_be_visible()


def test_a_note_with_markup_stays_text(page: Page) -> None:
    predict(page, HOSTILE)
    page.locator("button.code").first.click()
    expect_marks(page, "Hypertension")
    assert page.locator("#reading").evaluate("view => view.textContent") == HOSTILE
    assert page.locator("#reading").locator("script, img").count() == 0
    assert page.title() == "medcode"


def test_the_answer_can_be_downloaded_and_copied(page: Page, tmp_path: Path) -> None:
    with page.expect_response("**/predict") as answered:
        predict(page, NOTE)
    with page.expect_download() as downloaded:
        page.get_by_role("button", name="Download JSON").click()
    downloaded.value.save_as(tmp_path / "answer.json")
    assert json.loads((tmp_path / "answer.json").read_text()) == answered.value.json()

    keep_for_good(page)
    page.get_by_role("button", name="Copy codes").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert copied[0].split("\t") == ["icd10cm", "I10", "Essential (primary) hypertension", "0.93"]
    assert len(copied) == 3


def test_a_pdf_is_sent_with_the_options_and_shown_as_it_was_read(page: Page, api: StubApi) -> None:
    page.get_by_label("Threshold").fill("75")
    page.get_by_label("Long notes").select_option("windows")
    page.get_by_label("Codes at most").fill("5")
    letter = {"name": "Jane Doe.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.7 made up"}
    page.get_by_label("Note as a file").set_input_files(letter)
    expect(page.get_by_text("Jane Doe.pdf, 1 kB")).to_be_visible()
    page.get_by_role("button", name="Predict codes").click()
    expect(page.get_by_text("Jane Doe.pdf, 2 pages")).to_be_visible()
    asked = api.asked[0].model_dump(exclude_defaults=True, exclude={"file"})
    assert asked == {
        "threshold": 0.75,
        "top_k": 5,
        "evidence": "lexical",
        "long_notes": "windows",
        "include_text": True,
    }
    assert api.asked[0].file.filename == "note.pdf"  # type: ignore[attr-defined]

    assert page.locator("#reading").evaluate("view => view.textContent") == "".join(PDF_PAGES)
    page.get_by_role("button", name="E11.9").click()
    expect_marks(page, "T2DM")
    expect(page.locator(".detail:visible")).to_contain_text("page 2")


def test_the_key_is_asked_for_and_only_then(page: Page, api: StubApi) -> None:
    expect(page.get_by_label("API key")).to_be_hidden()
    api.key = "correct-horse"
    predict(page, NOTE)
    page.get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Use key").click()
    expect(page.get_by_text("The server did not accept this key.")).to_be_visible()
    page.get_by_label("API key").fill("correct-horse")
    page.get_by_role("button", name="Use key").click()
    expect(page.locator("button.code")).to_have_count(3)
    expect(page.get_by_label("API key")).to_be_hidden()
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_a_problem_is_shown_and_no_code_of_an_earlier_note(page: Page, api: StubApi) -> None:
    predict(page, NOTE)
    expect(page.locator("button.code")).to_have_count(3)
    document = {"type": "urn:medcode:problem:queue_full", "title": "Service Unavailable", "status": 503}
    document |= {"detail": "256 notes are waiting", "request_id": "5f0c77aa"}
    api.problem = (503, document, {"Retry-After": "7"})
    page.keyboard.press("Control+Enter")
    alert = page.get_by_role("alert")
    expect(alert).to_have_text("256 notes are waiting. Try again in 7 s. Request 5f0c77aa")
    expect(page.locator("button.code")).to_have_count(0)
    expect(page.get_by_role("button", name="Download JSON")).to_be_disabled()
    expect(page.get_by_label("Text of the note")).to_have_value(NOTE)
    for document, words in [
        ({"detail": "allow `windows` for it"}, "Allow windows for it."),
        ({"title": "Bad Gateway"}, "Bad Gateway."),
        ({"type": "urn:medcode:problem:too_long"}, "under Long notes choose Shorten or Read in windows."),
    ]:
        api.problem = (422, document, {})
        page.keyboard.press("Control+Enter")
        expect(alert).to_contain_text(words)


def test_an_answer_says_how_to_read_it(page: Page, api: StubApi) -> None:
    caution = page.get_by_text("A code that is missing here may still apply; a denied condition may have been coded.")
    expect(caution).to_be_hidden()
    predict(page, NOTE)
    expect(caution).to_be_visible()
    expect(page.locator("#provenance")).to_contain_text("threshold 41%, the line in each bar · 413 ms")
    bar = page.locator(".probability").first
    assert bar.get_attribute("title") == "Probability 0.930; the line is the threshold, 0.410"
    api.changes = {"processing_time_ms": 3560.0}
    page.keyboard.press("Control+Enter")
    expect(page.locator("#provenance")).to_contain_text("3.6 s")


def test_the_example_can_be_undone(page: Page) -> None:
    note = page.get_by_label("Text of the note")
    note.press_sequentially("Typed before.")
    page.get_by_role("button", name="Example").click()
    expect(note).to_have_value(re.compile("^Name: ___"))
    page.keyboard.press("Control+z")
    expect(note).to_have_value("Typed before.")


def test_a_prediction_can_be_cancelled(page: Page, api: StubApi) -> None:
    api.release.clear()
    predict(page, NOTE)
    expect(page.get_by_text("Predicting…")).to_be_visible()
    with page.expect_event("requestfailed"):
        page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("button", name="Predict codes")).to_be_enabled()
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.get_by_label("Text of the note")).to_have_value(NOTE)


def test_what_is_special_about_an_answer_is_said(page: Page, api: StubApi) -> None:
    fallback = Fallback(engine="transformers", reason="timeout")
    api.changes = {"fallback": fallback, "engine": "linear", "truncated": True, "dropped": 2, "windows": 3}
    predict(page, NOTE)
    said = page.get_by_role("list", name="Remarks on this answer")
    expect(said).to_contain_text("Fallback: the language model was too slow. These codes are from the linear baseline.")
    expect(said).to_contain_text("its least telling sections were not read")
    expect(said).to_contain_text("2 fragments of the model's answer matched no code")
    expect(said).to_contain_text("read in 3 pieces")


def test_reasoning_stands_apart_from_the_codes(page: Page, api: StubApi) -> None:
    predict(page, NOTE)
    shown = page.get_by_role("region", name="Reasoning")
    expect(shown).to_be_hidden()
    page.get_by_role("button", name="Edit").click()
    api.changes = {"reasoning": "- cough for four days\n- chest film <b>clear</b>"}
    predict(page, NOTE)
    expect(shown.get_by_role("listitem")).to_have_text(["cough for four days", "chest film <b>clear</b>"])


def test_the_model_is_described_and_a_new_version_noticed(page: Page, api: StubApi) -> None:
    page.locator("summary").click()
    expect(page.locator("#card")).to_contain_text("mimic-iv-3.1")
    expect(page.get_by_role("row", name="Micro F1")).to_contain_text("0.900 (0.89–0.91)")
    api.version = "20261121-1"
    look_again = "document.dispatchEvent(new Event('visibilitychange'))"  # sooner than in ten seconds
    page.evaluate(look_again)
    expect(page.locator("#news")).to_contain_text("icd 20261121-1")
    expect(page.locator("#card")).to_contain_text("20261121-1")
    api.last_reload = {"version": "20261122-1", "outcome": "failed", "reason": "a checksum differs"}
    page.evaluate(look_again)
    expect(page.locator("#news")).to_contain_text("could not be loaded: a checksum differs")
