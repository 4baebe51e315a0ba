"""Rating sheets that came back: read, held against the key, and what their raters agree on."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcode_assets.recipes.consult.agreement import (
    Distance,
    Item,
    Preference,
    cohen_kappa,
    fleiss_kappa,
    interval,
    krippendorff_alpha,
    nominal,
    preference,
)
from medcode_assets.recipes.consult.rating import PREFERRED, SCALES, SIDES, Key
from medcode_serving.errors import MedcodeError

PREFERENCES = {"a": "A", "b": "B", "tie": "tie", "=": "tie", "equal": "tie", "none": "tie"}
SCALE = frozenset("12345")
LONGEST_QUOTED = 12
NEEDED = ("id", PREFERRED, *SCALES)


@dataclass(frozen=True)
class Ratings:
    """One rater's sheet."""

    rater: str
    rows: dict[str, dict[str, Any]]
    """By id: the preferred side (A, B, tie) and numbers of the scales; None: not rated."""


@dataclass(frozen=True)
class Agreement:
    """How far raters agree on one column."""

    column: str
    items: int
    """That two raters or more rated."""
    kappa: float | None
    """Cohen's of two raters (quadratically weighted on scales), Fleiss' of more, where it counts same or not."""
    alpha: float | None
    """Krippendorff's."""


@dataclass(frozen=True)
class RatingResults:
    """What sheets came to."""

    raters: tuple[str, ...]
    items: int
    """Of the sheet."""
    agreements: tuple[Agreement, ...]
    preference: Preference
    means: dict[str, dict[str, float | None]]
    """Mean of each scale for the tuned and the untuned model."""


def read_ratings(path: Path, key: Key) -> Ratings:
    """Return a rater's sheet.

    Args:
        path: CSV with the columns of the sheet, in any order; comma, semicolon or tab between them.
        key: Of the sheet.

    Raises:
        MedcodeError: it is no sheet, of another sheet, an id is missing or twice, or a rating is none; names the row.
    """
    rows: dict[str, dict[str, Any]] = {}
    for place, row in _rows(path):
        name = (row["id"] or "").strip()
        if name not in key.tuned:
            other = "" if name.startswith(f"{key.sheet}-") else f"; ids of this run's sheet begin with {key.sheet}-"
            raise MedcodeError(f"{place}: id {_quoted(name)} is not on the sheet{other}")
        if name in rows:
            raise MedcodeError(f"{place}: id {name} is there twice; keep one")
        rows[name] = {PREFERRED: _preferred(place, row[PREFERRED])}
        rows[name] |= {column: _scale(place, column, row[column]) for column in SCALES}
    missing = len(key.tuned) - len(rows)
    if missing:
        raise MedcodeError(f"{path}: {missing} of {len(key.tuned)} ids are missing; leave unrated rows in, empty")
    if all(value is None for row in rows.values() for value in row.values()):
        raise MedcodeError(f"{path}: nothing is rated; fill in the column {PREFERRED} and the scales")
    return Ratings(path.stem, rows)


def _rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=max(",;\t", key=first.count), strict=True)
            missing = [column for column in NEEDED if column not in (reader.fieldnames or ())]
            if missing:
                raise MedcodeError(f"{path}: no column {', '.join(missing)}; give a rating sheet that was filled in")
            found = [(f"{path}, row {number}", row) for number, row in enumerate(reader, start=1)]
    except OSError as error:
        raise MedcodeError(f"{path}: cannot be read ({error.strerror}); name a file that is there") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise MedcodeError(f"{path}: no CSV in UTF-8 ({type(error).__name__}); save the sheet as one") from None
    found = [(place, row) for place, row in found if any(cell for cell in row.values())]  # as Excel leaves some behind
    for place, row in found:
        if any(row[column] is None for column in NEEDED):
            raise MedcodeError(f"{place}: has fewer cells than the header; mend the row")
    return found


def _preferred(place: str, written: str) -> str | None:
    value = written.strip().lower()
    if value and value not in PREFERENCES:
        raise MedcodeError(f"{place}: {PREFERRED} is {_quoted(value)}; write A, B or tie")
    return PREFERENCES.get(value)


