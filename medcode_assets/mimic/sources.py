"""MIMIC's files: what each release has as data (specs/), and where below a folder each table's file lies."""

import csv
import gzip
import os
import re
import zlib
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from medcode_assets.warehouse import fingerprint
from medcode_serving.errors import MedcodeError

FAMILIES = ("mimic-iii", "mimic-iv")
CSV_FILE = re.compile(r"(.+)\.csv(\.gz)?", flags=re.IGNORECASE)
CHECKSUMS = "SHA256SUMS.txt"
DOWNLOAD_AGAIN = f"download it again and compare {CHECKSUMS}"
UTF8 = "utf-8-sig"
"""Some tools begin a file with a byte order mark."""


@dataclass(frozen=True)
class TableSpec:
    """How one raw table is read: file, columns and their DuckDB types."""

    name: str
    file: str | None
    """Path without suffix, as in the release; None: the release has no such table, and it stays empty."""
    columns: dict[str, str]
    derived: dict[str, str] = field(default_factory=dict)
    """More columns: SQL over the declared ones."""
    keep: str | None = None
    """SQL condition; rows that do not meet it are not loaded."""
    origin: str | None = None
    """Where the file comes from, if not from the release itself."""
    must_have_rows: bool = False
    optional: bool = False
    """A folder without the file is complete all the same; the table is empty then."""
    rows: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Published numbers of loaded rows, by version of the release."""


@dataclass(frozen=True)
class Release:
    """A family of MIMIC releases with the same files and columns."""

    title: str
    versions: tuple[str, ...]
    tables: dict[str, TableSpec]


@dataclass(frozen=True)
class MimicVersion:
    """A folder of MIMIC files, registered under the name of its partition."""

    name: str
    release: str
    """As `--dataset-version` has it: mimic-iv, or mimic-iv-3.1 where one folder holds several."""
    directory: str


def dataset_versions() -> list[str]:
    """Return what `--dataset-version` may be: mimic-iii, mimic-iii-1.4, mimic-iv, ..."""
    return [name for family in FAMILIES for name in (family, *(f"{family}-{v}" for v in _release(family).versions))]


def split_release(release: str) -> tuple[str, str | None]:
    """Return family and version of a release: `mimic-iv-3.1` → (mimic-iv, 3.1), `mimic-iv` → (mimic-iv, None).

    Raises:
        MedcodeError: the release is unknown.
    """
    for family in FAMILIES:
        if release == family:
            return family, None
        for version in _release(family).versions:
            if release == f"{family}-{version}":
                return family, version
    raise MedcodeError(f"--dataset-version {release}: unknown; choose one of {', '.join(dataset_versions())}")


def release_spec(release: str) -> Release:
    """Return what a release has (specs/<family>.yaml). Raises MedcodeError if it is unknown."""
    return _release(split_release(release)[0])


def table_specs(release: str) -> dict[str, TableSpec]:
    """Return the specs of a release's tables by table name. Raises MedcodeError if the release is unknown."""
    return release_spec(release).tables


@cache
def _release(family: str) -> Release:
    spec = yaml.safe_load(resources.files(__package__).joinpath("specs", f"{family}.yaml").read_text())
    return Release(
        title=spec["title"],
        versions=tuple(spec["versions"]),
        tables={name: _table(name, table) for name, table in spec["tables"].items()},
    )


def _table(name: str, table: dict[str, Any]) -> TableSpec:
    counts = {version: rows if isinstance(rows, list) else [rows] for version, rows in table.get("rows", {}).items()}
    return TableSpec(
        name=name,
        file=table["file"],
        columns=table["columns"],
        derived=table.get("derived", {}),
        keep=table.get("keep"),
        origin=table.get("from"),
        must_have_rows=table.get("must_have_rows", False),
        optional=table.get("optional", False),
        rows={version: tuple(rows) for version, rows in counts.items()},
    )


def find_files(version: MimicVersion, *, foreign: Collection[Path] = ()) -> dict[str, Path]:
    """Find the file of every table below the version's folder, in any letter case, `.csv` or `.csv.gz`.

    Optional tables without a file are not in the result. Links to folders are followed. Files below a folder of
    `foreign` belong to other releases.

    Raises:
        MedcodeError: the folder or a file is missing (all missing ones are named), or two files claim one table.
    """
    root = Path(version.directory)
    if not root.is_dir():
        raise MedcodeError(f"--mimic-dir {root}: no such folder")
    by_stem: dict[str, list[Path]] = {}
    for path in csv_files(root):
        if not any(folder in path.parents for folder in foreign):
            by_stem.setdefault(stem(path), []).append(path)
    found, missing = {}, []
    for spec in table_specs(version.release).values():
        if spec.file is None:
            continue
        candidates = _best(by_stem.get(Path(spec.file).name.lower(), []), spec, version)
        if len(candidates) > 1:
            raise _ambiguous(root, spec, candidates, version.release)
        if candidates:
            found[spec.name] = candidates[0]
        elif not spec.optional:
            missing.append(f"{spec.file}.csv.gz" + (f" (from {spec.origin})" if spec.origin else ""))
    if missing:
        raise MedcodeError(
            f"{root}: not a complete {version.release} folder: expected {', '.join(missing)} "
            "(or .csv, any letter case, at any depth) there"
        )
    return found


