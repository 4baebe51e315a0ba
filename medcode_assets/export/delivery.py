"""What goes with GGUF files, and the folder's seal."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from medcode_assets.export.card import Companions, model_card, served_file
from medcode_assets.export.license import copy_license_files, read_license
from medcode_assets.export.merge import TOKENIZER_FILES
from medcode_assets.export.ollama import ollama_modelfile
from medcode_assets.export.prompting import joined_tokens, opening_token
from medcode_assets.export.quantizations import Quantization
from medcode_assets.export.report import GgufReport
from medcode_assets.export.word_card import EXAMPLE_QUESTION, word_model_card
from medcode_serving.bundle import Bundle, BundleManifest, file_sha256, read_gates
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.errors import MedcodeError
from medcode_serving.gguf_folder import GGUF_MANIFEST, TOKENIZER, GgufFile, GgufManifest, read_gguf_manifest
from medcode_serving.prompts import FramedTokenizer, PromptTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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

    README.md (the model card), Modelfile (Ollama), tokenizer/ (the base model's, byte for byte) and the base model's
    licence files; codes.gbnf (the codes as llama.cpp's grammar), unless the bundle answers in words.

    Args:
        folder: Holds the files that the reports name.
        bundle: What was exported.
        base: Folder of its base model.
        reports: One a file, in the order in which the card shows them.

    Raises:
        MedcodeError: a text that a Modelfile cannot hold, a tokenizer that cannot be loaded, or no room for an answer.
    """
    from medcode_serving.engines.transformers import load_tokenizer

    manifest = bundle.manifest
    (folder / TOKENIZER).mkdir(exist_ok=True)
    for name in _TOKENIZER_FILES:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / TOKENIZER / name)
    tokenizer = load_tokenizer(folder / TOKENIZER)
    vocabulary = None if manifest.answers_in_words else Vocabulary.read(bundle.codes)
    companions = Companions(
        checksums={file.name: file_sha256(file) for file in sorted(folder.glob("*.gguf"))},
        license=read_license(base),
        license_files=copy_license_files(base, folder),
        answer_tokens=_answer_tokens(tokenizer, vocabulary, manifest, _context(base)),
        end=str(tokenizer.eos_token),
        begin=opening_token(tokenizer),
    )
    modelfile = ollama_modelfile(
        [report.file for report in sorted(reports, key=lambda report: report.file != served_file(reports))],
        manifest.prompt,
        recipe=manifest.recipe,
        version=manifest.version,
        prompt_tokens=manifest.decoding.max_prompt_tokens,
        answer_tokens=companions.answer_tokens,
        end=companions.end,
        license=companions.license,
        begin=companions.begin,
    )
    (folder / MODELFILE).write_text(modelfile, encoding="utf-8")
    if vocabulary is None:
        edges_differ = _edges_differ(tokenizer, manifest.prompt)
        card = word_model_card(manifest, reports, companions, gates=read_gates(bundle), edges_differ=edges_differ)
    else:
        _write_grammar(folder / GRAMMAR, vocabulary, manifest.decoding.max_codes)
        card = model_card(manifest, vocabulary, reports, companions)
    (folder / CARD).write_text(card, encoding="utf-8")


def _write_grammar(file: Path, vocabulary: Vocabulary, max_codes: int) -> None:
    from medcode_serving.engines.constraints import CodeLanguage

    file.write_text(CodeLanguage([code.text for code in vocabulary.codes]).grammar(max_codes), encoding="utf-8")


def _answer_tokens(
    tokenizer: "PreTrainedTokenizerBase", vocabulary: Vocabulary | None, manifest: BundleManifest, context: int | None
) -> int:
    """Return how many tokens an answer may have beside the longest prompt.

    Raises:
        MedcodeError: the model has no room for one.
    """
    from medcode_serving.engines.reading import NoteReader

    if vocabulary is not None:
        return NoteReader(tokenizer, vocabulary, manifest.prompt, manifest.decoding).answer_tokens(context)
    limit, wanted = manifest.decoding.max_prompt_tokens, manifest.decoding.max_answer_tokens
    room = wanted if context is None else min(wanted, context - limit)
    if room < 1:
        raise MedcodeError(
            f"bundle {manifest.version}: {limit} tokens of prompt and {wanted} of answer leave no room for an answer "
            f"in the model's {context}; train it with other limits"
        )
    return room


def _edges_differ(tokenizer: "PreTrainedTokenizerBase", prompt: PromptTemplate) -> bool:
    """Tell whether a program that splits the whole prompt at once gives a question other tokens than training did."""
    training = FramedTokenizer(tokenizer, prompt).encode([EXAMPLE_QUESTION])[0].ids
    return training != joined_tokens(tokenizer, prompt, EXAMPLE_QUESTION)


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
