"""Where exam questions come from: the hub, files of MedMCQA's shape, or made from facts."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from medcode_assets.recipes.medqa.records import READERS, numbered_rows, read_file
from medcode_assets.recipes.medqa.rows import ExamRow, cop_base, exam_row, numbered
from medcode_assets.recipes.medqa.settings import SYNTHETIC, MedqaSection
from medcode_assets.warehouse import fingerprint
from medcode_serving.bundle import file_sha256
from medcode_serving.errors import MedcodeError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""What sources call their splits."""

Records = Callable[[], Iterator[tuple[str, Any]]]
"""Rows with their places: `row 7`."""


@dataclass(frozen=True)
class Part:
    """A file, or a split of the hub."""

    name: str
    split: str | None
    records: Records


@dataclass(frozen=True)
class QuestionSource:
    """A source that was found, not yet read."""

    release: str
    """A short name, for bundles."""
    fingerprint: str
    """Of all its contents."""
    files: Mapping[str, str]
    """Fingerprint of each file or split by its name."""
    parts: tuple[Part, ...]
    base: int | None = None
    """From which number it says that it counts its options; None: it does not say."""


@dataclass(frozen=True)
class ReadQuestions:
    """The rows of a source."""

    rows: list[ExamRow] = field(repr=False)
    cop_base: int
    why: str


def find_source(settings: MedqaSection, cache: Path) -> QuestionSource:
    """Find the source that the settings name.

    Args:
        settings: Section `medqa`.
        cache: Folder of data sets from the hub.

    Raises:
        MedcodeError: it is not to be had.
    """
    if settings.source == SYNTHETIC:
        return synthetic_source(settings.synthetic_questions, settings.seed)
    path = _path(settings.source)
    if path.is_file():
        return _of_files(path.stem, [(path, None)], path.parent)
    if path.is_dir():
        return _of_files(path.resolve().name, _split_files(path), path)
    if path.suffix in READERS or path.is_absolute() or settings.source.startswith(("./", "../", "~")):
        raise MedcodeError(f"medqa.source {settings.source}: no such file or folder; name one, a hub id, or synthetic")
    return hub_source(settings.source, settings.revision, cache)


def _path(source: str) -> Path:
    try:
        path = Path(source).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, a home that nobody has
        raise MedcodeError(f"medqa.source {source[:80]}: no usable path ({type(error).__name__})") from None
    return path


def read_source(source: QuestionSource, wanted_base: str = "auto") -> ReadQuestions:
    """Read a source as a whole; the right options come out counted from 0.

    Raises:
        MedcodeError: a row cannot be read, there is none, or nothing tells from where options are counted.
    """
    rows: list[ExamRow] = []
    for part in source.parts:
        before = len(rows)
        rows += [exam_row(record, part.name, place, part.split) for place, record in part.records()]
        if len(rows) == before:
            raise MedcodeError(f"{part.name}: has no rows; look whether what made it ended well")
    base, why = cop_base(rows, wanted_base, source.base)
    return ReadQuestions(numbered(rows, base), base, why)


def synthetic_source(questions: int, seed: int) -> QuestionSource:
    """Return the source of questions that are made from facts."""
    from medcode_assets import corpora
    from medcode_assets.corpora.synthetic_medical_questions import synthetic_medical_questions

    folder = resources.files(corpora)
    made_by = [file for file in sorted(folder.iterdir(), key=lambda file: file.name) if _makes_questions(file.name)]
    files = {file.name: fingerprint(contents=file.read_text(encoding="utf-8")) for file in made_by}
    return QuestionSource(
        release=f"synthetic medical questions {questions}-{seed}",
        fingerprint=fingerprint(files=files, questions=questions, seed=seed),
        files=files,
        parts=(Part("synthetic", None, lambda: numbered_rows(synthetic_medical_questions(questions, seed))),),
        base=1,
    )


def _makes_questions(name: str) -> bool:
    return "medical_questions" in name and name.endswith((".py", ".yaml"))


def hub_source(name: str, revision: str | None, cache: Path) -> QuestionSource:
    """Return a data set of the hub, downloaded once.

    Args:
        name: Its id, or a folder that the library loads as it loads the hub's.
        revision: Branch, tag or commit; None: the default branch.
        cache: Where it is kept.

    Raises:
        MedcodeError: it is not in the cache and the hub cannot be asked, or it has other splits.
    """
    import datasets

    try:
        found: Any = datasets.load_dataset(name, revision=revision, cache_dir=str(cache))
    except Exception as error:  # noqa: BLE001 - the library raises from several others' hierarchies
        raise MedcodeError(
            f"medqa.source {name}: not in {cache}, and the hub is not to be had ({type(error).__name__}); download it "
            "on a machine with access (`hf download --repo-type dataset ID --local-dir DIR`) and name its folder, or "
            "set medqa.source=synthetic"
        ) from None
    for split in found:
        _known_split(str(split), name)
    files = {str(split): str(rows._fingerprint) for split, rows in found.items()}
    named = any(isinstance(rows.features.get("cop"), datasets.ClassLabel) for rows in found.values())
    return QuestionSource(
        release=f"{name}{f'@{revision}' if revision else ''}",
        fingerprint=fingerprint(files=files),
        files=files,
        parts=tuple(
            Part(f"{name}, {split}", _known_split(str(split), name), lambda rows=rows: numbered_rows(rows))  # type: ignore[misc]
            for split, rows in found.items()
        ),
        base=0 if named else None,
    )


def _of_files(release: str, files: list[tuple[Path, str | None]], folder: Path) -> QuestionSource:
    hashes = {file.relative_to(folder).as_posix(): file_sha256(file) for file, _ in files}
    return QuestionSource(
        release=release,
        fingerprint=fingerprint(files=hashes),
        files=hashes,
        parts=tuple(Part(str(file), split, lambda file=file: read_file(file)) for file, split in files),  # type: ignore[misc]
        base=0 if any(has_names(file) for file, _ in files) else None,
    )


def has_names(file: Path) -> bool:
    """Whether a parquet file of the hub says that its column cop has names, which count from 0."""
    if file.suffix != ".parquet":
        return False
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        told = (pq.read_schema(file).metadata or {}).get(b"huggingface", b"{}")
    except (pa.ArrowInvalid, OSError):
        return False  # reading it says what is wrong
    try:
        return bool(json.loads(told)["info"]["features"]["cop"]["_type"] == "ClassLabel")
    except (ValueError, LookupError, TypeError, RecursionError):
        return False  # another writer's, or damaged: then it says nothing


def _split_files(folder: Path) -> list[tuple[Path, str | None]]:
    """Return the files of a folder that are named for a split, at any depth, as `data/train-00000-of-00001.parquet`."""
    found = [
        (file, SPLIT_NAMES[name])
        for file in sorted(folder.rglob("*"))
        if file.suffix in READERS
        and file.is_file()
        and (name := re.split(r"[-_.]", file.name.lower())[0]) in SPLIT_NAMES
    ]
    if not found:
        raise MedcodeError(
            f"medqa.source {folder}: no file there is named train, validation (or dev) or test and ends with "
            f"{', '.join(READERS)}; name one file to have it split"
        )
    return list(found)


def _known_split(name: str, source: str) -> str:
    if name not in SPLIT_NAMES:
        raise MedcodeError(f"medqa.source {source}: has a split {name!r}; expected {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[name]
