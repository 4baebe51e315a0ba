"""What a user sees and clicks in the Dagster UI. MEDCODE_SCREENSHOTS=folder keeps the pictures."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from medcode_assets.warehouse import one_value, open_warehouse

from .conftest import PREPARED, REGISTERED
from .dagster_pages import (
    fold,
    graph_row,
    launch,
    metadata,
    open_graph,
    open_partition,
    select_assets,
    take_picture,
    wait_for_backfill,
    wait_for_run,
)

pytestmark = pytest.mark.timeout(1800)  # of whole runs; the waits below have limits of their own
GROUPS = {
    "raw": ["admissions", "diagnoses_icd", "hcpcsevents", "notes", "patients", "procedures_icd"]
    + ["d_hcpcs", "d_icd_diagnoses", "d_icd_procedures"],
    "mimic": ["cohort", "facts", "splits"],
    "icd": ["examples", "base_model", "tokens", "adapter", "evaluation", "bundle", "gguf"]
    + ["frequency_prior", "linear", "untuned_base", "errors", "report"],
}


def rows(home: Path, version: str, table: str) -> str:
    with open_warehouse(home / "warehouse" / f"{version}.duckdb", read_only=True) as con:
        return str(one_value(con, f"SELECT count(*) FROM {table}"))


def test_the_graph_shows_the_groups_and_their_assets(page: Page) -> None:
    open_graph(page)
    for group in GROUPS:
        expect(page.locator("svg").get_by_text(group, exact=True)).to_be_visible()
    for group, assets in GROUPS.items():  # one at a time: the list draws only the rows that fit on the screen
        fold(page, group)
        for asset in assets:
            expect(graph_row(page, asset)).to_be_visible()
        fold(page, group)


def test_assets_are_materialized_by_clicking(page: Page, home: Path, screenshots: Path) -> None:
    open_graph(page)
    fold(page, "icd")
    select_assets(page, "base_model", "tokens")
    launch(page, "Materialize selected (2)", [PREPARED], "Launch 1 run")
    wait_for_run(page)

    made = rows(home, PREPARED, "icd.tokens")
    open_partition(page, "icd/tokens", PREPARED)
    expect(metadata(page, "dagster/row_count")).to_have_text(made)
    expect(metadata(page, "unchanged")).to_have_text("false")

    page.set_viewport_size({"width": 1600, "height": 1220})  # the plot opens above the metadata, not upon it
    page.goto("/assets/icd/tokens")
    expect(page.get_by_text("Row count", exact=True).locator("xpath=..")).to_contain_text(made)
    page.get_by_text("[Show Markdown]").click()
    plot = page.get_by_role("img", name="prompt lengths")
    expect(plot).to_be_visible()
    expect(plot).to_have_attribute("src", re.compile("^data:image/png;base64,"))
    assert plot.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    take_picture(page, screenshots / "tokens-asset.png")


def test_a_backfill_makes_what_a_new_version_lacks(page: Page, home: Path) -> None:
    page.goto("/assets/raw/notes")
    launch(page, "Materialize…", [PREPARED, REGISTERED], "Launch backfill")
    wait_for_backfill(page)

    for version, unchanged in ((PREPARED, "true"), (REGISTERED, "false")):
        open_partition(page, "raw/notes", version)
        expect(metadata(page, "dagster/row_count")).to_have_text(rows(home, version, "raw.notes"))
        expect(metadata(page, "unchanged")).to_have_text(unchanged)
