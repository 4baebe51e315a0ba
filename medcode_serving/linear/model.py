"""From three scorers to one probability a code, and the files of a linear model.

model.json            format, names and weights of the features, numbers of codes and dimensions
weights.safetensors   the scorers' arrays
codes.parquet         system, code, description, frequency; the trained codes first
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medcode_serving.errors import MedcodeError
from medcode_serving.linear.phrases import BELIEFS, Phrases
from medcode_serving.linear.ridge import Ridge
from medcode_serving.linear.text import COLUMNS, NoteFeatures
from medcode_serving.linear.titles import Titles

FORMAT = 1
MODEL, WEIGHTS, CODES = "model.json", "weights.safetensors", "codes.parquet"
CODE_COLUMNS = ("system", "code", "description", "frequency")

FEATURES = (
    "phrase_daring",
    "phrase",
    "phrase_careful",
    "ridge",
    "ridge_root",
    "title_coverage",
    "title_matched",
    "title_complete",
    "title_length",
    "phrase_and_title",
    "log_frequency",
    "untrained",
    "log_phrases",
)
"""What the logistic regression weighs, in the order of its weights."""

_BY_PHRASE, _BY_RIDGE, _BY_TITLE = 100, 40, 40
"""Candidates of a note: the best by each scorer, by title once among trained codes and once among the others."""


@dataclass(frozen=True)
class LinearCode:
    """One row of codes.parquet."""

    system: str
    code: str
    description: str | None
    frequency: int
    """Training notes with the code; 0: reached by its title only."""


@dataclass(frozen=True)
class Scorers:
    """The three scorers over one list of codes, of which the first are the trained ones."""

    phrases: Phrases
    ridge: Ridge
    titles: Titles
    frequency: np.ndarray
    """Training notes of each trained code, int64 [trained codes]."""

    def candidates(self, note: NoteFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Return the codes that the note may have, and what tells how likely each is.

        Returns:
            Codes [candidates], int64, ascending, and `FEATURES` [candidates, features], float64.
        """
        by_phrase, by_ridge = self.phrases.scores(note.phrases), self.ridge.scores(note)
        matches = self.titles.matches(note.sentences)
        trained = len(self.frequency)
        codes = np.union1d(
            np.union1d(_best(by_phrase[1], _BY_PHRASE), _best(by_ridge, _BY_RIDGE)),
            _best_titles(matches.codes, matches.coverage * np.sqrt(matches.matched), trained),
        ).astype(np.int64)
        known = codes < trained
        phrase = np.zeros((len(BELIEFS), len(codes)))
        phrase[:, known] = by_phrase[:, codes[known]]
        ridge, frequency = np.zeros(len(codes)), np.zeros(len(codes))
        ridge[known], frequency[known] = by_ridge[codes[known]], self.frequency[codes[known]]
        coverage, matched = np.zeros(len(codes)), np.zeros(len(codes))
        place = np.searchsorted(matches.codes, codes)
        place[place == len(matches.codes)] = 0
        if len(matches.codes):
            found = matches.codes[place] == codes
            coverage[found], matched[found] = matches.coverage[place[found]], matches.matched[place[found]]
        daring, middle, careful = _log_odds(phrase)
        return codes, np.stack(
            [
                daring,
                middle,
                careful,
                ridge,
                np.sqrt(np.clip(ridge, 0, 1)),
                coverage,
                matched,
                coverage > 0.99,
                self.titles.lengths[codes],
                middle * coverage,
                np.log1p(frequency),
                frequency == 0,
                np.full(len(codes), np.log1p(len(note.phrases))),
            ],
            axis=1,
        )


