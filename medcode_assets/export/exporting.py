"""A bundle to a folder of verified GGUF files: merge, write, quantize, verify; delivered as a whole or not at all."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from medcode_assets.artifacts import link_or_copy
from medcode_assets.export.card import base_name
from medcode_assets.export.chat_template import chat_template
from medcode_assets.export.delivery import Delivered, delivered, file_name, seal, write_companions
from medcode_assets.export.families import family_of
from medcode_assets.export.gguf import read_config, write_gguf
from medcode_assets.export.license import read_license
from medcode_assets.export.lora import write_lora_gguf
from medcode_assets.export.merge import merge_adapter
from medcode_assets.export.metadata import ModelMetadata
from medcode_assets.export.origin import read_origin, refuse_other_model
from medcode_assets.export.quantizations import QUANTIZATIONS, Quantization
from medcode_assets.export.quantize import quantize_gguf
from medcode_assets.export.report import GgufReport
from medcode_assets.export.tokenizer import read_tokenizer
from medcode_assets.export.validation import ValidationSample, Verification
from medcode_assets.export.workfolder import ExportWork, discard_work, put_back, refuse_large_export, work_folder
from medcode_assets.locks import waiting_lock
from medcode_assets.progress import advance
from medcode_assets.writing import refusing_unwritable
from medcode_serving.base_models import LocalModel
from medcode_serving.bundle import GGUF, Bundle
from medcode_serving.errors import MedcodeError
from medcode_serving.gguf_folder import GGUF_MANIFEST, GgufManifest, read_gguf_manifest, verify_folder

EXPORT_VERSION = 2
"""Raised whenever the same bundle would give other files: what an older one delivered, or left, is not used."""
LONGEST_EXPORT = 7 * 24 * 3600.0
"""Seconds to wait for another export of the same bundle."""
_SOURCE = "f16"
"""What K-quants are made from."""
INTENDED_USE = "Drafts of medical codes for clinical notes, which a coder reviews; no decisions about patients."
WORDS_INTENDED_USE = "Research on medical question answering: drafts that a professional checks; not for clinical use."


@dataclass(frozen=True)
class Export:
    """What came of an export."""

    folder: Path
    reports: tuple[GgufReport, ...]
    """Of every file that is in the folder, or would be, the most exact first."""
    manifest: GgufManifest | None
    """None: a file failed verification, and the folder is as it was."""
    problems: tuple[str, ...] = ()
    """Why nothing was delivered, each with its file's name."""
    unchanged: bool = False
    """All was there already."""

    @property
    def checksums(self) -> dict[str, str]:
        """sha256 of each GGUF file that is in the folder now, by name; none if nothing was ever delivered."""
        manifest = self.manifest or _manifest(self.folder)
        return {file.file: file.sha256 for file in manifest.files} if manifest else {}


def lora_name(bundle: Bundle) -> str:
    """Return the name of an adapter's own GGUF file."""
    return f"medcode-{bundle.manifest.recipe}-{bundle.manifest.version}-LoRA-F32.gguf"


def bundle_folder(bundle: Bundle) -> Path:
    """Return the folder inside a bundle from which its GGUF files are served."""
    return bundle.path / GGUF