def csv_files(root: Path) -> list[Path]:
    """Return the CSV files below a folder, sorted; links to folders are followed, each folder once."""
    found, seen = [], set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        found += [Path(folder, name) for name in names if CSV_FILE.fullmatch(name)]
    return sorted(path for path in found if path.is_file())


def stem(path: Path) -> str:
    """Return a CSV file's name without its suffixes, in lower case: `NOTEEVENTS.csv.gz` → `noteevents`."""
    match = CSV_FILE.fullmatch(path.name)
    return match[1].lower() if match else path.name.lower()


def _best(candidates: list[Path], spec: TableSpec, version: MimicVersion) -> list[Path]:
    """Keep the candidates of the release, and of those the ones in the expected folder (hosp/patients), if any.

    Other databases and other releases may lie beside: `mimiciv/2.2/hosp`, `mimiciv/3.1/hosp`, `mimic-iv-ed/2.2/ed`,
    and PhysioNet's demos. A table with an origin of its own has versions of its own.
    """
    root = Path(version.directory)
    full = [path for path in candidates if not is_demo(path.relative_to(root))] or candidates
    number = split_release(version.release)[1]
    if number and spec.origin is None:
        full = [path for path in full if version_in(path.relative_to(root), version.release) in (number, None)]
    folder = str(Path(spec.file or "").parent).lower()
    return [path for path in full if path.parent.name.lower() == folder] or full


def version_in(path: Path, release: str) -> str | None:
    """Return the release's version that a folder names, as PhysioNet's do: `mimiciv/3.1`, `mimic-iv-3.1`."""
    versions = "|".join(re.escape(known) for known in release_spec(release).versions)
    for part in reversed(path.parts):
        if match := re.search(rf"(?:^|[-_v])({versions})$", part):
            return match[1]
    return None


def is_demo(path: Path) -> bool:
    """Whether a folder of the path is one of PhysioNet's demos: `mimic-iv-demo`, `mimiciii-demo`."""
    return any(re.search(r"(^|[-_])demo([-_]|$)", part.lower()) for part in path.parts[:-1])


def _ambiguous(root: Path, spec: TableSpec, candidates: list[Path], release: str) -> MedcodeError:
    names = " and ".join(str(path.relative_to(root)) for path in candidates)
    family = split_release(release)[0]
    numbered = " or ".join(f"{family}-{number}" for number in _release(family).versions)
    return MedcodeError(
        f"{root}: {names} both claim table {spec.name}; keep one, give the inner folder, or say which release: "
        f"--dataset-version {numbered}"
    )


def known_version(version: MimicVersion, path: Path) -> str | None:
    """Return a file's version of its release, where registration or PhysioNet's folder names tell it."""
    return split_release(version.release)[1] or version_in(path.parent, version.release)


def header(path: Path) -> list[str]:
    """Return a CSV file's column names in lower case.

    Raises:
        MedcodeError: the file is empty, or not the gzip file that its name says.
    """
    gzipped = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path, "rt", encoding=UTF8) if gzipped else path.open(encoding=UTF8) as stream:
            names = next(csv.reader(stream), [])
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise MedcodeError(f"{path}: broken gzip file; {DOWNLOAD_AGAIN}") from None
    except (UnicodeDecodeError, csv.Error):
        raise MedcodeError(f"{path}: not a CSV file in UTF-8; download it again") from None
    if not names:
        raise MedcodeError(f"{path}: empty file, expected a header line; download it again")
    return [name.strip().lower() for name in names]


def check_columns(path: Path, spec: TableSpec) -> None:
    """Raise MedcodeError unless a file's header has every column of its table's spec."""
    names = header(path)
    missing = [column for column in spec.columns if column not in names]
    if missing:
        raise MedcodeError(
            f"{path}: column {', '.join(missing)} missing for table {spec.name}; {found_columns(names)}. "
            "Is --dataset-version right?"
        )
    if len(set(names)) < len(names):
        raise MedcodeError(f"{path}: two columns of one name; {found_columns(names)}; {DOWNLOAD_AGAIN}")


def found_columns(names: list[str]) -> str:
    """Say which columns a file has, unless its first line is no header: then it has somebody's data."""
    if all(re.fullmatch(r"[a-z_][a-z0-9_]{0,40}", name) for name in names):
        return f"found {', '.join(names)}"
    return "its first line is no header"


def published_sha256(path: Path, root: Path) -> str | None:
    """Return a file's sha256 as the SHA256SUMS.txt in its folder or one above says, up to `root`; None: not listed."""
    for folder in path.parents:
        sums = folder / CHECKSUMS
        if sums.is_file():
            wanted = str(path.relative_to(folder)).lower()
            for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
                sha256, _, name = line.strip().partition(" ")
                if name.strip().lstrip("*").removeprefix("./").lower() == wanted:
                    return sha256.lower()
        if folder == root:
            break
    return None


def stat_signature(files: dict[str, Path]) -> str:
    """Return a fingerprint of the files' sizes and times of change, which tells in no time whether to look closer."""
    stats = {table: (str(path), path.stat().st_size, path.stat().st_mtime_ns) for table, path in files.items()}
    return fingerprint(files=stats)
