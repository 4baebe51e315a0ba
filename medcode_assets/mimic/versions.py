"""Registered MIMIC versions: which folder holds which release, under the name of its partition."""

import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from uuid import uuid4

from medcode_assets.mimic.sources import (
    MimicVersion,
    check_columns,
    csv_files,
    find_files,
    header,
    is_demo,
    split_release,
    stem,
    table_specs,
    version_in,
)
from medcode_serving.errors import MedcodeError

ANCHOR = "diagnoses_icd"
"""The file by whose columns a release is recognised; every release has one."""


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
            f"give this one another --name, or first: medcode versions remove {version.name}"
        )
    record.parent.mkdir(parents=True, exist_ok=True)
    aside = record.with_name(f".{record.name}.{uuid4().hex}")  # sensor and command may register at once
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
            f"medcode versions add --mimic-dir DIR --dataset-version mimic-iii|mimic-iv --name {name}"
        ) from None


def all_registered(home: Path) -> list[MimicVersion]:
    """Return every registered version, by name."""
    return [registered(home, record.stem) for record in sorted((home / "sources").glob("*.json"))]


def unregister(home: Path, name: str) -> None:
    """Forget a version; its files, its warehouse and its bundles stay. Raises MedcodeError if it is not registered."""
    registered(home, name)
    _record(home, name).unlink()


def version_name(directory: Path, release: str) -> str:
    """Return the partition name of a folder: its own name, with the release where that says too little.

    `physionet.org/files/mimiciv/3.1` → `mimic-iv-3.1`; `codiesp-mimic-iv` → `codiesp-mimic-iv`.
    """
    family, number = split_release(release)
    if number:
        return release
    name = re.sub(r"[^a-z0-9.]+", "-", directory.resolve().name.lower()).strip("-.")
    return name if name[:1].isalpha() else f"{family}-{name}".rstrip("-")


def discover(folder: Path) -> dict[str, MimicVersion]:
    """Return the releases below a folder by name, complete or not: each in a folder of its own, or as PhysioNet lays
    them out.

    A release is known by its diagnoses_icd file. Its folder is the least one that holds all its files, so that
    MIMIC-IV-Note's tree, a download of its own, is found beside.
    """
    anchors = {path: family for path in csv_files(folder) if stem(path) == ANCHOR and (family := _family(path))}
    bases = {_base(anchor, folder) for anchor in anchors}
    found: dict[str, MimicVersion] = {}
    for anchor, family in anchors.items():
        base = _base(anchor, folder)
        if is_demo(anchor.relative_to(folder)):
            continue  # PhysioNet's demos have no notes
        number = version_in(Path(base.name), family)
        release = f"{family}-{number}" if number else family
        name = version_name(base, release)
        if name in found:  # two folders of one name in different places
            name = version_name(Path(str(base.relative_to(folder)).replace(os.sep, "-")), family)
        found[name] = MimicVersion(name, release, str(_least_complete(base, folder, release, bases - {base})))
    return found


def _base(anchor: Path, folder: Path) -> Path:
    """Return a release's own folder: the one with `hosp` in MIMIC-IV, the one with the file in MIMIC-III."""
    base = anchor.parent.parent if anchor.parent.name.lower() == "hosp" else anchor.parent
    return base if base.is_relative_to(folder) else folder


def _least_complete(base: Path, limit: Path, release: str, others: set[Path]) -> Path:
    """Return the first of `base` and the folders above it that has every file; `base` if none has.

    Files of another release do not count: its notes would be taken for those that are still being downloaded.
    """
    for folder in (base, *base.parents):
        try:
            find_files(MimicVersion("", release, str(folder)), foreign=others)
        except MedcodeError:
            if folder == limit:
                return base
        else:
            return folder
    return base


def _family(anchor: Path) -> str | None:
    try:
        columns = header(anchor)
    except MedcodeError:
        return None
    if "icd_version" in columns:
        return "mimic-iv"
    return "mimic-iii" if "icd9_code" in columns else None


def _record(home: Path, name: str) -> Path:
    return home / "sources" / f"{name}.json"
