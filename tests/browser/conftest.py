"""`medcode ui` as a user starts it, two MIMIC versions behind it, and a real Chromium in front of it.

Every fixture lives as long as one file of tests: Playwright keeps an event loop running in this thread, which no other
test should meet.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from medcode_assets.corpora.synthetic_mimic import write_synthetic_mimic
from tests.e2e.conftest import free_port, medcode

PREPARED = "synthetic-1"
"""The version whose assets are made up to the examples."""
REGISTERED = "synthetic-2"
"""The version that is only registered: nothing of it is made yet."""

SECONDS_TO_START = 300
SECONDS_TO_SHOW = 60
"""For a page to show what it has; a busy machine with two cores is slow, not broken."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",  # in a container tests run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # the UI has to work without the internet
]

SETTINGS = {"MEDCODE_TRAIN_MODEL__BASE": "embedded", "MEDCODE_TRAIN_DATA__MAX_PROMPT_TOKENS": "512"}
"""What the launchpad starts from."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS, timeout=SECONDS_TO_START * 1000)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def home(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with both versions. Asking for Chromium first: without it nothing needs to be prepared."""
    home = tmp_path_factory.mktemp("home")
    _medcode("prepare", *_synthetic_version(home, PREPARED, seed=5), "--base-model=embedded", home=home)
    _medcode("versions", "add", *_synthetic_version(home, REGISTERED, seed=6), home=home)
    return home


@pytest.fixture(scope="module")
def ui(home: Path) -> Iterator[str]:
    """The address of a running `medcode ui`."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    log = home / "ui.log"
    process = _start_ui(home, port, log)
    try:
        _wait_until_ready(address, process, log)
        yield address
    finally:
        _stop(process)


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Where PNG files go: MEDCODE_SCREENSHOTS if given, else the test's temporary folder."""
    folder = Path(os.environ.get("MEDCODE_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def page(chromium: Browser, ui: str, screenshots: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """An empty tab on the UI. What it showed last is kept as a picture, which tells most about a test that failed."""
    context = chromium.new_context(base_url=ui, viewport={"width": 1500, "height": 1000})
    context.set_default_timeout(SECONDS_TO_SHOW * 1000)
    expect.set_options(timeout=SECONDS_TO_SHOW * 1000)
    page = context.new_page()
    yield page
    page.screenshot(path=screenshots / f"{request.node.name}.png")
    context.close()


def keep_for_good(page: Page) -> None:
    """Let what the page shows for a moment ("Copied") stay there: a busy machine looks too late."""
    shortened = "(call, ms) => ms === 1500 ? 0 : real(call, ms)"
    page.evaluate(f"() => {{ const real = window.setTimeout; window.setTimeout = {shortened}; }}")


def _synthetic_version(home: Path, name: str, *, seed: int) -> list[str | Path]:
    """Write a small MIMIC-IV and return the flags that name it."""
    folder = write_synthetic_mimic(home / name, release="mimic-iv", admissions=200, seed=seed)
    return ["--mimic-dir", folder, "--dataset-version", "mimic-iv", "--name", name]


def _medcode(*arguments: str | Path, home: Path) -> None:
    result = medcode(*arguments, home=home)
    assert result.returncode == 0, result.stderr


def _start_ui(home: Path, port: int, log: Path) -> "subprocess.Popen[bytes]":
    """Start it in a session of its own, so that nothing of it can outlive the tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DAGSTER_", "MEDCODE_"))}
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "medcode_assets", "ui", "--port", str(port), "--output-dir", str(home)],
            env={**kept, **SETTINGS, "HF_HUB_OFFLINE": "1"},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_until_ready(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{address}/server_info", trust_env=False).is_success:
                return
        time.sleep(0.5)
    pytest.fail(f"medcode ui did not start:\n{log.read_text()[-4000:]}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop it as a user does, and then whatever of its session is left."""
    process.terminate()
    try:
        process.wait(timeout=180)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
