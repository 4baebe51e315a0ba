"""The blinded sheet, what comes back, and statistics of agreement against hand-worked and published values."""

import csv
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_assets.recipes.consult.agreement import (
    cohen_kappa,
    fleiss_kappa,
    interval,
    krippendorff_alpha,
    preference,
)
from medcode_assets.recipes.consult.rating import COLUMNS, KEY, SCALES, SHEET, Key, write_sheet
from medcode_assets.recipes.consult.ratings import rating_results, read_ratings, results_text
from medcode_assets.recipes.words.answers import Answered
from medcode_assets.recipes.words.questions import Asked
from medcode_serving.errors import MedcodeError


def make_sheet(folder: Path, seed: int = 0, rated: int = 6) -> Key:
    asked = [Asked(place, "", f"Question {place}?", ("r",)) for place in range(9)]
    untuned = [Answered(f"- untuned {place}", 1, 1.0, False) for place in range(9)]
    tuned = [Answered(f"tuned {place}", 1, 1.0, False) for place in range(9)]
    write_sheet(folder, asked, untuned, tuned, sheet="abc123", rated=rated, seed=seed)
    with (folder / KEY).open(newline="") as file:
        return Key("abc123", {row["id"]: row["adapter"] for row in csv.DictReader(file)})


def sheet_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / SHEET).open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def fill(folder: Path, name: str, key: Key, choose: Any) -> Path:
    """Write a rater's sheet; `choose` gives who is preferred (tuned, untuned, tie, nothing) and both answers' marks."""
    rows = sheet_rows(folder)
    for number, row in enumerate(rows):
        liked, tuned_mark, untuned_mark = choose(number)
        side = key.tuned[row["id"]]
        other = "B" if side == "A" else "A"
        row["preferred"] = {"tuned": side, "untuned": other.lower()}.get(liked, liked)
        for scale in ("correct", "clear"):
            row[f"{scale}_{side.lower()}"], row[f"{scale}_{other.lower()}"] = tuned_mark, untuned_mark
    file = folder / f"{name}.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    return file


def test_the_sheet_is_blind_and_the_key_is_apart(tmp_path: Path) -> None:
    key = make_sheet(tmp_path)
    rows = sheet_rows(tmp_path)
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(key.tuned) == 6
    assert sorted(key.tuned.values()) == ["A", "A", "A", "B", "B", "B"]
    for row in rows:
        number = row["question"].removeprefix("Question ").removesuffix("?")
        answers = {"A": row["answer_a"], "B": row["answer_b"]}
        assert answers[key.tuned[row["id"]]] == f"tuned {number}"
        # What a spreadsheet takes for a formula is text.
        assert f"'- untuned {number}" in answers.values()
        assert all(row[column] == "" for column in ("preferred", *SCALES, "remarks"))
    assert "adapter" not in (tmp_path / SHEET).read_text()


def test_the_draw_is_seeded(tmp_path: Path) -> None:
    sheets = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        make_sheet(tmp_path / name, seed)
        sheets.append((tmp_path / name / SHEET).read_text())
    assert sheets[0] == sheets[1] != sheets[2]


def test_sheets_of_two_raters(tmp_path: Path) -> None:
    key = make_sheet(tmp_path)
    first = fill(tmp_path, "anna", key, lambda n: ("tuned" if n < 4 else "untuned", "5", "2"))
    second = fill(tmp_path, "ben", key, lambda n: ("tuned" if n < 5 else "tie", "4", "2.0"))
    found = rating_results([read_ratings(file, key) for file in (first, second)], key)
    assert (found.preference.wins, found.preference.losses, found.preference.ties) == (4, 1, 1)
    assert found.preference.share == pytest.approx(0.8)
    # Wilson, by hand: n = 5, p = 0.8, z = 1.96.
    assert found.preference.low == pytest.approx(0.3755, abs=1e-3)
    assert found.preference.high == pytest.approx(0.9638, abs=1e-3)
    # Sign test of 4 in 5: 2 * (5 + 1) / 32.
    assert found.preference.p_value == pytest.approx(0.375)
    assert found.means == {"correct": {"tuned": 4.5, "untuned": 2.0}, "clear": {"tuned": 4.5, "untuned": 2.0}}
    told = results_text(found)
    assert "tuned preferred in 4 of 5 questions" in told and "Cohen's kappa" in told


def test_unrated_rows_are_left_out_and_three_raters_are_fleiss(tmp_path: Path) -> None:
    key = make_sheet(tmp_path)
    files = [
        fill(tmp_path, name, key, lambda n, skip=skip: ("" if n == skip else "tuned", "", ""))
        for skip, name in enumerate(("a", "b", "c"))
    ]
    found = rating_results([read_ratings(file, key) for file in files], key)
    assert found.preference.wins == 6
    preferred = found.agreements[0]
    assert preferred.items == 6
    assert "Fleiss" in results_text(found)
    assert "none" in results_text(found)  # nobody used the scales


def test_blank_rows_that_spreadsheets_leave_are_passed_over(tmp_path: Path) -> None:
    key = make_sheet(tmp_path)
    good = fill(tmp_path, "good", key, lambda _: ("tuned", "5", "1"))
    before = read_ratings(good, key)
    good.write_text(f"\ufeff{good.read_text()}{';' * 9}\n\n")
    assert read_ratings(good, key) == before


