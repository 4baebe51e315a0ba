"""The bundle: the one artifact in which the asset side and the serving side meet.

    bundles/<recipe>/<version>/
      bundle.json       what is in the bundle and where it came from (`BundleManifest`)
      adapter/          what was trained, safetensors only, in one of three forms (`medcode_serving.adapters`)
      codes.parquet     system, code, text, description, frequency (`medcode_serving.codes.vocabulary`)
      linear/           optional: the linear baseline (`medcode_serving.engines.linear`)
      tries/            optional: the codes as the base model's tokenizer writes them (`medcode_serving.decoding`)
      gates.json        whether LATEST may name it, and why not; rewritten whenever that is decided
      gguf/             optional, added later as a whole, with a manifest.json of its own
    bundles/<recipe>/LATEST   names one version

A bundle is immutable: it is written aside, checksummed, and renamed into place; only then may LATEST name it.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medcode_serving.calibration import Calibration
from medcode_serving.errors import MedcodeError
from medcode_serving.prompts import PromptTemplate

SCHEMA_VERSION = 4
READABLE = (1, 2, 3, 4)
"""Version 1 has no calibration and no baselines, version 2 no reasoning and no added tokens, version 3 no answers in
words."""
MANIFEST = "bundle.json"
ADAPTER = "adapter"
CODES = "codes.parquet"
LINEAR = "linear"
TRIES = "tries"
GATES = "gates.json"
GGUF = "gguf"
LATEST = "LATEST"
FIRST_RECIPE = "icd"
"""The recipe of `medcode run`."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseModelRef(_Frozen):
    """Which base model the adapter belongs to."""

    id: str = Field(description="`embedded`, a Hugging Face id, or a local folder.")
    revision: str = Field(description="Hub commit, or sha256 over the folder's weights and tokenizer.")
    added_tokens: tuple[str, ...] = Field(
        default=(), description="Special tokens that its tokenizer gets; the adapter holds what was learned of them."
    )


class DecodingSettings(_Frozen):
    """Limits of one answer; the same in evaluation and in production."""

    max_prompt_tokens: int = Field(default=1024, ge=16, description="Longer notes are shortened, and it is said.")
    max_codes: int = Field(default=32, ge=1, description="Codes that one answer holds at most.")
    max_reasoning_tokens: int = Field(default=0, ge=0, description="Tokens of the reasoning before them at most.")
    max_answer_tokens: int = Field(default=0, ge=0, description="Tokens of an answer in words at most.")
    sections: str = Field(
        default="", description="sha256 of the list of sections by which training cut long notes; empty: not recorded."
    )


class Metric(_Frozen):
    """One measured number and how it was made."""

    name: str = Field(description="e.g. micro_f1")
    value: float
    engine: str = Field(description="What predicted: adapter, untuned_base, linear, frequency_prior.")
    split: str = Field(description="train, validation or test")
    label_space: str = Field(
        description="closed, open or caml, as defined in medcode_assets/evaluation/metrics.py; words: of texts."
    )
    level: str = Field(default="code", description="What counts as the same: the code, its category or its chapter.")
    group: str = Field(default="all", description="Codes it is over: all, or a group's name, as system:icd10cm.")
    low: float | None = Field(default=None, description="Lower end of the 95 % bootstrap interval over documents.")
    high: float | None = Field(default=None, description="Upper end.")


class DataVersion(_Frozen):
    """Which data the adapter was trained on."""

    partition: str = Field(description="Name of the registered MIMIC version.")
    release: str = Field(description="mimic-iii or mimic-iv")
    sources: dict[str, str] = Field(description="sha256 of each source file, by table.")
    split_hash: str = Field(description="sha256 over the sorted (patient, split) pairs.")
    train_documents: int = Field(default=0, ge=0, description="Training documents that code frequencies are out of.")


class Provenance(_Frozen):
    """Which code and which runs made the bundle."""

    code_version: str
    libraries: dict[str, str] = Field(description="Version of each library that training used.")
    settings: dict[str, Any] = Field(description="The training settings, as in training-config.yaml.")
    mlflow_run: str | None = None
    dagster_run: str | None = None


class Decision(_Frozen):
    """How an engine's probabilities become codes; chosen on validation, never on test."""

    threshold: float = Field(ge=0, le=1, description="Codes below this calibrated probability are not predicted.")
    calibration: Calibration = Field(
        default=Calibration(), description="From the engine's probabilities to calibrated ones."
    )


