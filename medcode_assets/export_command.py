"""What `medcode export` and `medcode verify-export` do with a bundle that is there."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medcode_assets.commands import require_assets_extra
from medcode_assets.config import Settings
from medcode_serving.base_models import LocalModel, resolve_base_model
from medcode_serving.bundle import GGUF, Bundle, bundle_versions, latest_bundle, open_bundle
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from medcode_assets.export.report import GgufReport
    from medcode_assets.export.validation import ValidationSample


def choose_bundle(home: Path, recipe: str, folder: Path | None, version: str | None) -> Bundle:
    """Open the bundle in a folder, or a recipe's of a version; where neither is given, the one that LATEST names.

    Raises:
        MedcodeError: both are given, or there is no such bundle.
    """
    root = (home / "bundles").resolve()
    if folder is not None and version is not None:
        raise MedcodeError("--bundle and --version both name a bundle; give one")
    if folder is not None:
        return open_bundle(folder.resolve())
    if version is None:
        return latest_bundle(root, recipe)
    if version not in (versions := bundle_versions(root, recipe)):
        there = ", ".join(versions) or "none"
        raise MedcodeError(f"--version {version}: no such bundle of recipe {recipe} in {root}; there are: {there}")
    return open_bundle(root / recipe / version)


def _base_of(bundle: Bundle, home: Path) -> LocalModel:
    model = bundle.manifest.base_model
    return resolve_base_model(model.id, home / "base_models", revision=model.revision, added_tokens=model.added_tokens)


def export_bundle(
    settings: Settings,
    home: Path,
    bundle: Bundle,
    *,
    output: Path | None,
    lm_studio: Path | None,
    lora: bool,
    anew: bool,
) -> bool:
    """Export a bundle and print what came of it; return whether the files were delivered.

    Args:
        settings: Sections export and warehouse are read.
        home: MEDCODE_HOME.
        bundle: The bundle.
        output: Folder for the files; None: the bundle's own.
        lm_studio: LM Studio's folder of models, to put the files there, too.
        lora: Whether the adapter alone goes with them.
        anew: Make everything again.

    Raises:
        MedcodeError: its base model is not to be had; or as `export_gguf` and `install_in_lm_studio`.
    """
    require_assets_extra()
    from medcode_assets.export.exporting import bundle_folder, export_gguf, lora_name
    from medcode_assets.export.lm_studio import install_in_lm_studio

    if lm_studio is not None and not lm_studio.expanduser().is_dir():  # before an hour of work
        raise MedcodeError(f"--lm-studio {lm_studio}: no such folder; name LM Studio's own, as in ~/.lmstudio/models")
    started = time.monotonic()
    base = _base_of(bundle, home)
    export = settings.export
    typer.echo(f"export: bundle {bundle.manifest.version} of recipe {bundle.manifest.recipe} over {base.id}", err=True)
    done = export_gguf(
        bundle,
        base,
        export.quantizations,
        target=output.resolve() if output else bundle_folder(bundle),
        sample=_sample(settings, home, bundle, base),
        most_f1_lost=export.most_f1_lost,
        lora=lora,
        anew=anew,
        on_wait=_say,
    )
    _print_reports(done.reports)
    typer.echo(f"\ntook {time.monotonic() - started:,.0f} s", err=True)
    if done.manifest is None:
        _say("nothing was delivered:", *done.problems)
        return False
    typer.echo(f"{'Unchanged' if done.unchanged else 'Written'}: {done.folder} (README.md there says how to use it)")
    if lora:
        typer.echo(
            f"{lora_name(bundle)}, verified over the base model in f32, goes over a GGUF file of that, {base.id}: "
            "llama-server -m BASE --lora FILE"
        )
    if lm_studio is not None:
        for file in install_in_lm_studio(done.folder, lm_studio):
            typer.echo(f"LM Studio: {file}")
    return True


def print_export(home: Path, partition: str) -> None:
    """Print what the files of a MIMIC version's newest exported bundle lose, and where they are."""
    from medcode_assets.export.report import GgufReport
    from medcode_serving.gguf_folder import GGUF_MANIFEST, read_gguf_manifest

    exported = sorted((home / "bundles").glob(f"*/*/{GGUF}/{GGUF_MANIFEST}"), key=lambda file: file.stat().st_mtime)
    for file in reversed(exported):
        if open_bundle(file.parents[1]).manifest.data.partition == partition:
            manifest = read_gguf_manifest(file.parent)
            _print_reports([GgufReport.model_validate(found.verification) for found in manifest.files])
            typer.echo(f"\nGGUF files: {file.parent} (README.md there says how to use them)")
            return