def export_gguf(
    bundle: Bundle,
    base: LocalModel,
    quantizations: Sequence[str],
    *,
    target: Path,
    sample: ValidationSample,
    most_f1_lost: float = 0.03,
    lora: bool = False,
    anew: bool = False,
    on_wait: Callable[[str], None] | None = None,
) -> Export:
    """Make a bundle's GGUF files and put them into a folder, if every one of them answers as the merged model does.

    The folder keeps every number format that it holds. A file in it that is intact, and made from all that this export
    would make it from, is not made again; its report stays as `Verification.stands` says, else it is only verified
    again. If nothing is to be done, the folder is not touched. An export that was killed goes on from where it was.

    Args:
        bundle: The bundle.
        base: Its base model.
        quantizations: Names of `QUANTIZATIONS`.
        target: The folder, as `bundle_folder` has it; replaced as a whole.
        sample: What the files are held against the merged model on.
        most_f1_lost: Micro F1 that a file may lose.
        lora: Also deliver the adapter alone (`lora_name`), which goes with the base model's GGUF file.
        anew: Make everything again, and keep nothing of what is there.
        on_wait: Told who exports the same bundle, if somebody does.

    Raises:
        MedcodeError: adapter and base do not belong together, their kind is none that is exported, the target holds
            something else, or the disk is full.
    """
    with refusing_unwritable(target, "--output"):
        _refuse_foreign(target, bundle)
    _refuse_unsupported(base.path)
    folder = work_folder(bundle, target)
    with refusing_unwritable(target, "--output"), _alone(folder, on_wait):
        put_back(folder, target)
        job = _Job(bundle, base, folder, sample, most_f1_lost, anew=anew)
        manifest = None if anew else _manifest(target)
        held = {file.quantization for file in manifest.files if (target / file.file).exists()} if manifest else set()
        names = [name for name in QUANTIZATIONS if name in held.union(quantizations)]
        lora_there = manifest is not None and lora_name(bundle) in manifest.others
        if not anew:
            job.take(delivered(target, job.made_from))
        if held.issuperset(names) and job.stands(names) and (lora_there or not lora) and _sealed(target):
            discard_work(folder)  # what a kill just after the delivery left
            return Export(target, tuple(file.report for file in job.verify(names)), manifest, unchanged=True)
        if not anew and target != bundle_folder(bundle):  # what the bundle has need not be made for another folder
            job.take(delivered(bundle_folder(bundle), job.made_from))
        if lora or lora_there:
            job.write_lora()
        job.make(names)
        return job.deliver(target, job.verify(names), job.verify_lora())


def verify_files(
    bundle: Bundle,
    base: LocalModel,
    files: Sequence[Path],
    *,
    sample: ValidationSample,
    most_f1_lost: float = 0.03,
    on_wait: Callable[[str], None] | None = None,
) -> list[GgufReport]:
    """Hold GGUF files, wherever they are and whoever made them, against a bundle's model, which is merged for it.

    Args:
        bundle: What the files are said to be made from.
        base: Its base model.
        files: The files.
        sample: What they are held against the merged model on.
        most_f1_lost: Micro F1 that a file may lose.
        on_wait: Told who exports the same bundle, if somebody does.

    Raises:
        MedcodeError: adapter and base do not belong together, a file cannot be read, or the disk is full.
    """
    target = bundle_folder(bundle)
    folder = work_folder(bundle, target)
    with refusing_unwritable(folder), _alone(folder, on_wait):
        put_back(folder, target)
        under_way = folder.exists()  # what a killed export left is used, and left for the next one
        job = _Job(bundle, base, folder, sample, most_f1_lost)
        job.merge()
        for file in files:
            refuse_other_model(file, job.work.merged)
        reports = [job.verification.report(file, foreign=read_origin(file) is None) for file in files]
        if not under_way:
            discard_work(folder)
    return reports


