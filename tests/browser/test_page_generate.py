"""The page's tab for questions, in a real Chromium before the real service; the words of most answers are chosen."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from medcode_serving.api import create_app
from medcode_serving.api.keys import add_key
from medcode_serving.loading import load_predictor
from medcode_serving.predictor import Predictor
from medcode_serving.settings import load_inference_settings
from tests.serving.conftest import adapter, base_model, make_bundle, vocabulary  # noqa: F401 - fixtures
from tests.serving.test_api_generate import RECIPE, Saying, words_home  # noqa: F401 - a fixture

from .conftest import SECONDS_TO_SHOW, keep_for_good
from .page_server import running

QUESTION = "\U0001f600 I have crushing chest pain that goes into my left arm, and I take warfarin."
ANSWER = "Take ibuprofen 800 mg <b>three</b> times a day.\n\nRest."
HARMLESS = ("Is walking good for my knee?", "Yes, as far as it does not hurt.")


class Said(Saying):
    """An engine whose next answers a test chooses."""

    def reset(self) -> None:
        self.text, self.cut = ANSWER, False


@pytest.fixture(scope="module")
def engine() -> Said:
    return Said()


@pytest.fixture(scope="module")
def address(chromium: Browser, engine: Said, words_home: Path) -> Iterator[str]:  # noqa: F811
    """A recipe with codes and one in words. Asking for Chromium first: without it the tests are skipped."""
    with running(create_app(settings(words_home, ["icd", RECIPE]), load=saying(engine))) as address:
        yield address


def settings(home: Path, recipes: list[str], **more: str):
    flags = {"model.home": str(home), "model.recipes": recipes, "device": "cpu", "model.watch_s": 0} | more
    return load_inference_settings(None, **flags)


def saying(engine: Said) -> Callable[..., Predictor]:
    def load(settings, recipe, version, shared_bases) -> Predictor:
        predictor = load_predictor(settings, recipe, version, shared_bases)
        if recipe == RECIPE:
            predictor.engine = engine
        return predictor

    return load


def opened(chromium: Browser, address: str, **options) -> Page:
    page = chromium.new_page(base_url=address, viewport={"width": 1280, "height": 800}, **options)
    page.set_default_timeout(SECONDS_TO_SHOW * 1000)
    expect.set_options(timeout=SECONDS_TO_SHOW * 1000)
    page.goto("/ui")
    return page


@pytest.fixture
def page(chromium: Browser, address: str, engine: Said) -> Iterator[Page]:
    """The page on its tab for questions; whatever a test does, the console has nothing to complain of."""
    engine.reset()
    page = opened(chromium, address)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: message.text.startswith("Failed to load") or complaints.append(message.text))
    page.on("request", lambda request: request.url.startswith((address, "blob:")) or complaints.append(request.url))
    page.get_by_role("tab", name="Question").click()
    yield page
    page.close()
    assert complaints == []


def ask(page: Page, question: str) -> None:
    page.get_by_label("Your question").fill(question)
    page.get_by_label("Your question").press("Control+Enter")


def test_an_emergency_stands_in_red_above_the_answer(page: Page, screenshots: Path) -> None:
    with page.expect_response("**/generate") as answered:
        ask(page, QUESTION)
    report = answered.value.json()["safety_report"]
    urgent = page.get_by_role("alert")
    expect(urgent).to_contain_text(report["warnings"][0]["message"])
    said = page.get_by_role("document", name="The answer")
    assert said.evaluate("box => box.textContent") == ANSWER  # as it is; its markup stays text
    assert urgent.bounding_box()["y"] < said.bounding_box()["y"]
    red, ground = (urgent.evaluate(f"box => getComputedStyle(box).{name}") for name in ("color", "backgroundColor"))
    assert red != ground
    shown = page.get_by_role("document", name="The question, with its warnings")
    assert shown.evaluate("box => box.textContent") == QUESTION

    def marked(box) -> str:
        return "|".join(box.locator("mark").all_inner_texts())

    in_question = [s["text"] for w in report["warnings"] for s in w["spans"] if s["where"] == "question"]
    in_answer = [s["text"] for w in report["warnings"] for s in w["spans"] if s["where"] == "answer"]
    assert "warfarin" in marked(shown) and "warfarin" in in_question  # behind an emoji: two units in JavaScript
    assert "ibuprofen" in marked(said).lower() and in_answer
    assert page.locator("mark.emergency").count() > 0
    expect(page.locator("#risk")).to_have_text("risk: emergency")
    expect(page.locator("#answer-facts")).to_contain_text(
        "Confidence 62%: in the wording, not in being right · 12 tokens"
    )
    expect(page.get_by_text("Not for clinical use. A language model wrote this answer")).to_be_visible()
    page.screenshot(path=screenshots / "question-emergency.png")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=screenshots / "question-narrow.png", full_page=True)
    page.evaluate("scrollTo(0, 0)")
    page.keyboard.press("Control+Enter")
    expect(urgent).to_be_in_viewport()
    keep_for_good(page)
    page.locator(".found-in button", has_text="in the question").first.click()
    expect(page.locator("mark.visited").first).to_be_visible()


def test_no_warning_is_not_called_safe(page: Page, engine: Said) -> None:
    question, engine.text = HARMLESS
    ask(page, question)
    expect(page.get_by_text("No rule was met. That does not mean that the answer is safe.")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()
    assert page.locator("mark").count() == 0
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Your question").press_sequentially("x")
    expect(page.get_by_text("The question on the left was changed since.")).to_be_visible()


def test_options_are_folded_away_and_sent(page: Page, engine: Said, screenshots: Path) -> None:
    engine.cut = True
    expect(page.get_by_label("Temperature")).to_be_hidden()
    options = page.get_by_role("button", name="Options")
    expect(options).to_have_attribute("aria-expanded", "false")
    options.press("Enter")
    page.get_by_label("Temperature").fill("0.7")
    page.get_by_label("Tokens at most").fill("50")
    page.get_by_label("Length penalty").fill("0.02")
    page.get_by_role("combobox", name="Safety check").select_option("Off")
    with page.expect_request("**/generate") as asked:
        ask(page, QUESTION)
    sent = json.loads(asked.value.post_data or "")
    assert sent == {
        "question": QUESTION,
        "recipe": RECIPE,
        "temperature": 0.7,
        "max_length": 50,
        "length_penalty": 0.02,
        "use_safety": False,
    }
    page.screenshot(path=screenshots / "question-options.png")
    said = page.get_by_role("list", name="Remarks on this answer in words")
    expect(said).to_contain_text("The safety check is off")
    expect(said).to_contain_text("breaks off")
    expect(page.locator("#answer-provenance")).to_contain_text("temperature 0.7 · seed ")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Tokens at most").fill("0")
    options.click()
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_label("Tokens at most")).to_be_focused()  # unfolded, for what is wrong is there


def test_the_tabs_go_by_keys_and_keep_what_they_hold(page: Page) -> None:
    ask(page, QUESTION)
    expect(page.get_by_role("document", name="The answer")).to_contain_text("Rest.")
    page.get_by_role("tab", name="Question").press("ArrowLeft")
    codes = page.get_by_role("tab", name="Codes")
    expect(codes).to_be_focused()
    expect(codes).to_have_attribute("aria-selected", "true")
    expect(page.get_by_label("Your question")).to_be_hidden()
    page.get_by_label("Text of the note").fill("Type 2 diabetes mellitus, hypertension.")
    with page.expect_request("**/predict") as asked:
        page.keyboard.press("Control+Enter")
    assert json.loads(asked.value.post_data or "")["recipe"] == "icd"
    expect(page.locator("button.code").first).to_be_visible()
    codes.press("End")
    expect(page.get_by_role("document", name="The answer")).to_contain_text("Rest.")


def test_the_answer_can_be_taken_along_and_cleared(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Example").click()
    expect(page.get_by_label("Your question")).to_have_value(re.compile("warfarin"))
    page.get_by_label("Your question").press("Control+Enter")
    keep_for_good(page)
    page.get_by_role("button", name="Copy answer").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()  # it is not written when the click is over
    assert page.evaluate("navigator.clipboard.readText()") == ANSWER
    with page.expect_download() as download:
        page.get_by_role("button", name="Download JSON").click()
    assert json.loads(Path(download.value.path()).read_text())["response"] == ANSWER
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_label("Your question")).to_have_value("")
    expect(page.get_by_text("The answer appears here")).to_be_visible()
    ask(page, " ")
    expect(page.get_by_role("alert")).to_have_text("There is no question yet.")


def test_only_what_is_served_is_shown_and_a_key_is_asked_for(
    chromium: Browser,
    words_home: Path,  # noqa: F811
    tmp_path: Path,
    screenshots: Path,
) -> None:
    secret = add_key(tmp_path / "keys.yaml", "desk", ["predict"])
    keys = {"api.keys_file": str(tmp_path / "keys.yaml")}
    with running(create_app(settings(words_home, [RECIPE], **keys))) as address:  # the model itself
        page = opened(chromium, address, color_scheme="dark")
        expect(page.get_by_label("Your question")).to_be_visible()
        expect(page.get_by_role("tablist")).to_be_hidden()
        expect(page.get_by_label("Text of the note")).to_be_hidden()
        ask(page, QUESTION)
        page.get_by_label("API key").fill(secret)
        # The refusal may be told here as late as that.
        with page.expect_response(lambda told: told.url.endswith("/generate") and told.status != 401) as answered:
            page.get_by_role("button", name="Use key").click()
        answer = answered.value.json()
        expect(page.locator("#answer-facts")).to_contain_text(f"{answer['tokens']} token")
        assert page.get_by_role("document", name="The answer").evaluate("box => box.textContent") == answer["response"]
        expect(page.get_by_label("API key")).to_be_hidden()
        page.screenshot(path=screenshots / "question-dark.png")
        page.locator("summary").click()
        expect(page.locator("#card")).to_contain_text("in words")
        page.close()