def _scale(place: str, column: str, written: str) -> int | None:
    value = written.strip().removesuffix(".0")
    if value and value not in SCALE:
        raise MedcodeError(f"{place}: {column} is {_quoted(value)}; write a number from 1 to 5")
    return int(value) if value else None


def _quoted(value: str) -> str:
    """Return a cell as a message may show it: where columns were shifted, a longer one is a piece of an answer."""
    return repr(value) if len(value) <= LONGEST_QUOTED and " " not in value else f"of {len(value)} characters"


def rating_results(sheets: Sequence[Ratings], key: Key) -> RatingResults:
    """Return how far raters agree and whom they prefer.

    Raises:
        MedcodeError: there are fewer than two raters, or two of one name.
    """
    raters = tuple(sheet.rater for sheet in sheets)
    if len(raters) < 2 or len(set(raters)) < len(raters):
        raise MedcodeError("ratings: give the sheets of two raters or more, each in a file of its own name")
    agreements = [_agreement(PREFERRED, _items(sheets, key, PREFERRED), nominal)]
    agreements += [_agreement(column, _items(sheets, key, column), interval) for column in SCALES]
    votes = [[_vote(sheet.rows[name][PREFERRED], side) for sheet in sheets] for name, side in key.tuned.items()]
    return RatingResults(raters, len(key.tuned), tuple(agreements), preference(votes), _means(sheets, key))


def _items(sheets: Sequence[Ratings], key: Key, column: str) -> list[Item]:
    return [[sheet.rows[name][column] for sheet in sheets] for name in key.tuned]


def _agreement(column: str, items: Sequence[Item], distance: Distance) -> Agreement:
    count = sum(sum(value is not None for value in item) > 1 for item in items)
    kappa = cohen_kappa(items, distance) if len(items[0]) == 2 else fleiss_kappa(items)
    return Agreement(column, count, kappa, krippendorff_alpha(items, distance))


def _vote(preferred: str | None, tuned: str) -> int | None:
    if preferred is None:
        return None
    return 0 if preferred == "tie" else 1 if preferred == tuned else -1


def _means(sheets: Sequence[Ratings], key: Key) -> dict[str, dict[str, float | None]]:
    """Return each scale's mean over raters and questions, the answers sorted by who wrote them."""
    found: dict[str, dict[str, float | None]] = {}
    for scale in dict.fromkeys(column.rpartition("_")[0] for column in SCALES):
        values: dict[str, list[int]] = {"tuned": [], "untuned": []}
        for name, tuned in key.tuned.items():
            for side in SIDES:
                rated = (sheet.rows[name][f"{scale}_{side.lower()}"] for sheet in sheets)
                values["tuned" if side == tuned else "untuned"] += [value for value in rated if value is not None]
        found[scale] = {who: sum(given) / len(given) if given else None for who, given in values.items()}
    return found


def results_text(found: RatingResults) -> str:
    """Return results for people, a line each."""
    liked = found.preference
    lines = [f"{len(found.raters)} raters, {found.items} questions"]
    if liked.share is not None:
        lines.append(
            f"tuned preferred in {liked.wins} of {liked.wins + liked.losses} questions with a majority: "
            f"{liked.share:.1%} (95 % interval {liked.low:.1%} to {liked.high:.1%}; p = {liked.p_value:.3g}); "
            f"{liked.ties} without one"
        )
    else:
        lines.append(f"no question with a majority for either model; {liked.ties} without one")
    for scale, means in found.means.items():
        shown = ", ".join(f"{who} {mean:.2f}" for who, mean in means.items() if mean is not None)
        lines += [f"{scale}, mean of 1 to 5: {shown}"] if shown else []
    two = len(found.raters) == 2
    for one in found.agreements:
        name = ("Cohen's kappa" if one.column == PREFERRED else "weighted kappa") if two else "Fleiss' kappa"
        lines.append(
            f"agreement on {one.column}: {name} {_shown(one.kappa)}, Krippendorff's alpha {_shown(one.alpha)} "
            f"({one.items} questions)"
        )
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
