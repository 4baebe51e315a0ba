"""Writes synthetic notes as a MIMIC-III or MIMIC-IV release: real file names, columns, formats and nuisances.

Whatever reads MIMIC reads this folder without a special case: demo and tests go the real path.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from medcode_assets.corpora import synthetic_admissions, synthetic_notes, synthetic_tables
from medcode_assets.corpora.synthetic_admissions import admit_patients
from medcode_assets.corpora.synthetic_tables import Row, mimic_iii_tables, mimic_iv_tables
from medcode_serving.errors import MedcodeError

Release: TypeAlias = Literal["mimic-iii", "mimic-iv"]

MANIFEST_NAME = "SYNTHETIC.json"
LAYOUT_FILE = Path(__file__).with_name("synthetic_mimic.yaml")


def write_synthetic_mimic(
    directory: Path, *, release: Release = "mimic-iv", admissions: int = 5000, seed: int = 20
) -> Path:
    """Write a synthetic release to `directory` and return it; a folder already written so is left as it is.

    Same arguments, same bytes. MIMIC-IV is `hosp/` and `note/` with ICD-10 codes, MIMIC-III flat with ICD-9.

    Raises:
        MedcodeError: `directory` is a file, or holds something that this function did not write.
    """
    directory = Path(directory)
    manifest = {
        "generator": "medcode synthetic MIMIC",
        "release": release,
        "admissions": admissions,
        "seed": seed,
        "digest": _digest(release, admissions, seed),
    }
    if _holds(directory, manifest):
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and then renamed: a killed run leaves no half-written release behind.
    aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        aside.chmod(0o755)
        layout = load_layout()
        patients = admit_patients(admissions, seed, layout["nuisances"])
        tables = mimic_iv_tables if release == "mimic-iv" else mimic_iii_tables
        for name, rows in tables(patients, layout).items():
            _write_table(aside / f"{name}.csv.gz", layout["columns"][release][name], rows)
        (aside / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if directory.exists():
            shutil.rmtree(directory)
        aside.rename(directory)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return directory


@cache
def load_layout() -> dict[str, Any]:
    """Columns, value lists and nuisance shares of `synthetic_mimic.yaml`."""
    layout: dict[str, Any] = yaml.safe_load(LAYOUT_FILE.read_text(encoding="utf-8"))
    return layout


def _digest(*parameters: object) -> str:
    """Changes with the parameters and with whatever else decides the written bytes."""
    digest = hashlib.sha256(json.dumps(parameters).encode())
    sources = (
        Path(__file__),
        Path(synthetic_notes.__file__),
        Path(synthetic_admissions.__file__),
        Path(synthetic_tables.__file__),
        LAYOUT_FILE,
        synthetic_notes.CONCEPTS_FILE,
        synthetic_notes.NOTE_TEMPLATES_FILE,
    )
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _holds(directory: Path, manifest: Mapping[str, object]) -> bool:
    """Whether `directory` already is this very output; raises if overwriting would lose somebody's files."""
    if directory.exists() and not directory.is_dir():
        raise MedcodeError(f"{directory} is a file: give a folder for the synthetic MIMIC")
    path = directory / MANIFEST_NAME
    if path.is_file():
        return bool(json.loads(path.read_text(encoding="utf-8")) == manifest)
    if directory.is_dir() and any(directory.iterdir()):
        raise MedcodeError(
            f"{directory} is not empty and has no {MANIFEST_NAME}, so it may hold real data: "
            "give an empty or new folder for the synthetic MIMIC"
        )
    return False


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # No file name and no time in the gzip header, so that equal rows are equal bytes.
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as text,
    ):
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
