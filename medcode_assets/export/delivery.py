"""What goes with GGUF files, and the folder's seal."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from medcode_assets.export.card import model_card, served_file
from medcode_assets.export.license import copy_license_files, read_license
from medcode_assets.export.merge import TOKENIZER_FILES
from medcode_assets.export.ollama import ollama_modelfile
from medcode_assets.export.quantizations import Quantization
from medcode_assets.export.report import GgufReport
from medcode_serving.bundle import Bundle, file_sha256
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.errors import MedcodeError
from medcode_serving.gguf_folder import GGUF_MANIFEST, TOKENIZER, GgufFile, GgufManifest, read_gguf_manifest

CARD = "README.md"
MODELFILE = "Modelfile"
GRAMMAR = "codes.gbnf"
# transformers 5 looks into config.json, too, before it chooses the tokenizer's class.
_TOKENIZER_FILES = (*TOKENIZER_FILES, "config.json")


@dataclass(frozen=True)
class Delivered:
    """An intact file that was delivered."""

    path: Path
    report: GgufReport
    verified_on: str
    """`Verification.fingerprint` that the report rests on."""


def file_name(recipe: str, version: str, quantization: Quantization) -> str:
    """Return a GGUF file's name, `medcode-icd-<version>-Q4_K_M.gguf`: LM Studio reads model and quantization there."""
    return f"medcode-{recipe}-{version}-{quantization.label}.gguf"


def write_companions(folder: Path, bundle: Bundle, base: Path, reports: Sequence[GgufReport]) -> None:
    """Write what goes with the GGUF files that a folder holds: all but manifest.json.

    README.md (the model card), Modelfile (Ollama), codes.gbnf (the codes as llama.cpp's grammar), tokenizer/ (the base
    model's, byte for byte) and the base model's licence files.

    Args:
        folder: Holds the files that the reports name.
        bundle: What was exported.
        base: Folder of its base model.
        reports: One a file, in the order in which the card shows them.

    Raises:
        MedcodeError: a text that a Modelfile cannot hold, a tokenizer that cannot be loaded, or no room for an answer.
    """
    from medcode_serving.engines.constraints import CodeLanguage
    from medcode_serving.engines.reading import NoteReader
    from medcode_serving.engines.transformers import load_tokenizer

    manifest = bundle.manifest
    vocabulary = Vocabulary.read(bundle.codes)
    (folder / TOKENIZER).mkdir(exist_ok=True)
    for name in _TOKENIZER_FILES:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / TOKENIZER / name)
    reader = NoteReader(load_tokenizer(folder / TOKENIZER), vocabulary, manifest.prompt, manifest.decoding)
    language = CodeLanguage([code.text for code in vocabulary.codes])
    (folder / GRAMMAR).write_text(language.grammar(manifest.decoding.max_codes), encoding="utf-8")
    license, license_names = read_license(base), copy_license_files(base, folder)
    answer_tokens, end = reader.answer_tokens(_context(base)), str(reader.tokenizer.eos_token)
    modelfile = ollama_modelfile(
        [report.file for report in sorted(reports, key=lambda report: report.file != served_file(reports))],
        manifest.prompt,
        recipe=manifest.recipe,
        version=manifest.version,
        prompt_tokens=manifest.decoding.max_prompt_tokens,
        answer_tokens=answer_tokens,
        end=end,
        license=license,
    )
    (folder / MODELFILE).write_text(modelfile, encoding="utf-8")
    card = model_card(
        manifest,
        vocabulary,
        reports,
        checksums={file.name: file_sha256(file) for file in sorted(folder.glob("*.gguf"))},
        license=license,
        license_files=license_names,
        answer_tokens=answer_tokens,
        end=end,
    )
    (folder / CARD).write_text(card, encoding="utf-8")


def seal(
    folder: Path,
    bundle: Bundle,
    reports: Sequence[GgufReport],
    *,
    made_from: Mapping[str, str],
    verified_on: Mapping[str, str],
) -> GgufManifest:
    """Write manifest.json over all files of a folder; it appears last and complete.

    Args:
        folder: Holds the GGUF files that the reports name, and what goes with them.
        bundle: What was exported.
        reports: One a GGUF file.
        made_from: All that the files depend on.
        verified_on: What each report rests on (`Verification.fingerprint`), by the file's name.

    Returns:
        What was written.
    """
    files = tuple(
        GgufFile(
            file=report.file,
            quantization=report.quantization,
            sha256=file_sha256(folder / report.file),
            size_bytes=(folder / report.file).stat().st_size,
            verification=report.model_dump(mode="json"),
            verified_on=verified_on[report.file],
        )
        for report in reports
    )
    apart = {GGUF_MANIFEST, *(report.file for report in reports)}
    others = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    manifest = GgufManifest(
        recipe=bundle.manifest.recipe,
        version=bundle.manifest.version,
        made_from=dict(made_from),
        files=files,
        others={name: file_sha256(path) for name, path in others.items() if name not in apart},
    )
    aside = folder / f".{GGUF_MANIFEST}.{os.getpid()}"
    aside.write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    aside.replace(folder / GGUF_MANIFEST)
    return manifest


def delivered(folder: Path, made_from: dict[str, str]) -> dict[str, Delivered]:
    """Return the intact files in a folder that were made from just this, by number format."""
    try:
        manifest = read_gguf_manifest(folder)
        reports = {file.file: GgufReport.model_validate(file.verification) for file in manifest.files}
    except (MedcodeError, ValidationError):
        return {}  # none there, or of an older medcode
    if manifest.made_from != made_from:
        return {}
    return {
        file.quantization: Delivered(folder / file.file, reports[file.file], file.verified_on)
        for file in manifest.files
        if (folder / file.file).is_file() and file_sha256(folder / file.file) == file.sha256
    }


def _context(base: Path) -> int | None:
    from medcode_assets.export.gguf import read_config

    context: int | None = read_config(base).get("max_position_embeddings")
    return context