class Gate(_Frozen):
    """One condition for LATEST to name a bundle."""

    name: str
    passed: bool
    relaxed: bool = Field(default=False, description="Not passed, but the settings let it go: gates.relax names it.")
    reason: str = Field(description="What was compared, with its numbers.")

    @property
    def blocks(self) -> bool:
        """Whether it keeps LATEST where it is."""
        return not self.passed and not self.relaxed


class BundleManifest(_Frozen):
    """The contents of bundle.json."""

    schema_version: int = SCHEMA_VERSION
    recipe: str
    version: str
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    base_model: BaseModelRef
    prompt: PromptTemplate
    decoding: DecodingSettings
    threshold: float = Field(ge=0, le=1, description="Codes below this calibrated probability are not predicted.")
    calibration: Calibration = Field(
        default=Calibration(), description="From the adapter's probabilities to calibrated ones."
    )
    baselines: dict[str, Decision] = Field(
        default_factory=dict, description="Threshold and calibration of every baseline that can be served, by name."
    )
    metrics: tuple[Metric, ...] = ()
    data: DataVersion
    provenance: Provenance
    files: dict[str, str] = Field(default_factory=dict, description="sha256 of every other file, by relative path.")

    @property
    def answers_in_words(self) -> bool:
        """Whether it answers questions in words, and has no codes."""
        return self.prompt.answer == "words"


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest was read."""

    path: Path
    manifest: BundleManifest

    @property
    def adapter(self) -> Path:
        """Folder of the adapter, in any of its three forms."""
        return self.path / ADAPTER

    @property
    def codes(self) -> Path:
        """Parquet file of the code vocabulary."""
        return self.path / CODES

    @property
    def linear(self) -> Path:
        """Folder of the linear baseline; may be missing."""
        return self.path / LINEAR

    def decision(self, engine: str) -> Decision:
        """Return threshold and calibration of an engine: a baseline's own, or the adapter's for any other."""
        manifest = self.manifest
        return manifest.baselines.get(engine, Decision(threshold=manifest.threshold, calibration=manifest.calibration))


def write_bundle(
    root: Path,
    manifest: BundleManifest,
    *,
    adapter: Path,
    codes: Path,
    linear: Path | None = None,
    tries: Path | None = None,
) -> Bundle:
    """Write `<root>/<recipe>/<version>` from a manifest (its `files` are filled in here), an adapter and its codes.

    `linear` is the folder of the linear baseline, `tries` that of `cached_trie`.

    Raises:
        MedcodeError: the version exists already, or the adapter holds weights that are not safetensors.
    """
    target = root / manifest.recipe / manifest.version
    if target.exists():
        raise MedcodeError(f"{target}: this bundle version exists already and bundles are immutable")
    refuse_pickles(adapter)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{manifest.version}-", dir=target.parent))
    try:
        # Files get the umask's mode: safetensors are written as 0600, and a bundle is often served by another user.
        shutil.copytree(adapter, aside / ADAPTER, copy_function=shutil.copyfile)
        shutil.copyfile(codes, aside / CODES)
        if linear is not None:
            shutil.copytree(linear, aside / LINEAR, copy_function=shutil.copyfile)
        if tries is not None:
            shutil.copytree(tries, aside / TRIES, copy_function=shutil.copyfile)
        sealed = manifest.model_copy(update={"files": checksums(aside)})
        (aside / MANIFEST).write_text(sealed.model_dump_json(indent=2))
        aside.chmod(0o755)  # mkdtemp gives 0700
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return Bundle(target, sealed)


def open_bundle(path: Path) -> Bundle:
    """Read a bundle and verify every file against its checksum.

    Raises:
        MedcodeError: no bundle there, written by a newer medcode, or a file missing, changed or unexpected.
    """
    try:
        raw = json.loads((path / MANIFEST).read_text())
    except FileNotFoundError:
        raise MedcodeError(
            f"{path}: no {MANIFEST} there; name a bundle folder, or publish one by its recipe's command: medcode --help"
        ) from None
    except json.JSONDecodeError as error:
        raise MedcodeError(f"{path / MANIFEST}: not JSON (line {error.lineno}); publish the bundle anew") from None
    if not isinstance(raw, dict) or raw.get("schema_version") not in READABLE:
        versions = " or ".join(map(str, READABLE))
        raise MedcodeError(f"{path / MANIFEST}: schema_version is not {versions}; use the medcode that wrote it")
    try:
        manifest = BundleManifest.model_validate(raw)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise MedcodeError(f"{path / MANIFEST}: fields missing or wrong: {fields}; publish the bundle anew") from None
    _verify_files(path, manifest.files, publishing_command(manifest.recipe))
    return Bundle(path, manifest)


def publishing_command(recipe: str) -> str:
    """Return the command that makes and publishes a recipe's bundles: each has one of its own but the first."""
    return "medcode run" if recipe == FIRST_RECIPE else f"medcode {recipe} run"


