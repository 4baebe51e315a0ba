"""The files of a linear model.

    model.json            format, names and weights of the features, settings, numbers of notes and codes
    weights.safetensors   the scorers' arrays
    codes.parquet         system, code, description, frequency; the trained codes first

No word and no single note is in them: phrases are hashes, TF-IDF is projected. Hashes can be guessed, though: who tries
a rare word can tell whether training notes had it, and with which code. The files are as restricted as the notes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medcode_serving.errors import MedcodeError
from medcode_serving.linear.model import FEATURES, LinearCode, LinearModel, Scorers
from medcode_serving.linear.phrases import Phrases
from medcode_serving.linear.ridge import Ridge
from medcode_serving.linear.text import COLUMNS
from medcode_serving.linear.titles import Titles

FORMAT = 1
MODEL, WEIGHTS, CODES = "model.json", "weights.safetensors", "codes.parquet"
CODE_COLUMNS = ("system", "code", "description", "frequency")


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
        "frequency": scorers.frequency,
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
    wrong = _misfit(arrays, len(codes), sum(code.frequency > 0 for code in codes))
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
        arrays["frequency"],
    )
    return LinearModel(scorers, np.array(described["weights"]), float(described["intercept"]), tuple(codes))


def _read_description(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text())
        if described["format"] != FORMAT or described["features"] != list(FEATURES):
            raise MedcodeError(f"{path}: of another version of medcode; materialize the linear baseline anew")
        weights = np.array([*described["weights"], described["intercept"]], np.float64)
        if weights.shape != (len(FEATURES) + 1,) or not np.isfinite(weights).all():
            raise ValueError("weights")
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
        "frequency": ("int64", trained),
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
