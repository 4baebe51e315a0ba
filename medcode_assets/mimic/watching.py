"""A watched folder: which releases are there, and which of them are complete and new."""

from dataclasses import dataclass
from pathlib import Path

from medcode_assets.mimic.sources import MimicVersion, find_files, stat_signature
from medcode_assets.mimic.versions import ANCHOR, all_registered, discover
from medcode_serving.errors import MedcodeError


@dataclass(frozen=True)
class Sighting:
    """One release in the watched folder, at one look."""

    version: MimicVersion
    signature: str | None
    """Size and time of change of all its files; None while files are missing."""
    problem: str = ""
    """What is missing."""


def look(folder: Path, home: Path) -> list[Sighting]:
    """Return the releases below a folder, but for those that are registered under other names.

    Raises:
        MedcodeError: there is no such folder.
    """
    folder = folder.expanduser().resolve()  # as versions that are added by hand
    if not folder.is_dir():
        raise MedcodeError(f"automation.watch_folder {folder}: no such folder")
    elsewhere = _registered_anchors(home)
    sightings = []
    for name, version in sorted(discover(folder).items()):
        try:
            files = find_files(version)
            signature = stat_signature(files)
        except (MedcodeError, FileNotFoundError) as error:  # or a file was renamed just now
            sightings.append(Sighting(version, None, str(error)))
            continue
        if elsewhere.get(files[ANCHOR].resolve(), name) == name:
            sightings.append(Sighting(version, signature))
    return sightings


def settled(sighting: Sighting, before: str | None) -> bool:
    """Whether a release is complete: all files are there, and as they were at the look before."""
    return sighting.signature is not None and sighting.signature == before


def _registered_anchors(home: Path) -> dict[Path, str]:
    """Return the names of registered versions by the file that identifies them."""
    anchors = {}
    for version in all_registered(home):
        try:
            anchors[find_files(version)[ANCHOR].resolve()] = version.name
        except MedcodeError:
            continue  # its folder is gone or incomplete by now: nothing that could be found again
    return anchors
