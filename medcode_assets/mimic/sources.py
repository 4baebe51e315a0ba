"""Registered MIMIC versions: which folder holds which release, and where in it each table's file lies."""

import csv
import gzip
import json
import re
import zlib
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import yaml

from medcode_serving.errors import MedcodeError

RELEASES = ("mimic-iii", "mimic-iv")


@dataclass(frozen=True)
class TableSpec:
    """How one raw table is read: file, columns and their DuckDB types."""

    name: str
    file: str
    columns: dict[str, str]
    keep: str | None = None
    """SQL condition; rows that do not meet it are not loaded."""
    origin: str | None = None
    """Where the file comes from, if not from the release itself."""
    must_have_rows: bool = False


@dataclass(frozen=True)
class MimicVersion:
    """A folder of MIMIC files, registered under the name of its partition."""

    name: str
    release: str
    directory: str


@cache
def table_specs(release: str) -> dict[str, TableSpec]:
    """Return the specs of a release's tables by table name (specs/<release>.yaml).

    Raises:
        MedcodeError: the release is unknown.
    """
    if release not in RELEASES:
        raise MedcodeError(f"--dataset-version {release}: unknown; choose one of {', '.join(RELEASES)}")
    text = resources.files(__package__).joinpath("specs", f"{release}.yaml").read_text()
    return {
        name: TableSpec(
            name=name,
            file=table["file"],
            columns=table["columns"],
            keep=table.get("keep"),
            origin=table.get("from"),
            must_have_rows=table.get("must_have_rows", False),
        )
        for name, table in yaml.safe_load(text)["tables"].items()
    }


def find_files(version: MimicVersion) -> dict[str, Path]:
    """Find the file of every table below the version's folder, in any letter case, `.csv` or `.csv.gz`.

    Raises:
        MedcodeError: the folder or a file is missing (all missing ones are named), or two files claim one table.
    """
    root = Path(version.directory)
    if not root.is_dir():
        raise MedcodeError(f"--mimic-dir {root}: no such folder")
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        match = re.fullmatch(r"(.+)\.csv(\.gz)?", path.name, flags=re.IGNORECASE)
        if match and path.is_file():
            by_stem.setdefault(match[1].lower(), []).append(path)
    found, missing = {}, []
    for spec in table_specs(version.release).values():
        candidates = _best(by_stem.get(Path(spec.file).name.lower(), []), spec.file)
        if len(candidates) > 1:
            names = " and ".join(str(path.relative_to(root)) for path in candidates)
            raise MedcodeError(f"{root}: {names} both claim table {spec.name}; keep one, or give the inner folder")
        if candidates:
            found[spec.name] = candidates[0]
        else:
            missing.append(f"{spec.file}.csv.gz" + (f" (from {spec.origin})" if spec.origin else ""))
    if missing:
        raise MedcodeError(
            f"{root}: not a complete {version.release} folder: expected {', '.join(missing)} "
            "(or .csv, any letter case, at any depth) there"
        )
    return found


def _best(candidates: list[Path], expected: str) -> list[Path]:
    """Keep the candidates in the expected folder (hosp/patients) if there are any: other databases lie beside it."""
    folder = str(Path(expected).parent).lower()
    inside = [path for path in candidates if path.parent.name.lower() == folder]
    return inside or candidates


def header(path: Path) -> list[str]:
    """Return a CSV file's column names in lower case.

    Raises:
        MedcodeError: the file is empty, or not the gzip file that its name says.
    """
    try:
        with gzip.open(path, "rt") if path.suffix.lower() == ".gz" else path.open() as stream:
            names = next(csv.reader(stream), [])
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise MedcodeError(f"{path}: broken gzip file; download it again and compare SHA256SUMS.txt") from None
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
            f"{path}: column {', '.join(missing)} missing for table {spec.name}; found {', '.join(names)}. "
            "Is --dataset-version right?"
        )


def register(home: Path, version: MimicVersion) -> dict[str, Path]:
    """Remember a version after checking that its files and columns are there; return the files by table.

    A folder that was moved may come back under its name: fingerprints tell whether its files are still the same.

    Raises:
        MedcodeError: a file or column is missing, another folder is registered under the name, or the name would be
            no file name.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", version.name):
        raise MedcodeError(f"--name {version.name}: use small letters, digits, dots, dashes and underscores only")
    files = find_files(version)
    for name, path in files.items():
        check_columns(path, table_specs(version.release)[name])
    record = _record(home, version.name)
    known = registered(home, version.name) if record.exists() else version
    moved = known.release == version.release and not Path(known.directory).exists()
    if known != version and not moved:
        raise MedcodeError(
            f"MIMIC version {version.name!r} is {known.release} in {known.directory} already; "
            "give this one another --name"
        )
    record.parent.mkdir(parents=True, exist_ok=True)
    aside = record.with_suffix(".new")
    aside.write_text(json.dumps(asdict(version), indent=2))
    aside.replace(record)
    return files


def registered(home: Path, name: str) -> MimicVersion:
    """Return a registered version. Raises MedcodeError if there is none of that name."""
    try:
        return MimicVersion(**json.loads(_record(home, name).read_text()))
    except FileNotFoundError:
        raise MedcodeError(
            f"MIMIC version {name!r} is not registered in {home}: "
            f"medcode register --mimic-dir DIR --dataset-version mimic-iii|mimic-iv --name {name}"
        ) from None


def version_name(directory: Path, release: str) -> str:
    """Return the partition name of a folder: its own name, with the release where that says too little.

    `physionet.org/files/mimiciv/3.1` → `mimic-iv-3.1`; `codiesp-mimic-iv` → `codiesp-mimic-iv`.
    """
    name = re.sub(r"[^a-z0-9.]+", "-", directory.resolve().name.lower()).strip("-.")
    return name if name[:1].isalpha() else f"{release}-{name}".rstrip("-")


def _record(home: Path, name: str) -> Path:
    return home / "sources" / f"{name}.json"
