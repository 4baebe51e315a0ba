"""What a user does on the pages of Dagster's UI, found by what the user sees: titles, labels, texts."""

import re
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

SECONDS_TO_RUN = 240
"""For a run or a backfill: the daemon looks for runs every 5 s and for backfills every 30 s."""


def open_graph(page: Page) -> None:
    """Open the asset graph."""
    page.goto("/asset-groups")


def fold(page: Page, group: str) -> None:
    """Show a group's assets in the list beside the graph, or hide them again."""
    graph_row(page, group).get_by_role("img", name="arrow_drop_down").click()


def graph_row(page: Page, name: str) -> Locator:
    """Return a group's or an asset's row in the list beside the graph."""
    return page.locator("[data-index]").filter(has=page.get_by_title(name, exact=True))


def select_assets(page: Page, *names: str) -> None:
    """Select assets in the list, and with them in the graph."""
    for name in names:
        graph_row(page, name).get_by_title(name, exact=True).click(modifiers=["Shift"])


def launch(page: Page, button: str, partitions: list[str], launched: str) -> None:
    """Click a "Materialize" button, choose partitions, launch, and follow the toast to the run or the backfill."""
    page.get_by_role("button", name=button).click()
    dialog = page.get_by_role("dialog").filter(has_text="Launch runs to materialize")
    dialog.get_by_text("Select a partition").click()
    for partition in partitions:
        page.get_by_role("menuitem").filter(has=page.get_by_title(partition, exact=True)).click()
    page.keyboard.press("Escape")
    dialog.get_by_role("button", name=launched).click()
    page.get_by_role("link", name="View", exact=True).click()


def wait_for_run(page: Page) -> None:
    """Wait on a run's page until it succeeded; its failure is seen at once."""
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}"))
    ended = page.get_by_text(re.compile(r"^(Success|Failure|Failed|Canceled)$")).first
    expect(ended).to_be_visible(timeout=SECONDS_TO_RUN * 1000)
    expect(ended).to_have_text("Success")


def wait_for_backfill(page: Page) -> None:
    """Wait on a backfill's page until it succeeded; its failure is seen at once."""
    page.wait_for_url(re.compile(r"/runs/b/\w+"))
    status = page.get_by_text("Status", exact=True).locator("xpath=following-sibling::*")
    expect(status).to_have_text(re.compile("Succeeded|Failed|Canceled"), timeout=SECONDS_TO_RUN * 1000)
    expect(status).to_have_text("Succeeded")


def open_partition(page: Page, asset: str, partition: str) -> None:
    """Open what the newest materialization of an asset's partition says."""
    page.goto(f"/assets/{asset}?view=partitions")
    page.get_by_title(partition, exact=True).click()


def metadata(page: Page, key: str) -> Locator:
    """Return the value beside a key in the metadata of what is open."""
    row = page.get_by_role("row").filter(has=page.get_by_text(key, exact=True))
    return row.get_by_role("cell").nth(1)


def take_picture(page: Page, file: Path) -> None:
    """Write a PNG once the fonts are there and nothing moves any more."""
    page.evaluate("document.fonts.ready.then(() => true)")
    page.screenshot(path=file, animations="disabled")
