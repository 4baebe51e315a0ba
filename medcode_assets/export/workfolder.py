"""The folder of an export under way: what a killed one finished is not made again."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from medcode_assets.export.quantizations import QUANTIZATIONS
from medcode_assets.export.report import GgufReport
from medcode_assets.writing import refuse_little_disk
from medcode_serving.bundle import Bundle, file_sha256
from medcode_serving.errors import MedcodeError

_MADE_FROM = "made_from.json"
_REPLACED = "replaced"
_BYTES_PER_WEIGHT = {"f32": 4.0, "f16": 2.0, "bf16": 2.0}
_MOST_QUANTIZED = 8.5 / 8
"""Bytes a weight of q8_0; a K-quant has fewer, but falls back to it for rows that do not divide by 256."""


def work_folder(bundle: Bundle, target: Path) -> Path:
    """Return where an export into `target` is prepared: on its file system, and not inside the checksummed bundle.

    Each target has its own: a killed export may have left an earlier one's files there (`put_back`).
    """
    manifest = bundle.manifest
    if target.parent == bundle.path:
        return bundle.path.parent / f".{manifest.version}.gguf-work"
    return target.parent / f".{manifest.recipe}-{manifest.version}.{target.name}.gguf-work"


def put_back(folder: Path, target: Path) -> None:
    """Give a target back its name if an export was killed between the two renames of `ExportWork.deliver`."""
    if (folder / _REPLACED).exists() and not target.exists():
        (folder / _REPLACED).rename(target)


def discard_work(folder: Path) -> None:
    """Delete an export's folder."""
    shutil.rmtree(folder, ignore_errors=True)


class ExportWork:
    """One export's folder.

    made_from.json    what all the rest comes from
    merged/           the merged model, complete
    files/            finished GGUF files, by the names that they will have
    reports/          what verification found, by the same names
    answers/          the merged model's, and the trie of the codes
    gguf/             what will be delivered, while it is put together
    """

    def __init__(self, folder: Path, made_from: dict[str, str], *, anew: bool = False) -> None:
        """Open a folder; what was made from anything else goes, and what was cut off half-written. `anew`: all goes."""
        self.folder = folder
        self.merged, self.answers, self.delivery = folder / "merged", folder / "answers", folder / "gguf"
        self._files, self._reports = folder / "files", folder / "reports"
        if anew or self._made_from() != made_from:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / _MADE_FROM).write_text(json.dumps(made_from, indent=2))
        self._files.mkdir(exist_ok=True)
        self._reports.mkdir(exist_ok=True)
        for half in (
            self.delivery,
            folder / _REPLACED,
            *folder.glob(".*"),
            *self._files.glob(".*"),
        ):  # writers' names until a rename
            shutil.rmtree(half) if half.is_dir() else half.unlink(missing_ok=True)

    def _made_from(self) -> dict[str, str] | None:
        try:
            made_from: dict[str, str] = json.loads((self.folder / _MADE_FROM).read_text())
        except (OSError, ValueError):
            return None
        return made_from

    def file(self, name: str) -> Path:
        """Return where a file is, or will be once it is finished."""
        return self._files / name

    def report(self, file: Path, sample: str) -> GgufReport | None:
        """Return what verification found of a file if neither it nor the sample (its fingerprint) changed since."""
        try:
            kept = json.loads(self._report_file(file).read_text())
            report = GgufReport.model_validate(kept["report"])
        except (OSError, ValueError, KeyError, ValidationError):
            return None
        return report if kept["sample"] == sample and kept["sha256"] == file_sha256(file) else None

    def keep_report(self, file: Path, sample: str, report: GgufReport) -> None:
        """Keep what verification found, for an export that is killed before it delivers."""
        kept = {"sha256": file_sha256(file), "sample": sample, "report": report.model_dump(mode="json")}
        aside = self._report_file(file).with_suffix(".new")
        aside.write_text(json.dumps(kept, indent=2))
        aside.replace(self._report_file(file))

    def discard(self, file: Path) -> None:
        """Delete a file that must not be used again, with its report."""
        file.unlink(missing_ok=True)
        self._report_file(file).unlink(missing_ok=True)

    def deliver(self, target: Path) -> None:
        """Put the new folder in the place of an earlier one, and delete this one.

        What a kill between the two renames leaves is mended by `put_back`.
        """
        if target.exists():
            target.rename(self.folder / _REPLACED)
        self.delivery.rename(target)
        discard_work(self.folder)

    def _report_file(self, file: Path) -> Path:
        return self._reports / f"{file.stem}.json"


def refuse_large_export(folder: Path, model: Path, missing: Sequence[str], *, merge: bool) -> None:
    """Refuse an export that will not fit onto the disk, before hours go into it.

    Args:
        folder: An existing folder on the disk in question.
        model: Folder of the model that is exported, or its base: as many weights.
        missing: Number formats that are still to be written.
        merge: Whether the merged model (fp32) is still to be written, too.

    Raises:
        MedcodeError: not enough room; says how much is needed.
    """
    weights = _weights(model)
    needed = weights * (4.0 * merge + sum(_BYTES_PER_WEIGHT.get(name, _MOST_QUANTIZED) for name in missing))
    what = [*(["the merged model"] if merge else []), *(QUANTIZATIONS[name].label for name in missing)]
    refuse_little_disk(folder, needed, ", ".join(what))


def _weights(model: Path) -> int:
    """Return how many weights a model folder holds, from the headers of its files."""
    from math import prod

    from safetensors import SafetensorError, safe_open

    count = 0
    for file in sorted(model.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np") as stored:
                count += sum(prod(stored.get_slice(name).get_shape()) for name in stored.keys())  # noqa: SIM118
        except (OSError, SafetensorError):
            raise MedcodeError(f"{file}: no safetensors file that can be read; fetch the model anew") from None
    return count