def verify(settings: Settings, home: Path, path: Path, folder: Path | None, *, as_json: bool) -> bool:
    """Hold a GGUF file, or each of a folder, against its bundle's model; print what is found; return whether all pass.

    Args:
        settings: Sections export and warehouse are read.
        home: MEDCODE_HOME.
        path: The file, or a folder that `export_bundle` wrote.
        folder: The bundle's; None: that of the bundle which the file names, in the home.
        as_json: Print the reports as JSON.

    Raises:
        MedcodeError: a file cannot be read or is of another bundle, or the bundle or its base model is not to be had.
    """
    require_assets_extra()
    from medcode_assets.export.exporting import verify_files
    from medcode_serving.gguf_folder import verify_folder

    files = [path]
    if path.is_dir():
        files = [path / file.file for file in verify_folder(path).files]
    bundle = _bundle_of(files, home, folder)
    base = _base_of(bundle, home)
    reports = verify_files(
        bundle,
        base,
        files,
        sample=_sample(settings, home, bundle, base),
        most_f1_lost=settings.export.most_f1_lost,
        on_wait=_say,
    )
    if as_json:
        typer.echo(json.dumps([report.as_json() for report in reports], indent=2))
    else:
        _print_reports(reports)
    _say(*(f"{report.file}: {problem}" for report in reports for problem in report.problems))
    return all(report.passed for report in reports)


def _bundle_of(files: Sequence[Path], home: Path, folder: Path | None) -> Bundle:
    """Return the bundle that GGUF files say they come from.

    Raises:
        MedcodeError: they name none, or another one than `folder`'s.
    """
    from medcode_assets.export.origin import read_origin

    origins = [read_origin(file) for file in files]
    if folder is None:
        if not origins or origins[0] is None:
            raise MedcodeError(f"{files[0]}: does not say which bundle it was made from; name it with --bundle")
        folder = home / "bundles" / origins[0].recipe / origins[0].version
    bundle = open_bundle(folder.resolve())
    asked = bundle.manifest.recipe, bundle.manifest.version
    for file, origin in zip(files, origins, strict=True):
        if origin is not None and (origin.recipe, origin.version) != asked:
            raise MedcodeError(f"{file}: made from bundle {origin.version}, not from {bundle.manifest.version}")
    return bundle


def _sample(settings: Settings, home: Path, bundle: Bundle, base: LocalModel) -> "ValidationSample":
    """Return validation notes, or questions, of the bundle's data; invented text where none are at hand, and say so."""
    from medcode_assets.export.validation import invented_sample
    from medcode_assets.recipes.exporting import SPLIT_CHANGED, UNMEASURED, validation_sample
    from medcode_assets.versions import warehouse_file
    from medcode_assets.warehouse import open_warehouse

    export, partition = settings.export, bundle.manifest.data.partition
    file = warehouse_file(home, partition)
    words = bundle.manifest.answers_in_words
    reason = f"{file} is not there: the files are verified on invented text{UNMEASURED if not words else ''}"
    if file.exists():
        with open_warehouse(
            file, read_only=True, settings=settings.warehouse, purpose="an export", on_wait=_say
        ) as con:
            sample = validation_sample(con, bundle, base, prompts=export.prompts, f1_notes=export.f1_notes)
        if sample is not None:
            return sample
        reason = SPLIT_CHANGED + ("" if words else UNMEASURED)
    _say(reason)
    return invented_sample(bundle, export.prompts)


def _print_reports(reports: Sequence["GgufReport"]) -> None:
    from medcode_assets.export.table import report_rows, text_table

    typer.echo("\n" + text_table(report_rows(reports)))


def _say(*lines: str) -> None:
    for line in lines:
        typer.echo(line, err=True)