def test_wrong_sheets_are_refused_with_their_row(tmp_path: Path) -> None:
    key = make_sheet(tmp_path)
    good = fill(tmp_path, "good", key, lambda _: ("tuned", "5", "1"))
    lines = good.read_text().splitlines()
    bad = tmp_path / "bad.csv"

    def refused(contents: str, told: str) -> None:
        bad.write_text(contents)
        with pytest.raises(MedcodeError, match=told):
            read_ratings(bad, key)

    refused("", "no column id, preferred")
    refused("\n".join(lines[:-1]), "1 of 6 ids are missing")
    refused("\n".join([*lines, lines[1]]), r"bad.csv, row 7: id abc123-\d+ is there twice")
    refused("\n".join(lines).replace("abc123-001", "zzz-001"), "row 1: id 'zzz-001' is not on the sheet; .* abc123-")
    refused("\n".join(lines).replace(";5;", ";6;", 1), "row 1: correct_[ab] is '6'; write a number from 1 to 5")
    refused("\n".join([*lines[:-1], "abc123-006;q"]), "row 6: has fewer cells")
    refused("\n".join([*lines, f"Ann has HIV{';x' * 9}"]), "row 7: id of 11 characters is not on the sheet")
    refused("\n".join(lines).replace(";5;", f";{'5' * 5000};", 1), "correct_[ab] is of 5000 characters; write a num")
    other = lines[2].split(";")
    refused(
        "\n".join([lines[0], lines[1], ";".join([*other[:4], "C", *other[5:]]), *lines[3:]]), "row 2: preferred is 'c'"
    )
    refused((tmp_path / SHEET).read_text(encoding="utf-8-sig"), "nothing is rated")
    with pytest.raises(MedcodeError, match="two raters or more"):
        rating_results([read_ratings(good, key)], key)
    with pytest.raises(MedcodeError, match="two raters or more"):
        rating_results([read_ratings(good, key)] * 2, key)
    with pytest.raises(MedcodeError, match="cannot be read"):
        read_ratings(tmp_path / "none.csv", key)


def test_cohens_kappa_by_hand_and_against_scikit_learn() -> None:
    # 20 yes-yes, 15 no-no, 5 and 10 apart: agreement 0.7, by chance 0.5.
    items = [("y", "y")] * 20 + [("n", "n")] * 15 + [("y", "n")] * 5 + [("n", "y")] * 10
    assert cohen_kappa(items) == pytest.approx(0.4)
    from sklearn.metrics import cohen_kappa_score

    draw = random.Random(0)
    pairs = [(draw.randint(1, 5), draw.randint(1, 5)) for _ in range(40)]
    firsts, seconds = zip(*pairs, strict=True)
    assert cohen_kappa(pairs) == pytest.approx(cohen_kappa_score(firsts, seconds))
    expected = cohen_kappa_score(firsts, seconds, weights="quadratic")
    assert cohen_kappa(pairs, interval) == pytest.approx(expected)
    assert cohen_kappa([*pairs, (None, 3)]) == cohen_kappa(pairs)


def test_fleiss_kappa_of_the_published_example() -> None:
    # Fleiss' example as Wikipedia works it out: 10 items, 14 raters, 5 categories, kappa 0.210.
    counts = """
    0 0 0 0 14; 0 2 6 4 2; 0 0 3 5 6; 0 3 9 2 0; 2 2 8 1 1; 7 7 0 0 0; 3 2 6 3 0; 2 5 3 2 2; 6 5 2 1 0; 0 2 2 3 7
    """
    items = [
        [category for category, count in enumerate(map(int, row.split())) for _ in range(count)]
        for row in counts.split(";")
    ]
    assert fleiss_kappa(items) == pytest.approx(0.210, abs=5e-4)


def test_krippendorffs_alpha_of_the_published_example() -> None:
    # Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", example C: 4 observers, 12 units, missing data.
    rows = """
    1 2 3 3 2 1 4 1 2 . . .
    1 2 3 3 2 2 4 1 2 5 . 3
    . 3 3 3 2 3 4 2 2 5 1 .
    1 2 3 3 2 4 4 1 2 5 1 .
    """
    table = [[None if value == "." else int(value) for value in row.split()] for row in rows.strip().splitlines()]
    items = list(zip(*table, strict=True))
    assert krippendorff_alpha(items) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(items, interval) == pytest.approx(0.849, abs=5e-4)


def test_nothing_to_agree_about_is_no_number() -> None:
    for statistic in (cohen_kappa, krippendorff_alpha, fleiss_kappa):
        assert statistic([("a", "a")] * 4) is None  # a single value everywhere
        assert statistic([("a", None)]) is None
    assert preference([[0, 0], [None, None]]).share is None


votes = st.lists(st.lists(st.sampled_from([1, 2, 3]), min_size=3, max_size=3), min_size=1, max_size=20)


@given(votes)
def test_agreement_is_never_above_one_and_one_only_if_all_agree(items: list[list[int]]) -> None:
    for found in (fleiss_kappa(items), krippendorff_alpha(items), krippendorff_alpha(items, interval)):
        if found is not None:
            assert found <= 1 + 1e-12
            assert (abs(found - 1) < 1e-12) == all(len(set(item)) == 1 for item in items)


@given(st.lists(st.lists(st.sampled_from([1, -1, 0, None]), min_size=2, max_size=4), min_size=1, max_size=15))
def test_preference_counts_every_rated_item_once(items: list[list[int | None]]) -> None:
    found = preference(items)
    assert found.wins + found.losses + found.ties == sum(any(vote is not None for vote in item) for item in items)
    turned = preference([[None if vote is None else -vote for vote in item] for item in items])
    assert (turned.wins, turned.losses, turned.ties) == (found.losses, found.wins, found.ties)