@dataclass(frozen=True)
class LinearModel:
    """Scorers, the weights of their features, and the codes."""

    scorers: Scorers
    weights: np.ndarray
    """Of `FEATURES`, float64."""
    intercept: float
    codes: tuple[LinearCode, ...]

    def probabilities(self, note: NoteFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Return candidate codes and their probabilities, most probable first; of equal ones the first code first."""
        codes, features = self.scorers.candidates(note)
        probabilities = logistic(features @ self.weights + self.intercept)
        order = np.argsort(-probabilities, kind="stable")
        return codes[order], probabilities[order]


def logistic(values: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + e^-values), without overflow."""
    return np.exp(-np.logaddexp(0, -values))


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the highest scores; of equal ones the first."""
    if len(scores) <= count:
        return np.arange(len(scores))
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    above = np.flatnonzero(scores > least)
    return np.concatenate([above, np.flatnonzero(scores == least)[: count - len(above)]])


def _best_titles(codes: np.ndarray, scores: np.ndarray, trained: int) -> np.ndarray:
    known = codes < trained
    return np.concatenate([codes[part][_best(scores[part], _BY_TITLE)] for part in (known, ~known)])


def _log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Return the log odds, held off infinity."""
    return np.log(probabilities + 1e-3) - np.log(1 - np.minimum(probabilities, 0.995) + 1e-3)


def save_model(model: LinearModel, folder: Path, facts: dict[str, Any]) -> None:
    """Write the three files.

    Args:
        model: What to write.
        folder: Is made where it is missing.
        facts: What else model.json tells: settings, numbers of notes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(_arrays(model.scorers), folder / WEIGHTS)
    rows = {name: [getattr(code, name) for code in model.codes] for name in CODE_COLUMNS}
    types = [("system", pa.string()), ("code", pa.string()), ("description", pa.string()), ("frequency", pa.int64())]
    pq.write_table(pa.table(rows, schema=pa.schema(types)), folder / CODES)
    described = {
        "format": FORMAT,
        "features": list(FEATURES),
        "weights": model.weights.tolist(),
        "intercept": model.intercept,
        **facts,
    }
    (folder / MODEL).write_text(json.dumps(described, indent=2) + "\n")


def _arrays(scorers: Scorers) -> dict[str, np.ndarray]:
    phrases, ridge, titles = scorers.phrases, scorers.ridge, scorers.titles
    arrays = {
        "phrase_keys": phrases.keys,
        "phrase_documents": phrases.documents,
        "phrase_starts": phrases.starts,
        "phrase_codes": phrases.codes,
        "phrase_hits": phrases.hits,
        "prior": phrases.prior,
        "idf": ridge.idf,
        "ridge": ridge.weights.astype(np.float16),  # half the file; scores differ in the fourth digit
        "title_stems": titles.stems,
        "title_weights": titles.weights,
        "title_starts": titles.starts,
        "title_places": titles.places,
    }
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def load_model(folder: Path) -> LinearModel:
    """Read what `save_model` wrote.

    Raises:
        MedcodeError: a file is missing or broken, of another version, or the files do not belong together.
    """
    described = _read_description(folder / MODEL)
    arrays = _read_arrays(folder / WEIGHTS)
    codes = _read_codes(folder / CODES)
    frequency = np.array([code.frequency for code in codes if code.frequency], np.int64)
    wrong = _misfit(arrays, len(codes), len(frequency))
    if wrong:
        raise MedcodeError(f"{folder / WEIGHTS}: {wrong} does not fit the codes; materialize the linear baseline anew")
    scorers = Scorers(
        Phrases(
            arrays["phrase_keys"],
            arrays["phrase_documents"],
            arrays["phrase_starts"],
            arrays["phrase_codes"],
            arrays["phrase_hits"],
            arrays["prior"],
        ),
        Ridge(arrays["idf"], arrays["ridge"].astype(np.float32)),
        Titles(arrays["title_stems"], arrays["title_weights"], arrays["title_starts"], arrays["title_places"]),
        frequency,
    )
    return LinearModel(scorers, np.array(described["weights"]), float(described["intercept"]), tuple(codes))


def _read_description(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text())
        if described["format"] != FORMAT or described["features"] != list(FEATURES):
            raise MedcodeError(f"{path}: of another version of medcode; materialize the linear baseline anew")
        if (
            len(described["weights"]) != len(FEATURES)
            or not np.isfinite([*described["weights"], described["intercept"]]).all()
        ):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _broken(path, error) from None
    return described


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays: dict[str, np.ndarray] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _broken(path, error) from None
    return arrays


def _read_codes(path: Path) -> Sequence[LinearCode]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path, columns=list(CODE_COLUMNS)).to_pydict()
        codes = [LinearCode(*row) for row in zip(*(rows[name] for name in CODE_COLUMNS), strict=True)]
    except (OSError, KeyError, pa.ArrowException) as error:
        raise _broken(path, error) from None
    return codes


def _broken(path: Path, error: Exception) -> MedcodeError:
    reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({type(error).__name__})"
    return MedcodeError(f"{path} {reason}; materialize the linear baseline anew")


def _misfit(arrays: dict[str, np.ndarray], codes: int, trained: int) -> str | None:
    """Return the name of an array that is missing or has not the shape or the bounds that the others ask for."""
    expected: dict[str, tuple[str, int | None]] = {
        "phrase_keys": ("uint64", None),
        "phrase_documents": ("int32", _size(arrays, "phrase_keys")),
        "phrase_starts": ("int64", _size(arrays, "phrase_keys") + 1),
        "phrase_codes": ("int32", None),
        "phrase_hits": ("float32", _size(arrays, "phrase_codes")),
        "prior": ("float32", trained),
        "idf": ("float32", COLUMNS),
        "title_stems": ("uint64", None),
        "title_weights": ("float32", _size(arrays, "title_stems")),
        "title_starts": ("int64", codes + 1),
        "title_places": ("int32", None),
    }
    for name, (dtype, size) in expected.items():
        array = arrays.get(name)
        if array is None or array.ndim != 1 or str(array.dtype) != dtype or size not in (None, len(array)):
            return name
    ridge = arrays.get("ridge")
    if ridge is None or ridge.ndim != 2 or ridge.shape[1] != trained or len(ridge) < 2:
        return "ridge"
    inside = {"phrase_codes": trained, "title_places": len(arrays["title_stems"])}
    for name, bound in inside.items():
        if len(arrays[name]) and not 0 <= arrays[name].min() <= arrays[name].max() < bound:
            return name
    for name, rows in (("phrase_starts", "phrase_codes"), ("title_starts", "title_places")):
        starts = arrays[name]
        if starts[0] != 0 or starts[-1] != len(arrays[rows]) or (np.diff(starts) < 0).any():
            return name
    return None


def _size(arrays: dict[str, np.ndarray], name: str) -> int:
    return len(arrays[name]) if name in arrays else 0