def _verify_files(path: Path, expected: dict[str, str], command: str) -> None:
    found = checksums(path)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise MedcodeError(f"{path / name}: missing from the bundle; publish it anew: {command}")
        if name not in expected:
            raise MedcodeError(f"{path / name}: not part of the bundle; remove it")
        if expected[name] != found[name]:
            raise MedcodeError(f"{path / name}: changed since it was published; publish the bundle anew: {command}")


def write_gates(bundle: Bundle, gates: Sequence[Gate]) -> None:
    """Keep with a bundle whether it may be published and why not. It is no part of what is checksummed."""
    file = bundle.path / GATES
    aside = bundle.path.with_name(f".{bundle.path.name}.{GATES}.{os.getpid()}")  # outside: a reader checks all files
    aside.write_text(json.dumps([gate.model_dump() for gate in gates], indent=2) + "\n")
    aside.replace(file)


def read_gates(bundle: Bundle) -> tuple[Gate, ...]:
    """Return the gates that a bundle was last held against; none if it never was, or the file is damaged."""
    try:
        return tuple(Gate.model_validate(gate) for gate in json.loads((bundle.path / GATES).read_text()))
    except (FileNotFoundError, ValueError):  # of JSON and of pydantic, too
        return ()


def publish(bundle: Bundle) -> None:
    """Let LATEST name this bundle, atomically."""
    pointer = bundle.path.parent / LATEST
    aside = pointer.with_name(f".{LATEST}.{os.getpid()}")
    aside.write_text(bundle.manifest.version + "\n")
    aside.replace(pointer)


def is_published(root: Path, recipe: str) -> bool:
    """Return whether LATEST names a bundle."""
    return (root / recipe / LATEST).exists()


def latest_version(root: Path, recipe: str) -> str:
    """Return the version that LATEST names.

    Raises:
        MedcodeError: nothing was published yet, or LATEST cannot be read or names no folder beside it.
    """
    pointer = root / recipe / LATEST
    try:
        version = pointer.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise MedcodeError(_nothing_published(root, recipe)) from None
    except OSError as error:
        raise MedcodeError(f"{pointer}: {error.strerror}; it has to be a readable file with a version") from None
    except UnicodeDecodeError:
        raise MedcodeError(f"{pointer}: no text; it has to name a version, one of the folders beside it") from None
    if not version or version.startswith(".") or not version.isprintable() or {"/", "\\"} & set(version):
        raise MedcodeError(f"{pointer}: names no version; write the name of one of the folders beside it")
    return version


def _nothing_published(root: Path, recipe: str) -> str:
    """Return what to say where LATEST is missing: of a recipe without any bundle also which ones have some."""
    pointer, command = root / recipe / LATEST, publishing_command(recipe)
    others = sorted({file.parent.parent.name for file in root.glob(f"*/*/{MANIFEST}")} - {recipe})
    if others and not bundle_versions(root, recipe):
        return (
            f"{pointer}: no bundle of recipe {recipe!r} is published yet; there are bundles of {', '.join(others)}: "
            f"name one of these recipes, or make one: {command}"
        )
    return f"{pointer}: no bundle of recipe {recipe!r} is published yet; make one: {command}"


def bundle_versions(root: Path, recipe: str) -> list[str]:
    """Return the versions of a recipe's bundles, whether published or held back, the newest last."""
    found = []
    for file in (root / recipe).glob(f"*/{MANIFEST}"):
        with suppress(FileNotFoundError):  # somebody is removing it
            found.append((file.stat().st_mtime, file.parent.name))
    return [name for _, name in sorted(found) if not name.startswith(".")]


def latest_bundle(root: Path, recipe: str) -> Bundle:
    """Open the bundle that LATEST names. Raises as `latest_version` and `open_bundle` do."""
    return open_bundle(root / recipe / latest_version(root, recipe))


def checksums(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder, but bundle.json, gates.json and gguf/, by its relative path."""
    return {
        str(file.relative_to(folder)): file_sha256(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.relative_to(folder).parts[0] not in (MANIFEST, GATES, GGUF)
    }


def file_sha256(file: Path) -> str:
    """Return a file's sha256 as hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def refuse_pickles(folder: Path) -> None:
    """Raise MedcodeError if a folder holds weights that would execute code on loading (anything but safetensors)."""
    for file in sorted(folder.rglob("*")):
        if file.suffix in {".bin", ".pt", ".pth", ".pkl", ".ckpt"}:
            raise MedcodeError(f"{file}: only safetensors weights are loaded; convert the file and remove it")