class _Job:
    """One export under way: its metadata, its folder, its verification, and what it takes over from earlier ones."""

    def __init__(
        self,
        bundle: Bundle,
        base: LocalModel,
        folder: Path,
        sample: ValidationSample,
        most_f1_lost: float,
        *,
        anew: bool = False,
    ) -> None:
        self.bundle, self.base = bundle, base
        self.metadata = model_metadata(bundle, base)
        self.made_from = _made_from(bundle, base, self.metadata)
        self.work = ExportWork(folder, self.made_from, anew=anew)
        self.verification = Verification(
            bundle,
            base,
            self.work.merged,
            sample,
            most_f1_lost=most_f1_lost,
            metadata=self.metadata,
            folder=self.work.answers,
        )
        self._taken: dict[str, Delivered] = {}
        self._lora: Path | None = None

    def take(self, there: dict[str, Delivered]) -> None:
        """Take over files that were delivered before, with their reports; the first of a number format counts."""
        self._taken = there | self._taken

    def stands(self, names: Sequence[str]) -> bool:
        """Tell whether all files of these names were delivered before, with reports that still hold."""
        return all(self._standing(name) for name in names)

    def _standing(self, name: str) -> Delivered | None:
        taken = self._taken.get(name)
        return taken if taken and self.verification.stands(taken.report, taken.verified_on) else None

    def make(self, names: Sequence[str]) -> None:
        """Merge, and make the files that are not there yet."""
        for name in self._taken.keys() & {*names, _SOURCE}:
            self._file(name).unlink(missing_ok=True)
            link_or_copy(self._taken[name].path, self._file(name))
        missing = [name for name in names if not self._file(name).exists()]
        if any(QUANTIZATIONS[name].by_llamacpp for name in missing) and not self._file(_SOURCE).exists():
            missing = sorted({*missing, _SOURCE}, key=list(QUANTIZATIONS).index)  # K-quants come last there
        if not self.stands(names):
            self.merge(missing)
        for name in missing:
            self._write(QUANTIZATIONS[name])

    def merge(self, missing: Sequence[str] = ()) -> None:
        """Merge the adapter into its base, if that was not done; refuse first if it and `missing` find no room."""
        done = self.work.merged.exists()
        refuse_large_export(self.work.folder, self.base.path, missing, merge=not done)
        if not done:
            with tqdm(desc="merging", unit="tensor", delay=1) as bar:
                merge_adapter(
                    self.base.path,
                    self.bundle.adapter,
                    self.work.merged,
                    base_revision=self.base.revision,
                    on_progress=partial(advance, bar),
                )

    def _write(self, kind: Quantization) -> None:
        output = self._file(kind.name)
        with tqdm(desc=f"writing {kind.label}", unit="tensor", delay=1) as bar:
            told = partial(advance, bar)
            if kind.by_llamacpp:
                quantize_gguf(self._file(_SOURCE), output, kind.name, on_progress=told)
            else:
                write_gguf(self.work.merged, output, file_type=kind.name, metadata=self.metadata, on_progress=told)

    def verify(self, names: Sequence[str]) -> list[Delivered]:
        """Return each file with what verification finds of it, or found before."""
        return [self._standing(name) or self._verified(name) for name in names]

    def _verified(self, name: str) -> Delivered:
        file, fingerprint, before = self._file(name), self.verification.fingerprint, self._taken.get(name)
        report = self.work.report(file, fingerprint)
        if report is None:
            report = self.verification.report(file, f1=before.report.f1 if before else None)
            if report.passed:
                self.work.keep_report(file, fingerprint, report)
        return Delivered(file, report, fingerprint)

    def write_lora(self) -> None:
        """Write the adapter alone: first of all, for it is quick, and not every adapter can be written so."""
        self._lora = write_lora_gguf(
            self.base.path, self.bundle.adapter, self.work.folder / lora_name(self.bundle), metadata=self.metadata
        )

    def verify_lora(self) -> list[str]:
        """Return what is wrong with the adapter alone, over the base model in f32; nothing if none was written."""
        if self._lora is None:
            return []
        self.merge(["f32"])
        plain = self.work.folder / ".base-F32.gguf"
        metadata = ModelMetadata(name=self.metadata.base_model, version="")
        with tqdm(desc="verifying LoRA", total=1, delay=1) as bar:
            write_gguf(self.base.path, plain, file_type="f32", metadata=metadata)
            problems = self.verification.lora_problems(self._lora, plain)
            bar.update()
        plain.unlink()
        return problems

    def deliver(self, target: Path, files: Sequence[Delivered], of_lora: Sequence[str]) -> Export:
        """Put the files into the target with what goes with them; or, if one failed, delete what failed."""
        reports = tuple(file.report for file in files)
        problems = [f"{report.file}: {problem}" for report in reports for problem in report.problems]
        problems += [f"{lora_name(self.bundle)}: {problem}" for problem in of_lora]
        if problems:
            # The f16 file, too, if a K-quant was made from it and nobody looked at it.
            passed = {report.file for report in reports if report.passed}
            for name in ({report.file for report in reports} | {self._file(_SOURCE).name}) - passed:
                self.work.discard(self.work.file(name))
            return Export(target, reports, None, tuple(problems))
        delivery = self.work.delivery
        delivery.mkdir()
        for file in [*(self.work.file(report.file) for report in reports), *([self._lora] if self._lora else [])]:
            link_or_copy(file, delivery / file.name)
        write_companions(delivery, self.bundle, self.base.path, reports)
        verified_on = {file.report.file: file.verified_on for file in files}
        manifest = seal(delivery, self.bundle, reports, made_from=self.made_from, verified_on=verified_on)
        self.work.deliver(target)
        return Export(target, reports, manifest)

    def _file(self, name: str) -> Path:
        manifest = self.bundle.manifest
        return self.work.file(file_name(manifest.recipe, manifest.version, QUANTIZATIONS[name]))


def model_metadata(bundle: Bundle, base: LocalModel) -> ModelMetadata:
    """Return what a bundle's GGUF files say about themselves."""
    manifest = bundle.manifest
    return ModelMetadata(
        name=f"medcode-{manifest.recipe}",
        version=manifest.version,
        recipe=manifest.recipe,
        base_model=base_name(manifest.base_model.id),
        base_revision=manifest.base_model.revision,
        license=read_license(base.path),
        data_version=f"{manifest.data.release} split {manifest.data.split_hash[:12]}",
        intended_use=WORDS_INTENDED_USE if manifest.answers_in_words else INTENDED_USE,
        chat_template=chat_template(manifest.prompt),
    )


def _made_from(bundle: Bundle, base: LocalModel, metadata: ModelMetadata) -> dict[str, str]:
    """Return all that a bundle's GGUF files depend on."""
    manifest = bundle.manifest
    return {
        "export_version": str(EXPORT_VERSION),
        "bundle": f"{manifest.recipe}/{manifest.version}",
        "bundle_files": hashlib.sha256(json.dumps(manifest.files, sort_keys=True).encode()).hexdigest(),
        "base_revision": base.revision,
        "metadata": json.dumps(asdict(metadata)),
    }


def _refuse_foreign(target: Path, bundle: Bundle) -> None:
    """Raise MedcodeError if a folder holds anything but an export of this bundle: it would be deleted."""
    own = target == bundle_folder(bundle)
    if not own and (bundle.path in target.parents or target == bundle.path):
        raise MedcodeError(f"--output {target}: inside the bundle, which is sealed; name a folder elsewhere")
    if target.is_mount():
        raise MedcodeError(f"--output {target}: a mount point, which cannot be replaced; name a folder inside it")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    known = {GGUF_MANIFEST}
    if (manifest := _manifest(target)) is not None:
        if (manifest.recipe, manifest.version) != (bundle.manifest.recipe, bundle.manifest.version):
            raise MedcodeError(f"--output {target}: holds the files of bundle {manifest.version}; name another folder")
        known |= {*manifest.others, *(file.file for file in manifest.files)}
    elif own:
        known |= {file.name for file in target.glob("*.gguf")}  # of an older medcode
    else:
        raise MedcodeError(f"--output {target}: holds something else; name a new folder, or an empty one")
    for file in sorted(target.rglob("*")):
        if file.is_file() and str(file.relative_to(target)) not in known:
            raise MedcodeError(f"{file}: not of the export, and would be deleted; move it, or name another folder")


def _manifest(folder: Path) -> GgufManifest | None:
    """Return a folder's manifest; None: there is none, or an older medcode wrote it."""
    try:
        return read_gguf_manifest(folder)
    except (MedcodeError, NotADirectoryError):
        return None


def _sealed(folder: Path) -> bool:
    """Tell whether nothing is missing in a folder, or changed."""
    try:
        verify_folder(folder)
    except MedcodeError:
        return False
    return True


def _refuse_unsupported(model: Path) -> None:
    """Raise MedcodeError for a model or tokenizer that cannot be exported, before hours go into merging it."""
    config = read_config(model)
    family_of(config)
    read_tokenizer(model, config["vocab_size"])


def _alone(folder: Path, on_wait: Callable[[str], None] | None) -> AbstractContextManager[None]:
    """Hold an export's folder: two at once would write the same files, or deliver one another's."""
    return waiting_lock(
        folder.with_name(f"{folder.name}.lock"),
        what=f"the export into {folder.parent}",
        exclusive=True,
        purpose="another export",
        wait_seconds=LONGEST_EXPORT,
        on_wait=on_wait,
    )
