"""Doctors' answers to hierarchical lists, whoever converts them, and the data set that comes of it."""

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcode_assets.artifacts import replace_folder
from medcode_assets.recipes.consult.converting.prose import outline_prose
from medcode_assets.recipes.consult.settings import ConsultSection
from medcode_assets.recipes.consult.sources import COLUMNS, ORIGINAL, SUCCESS, Conversation
from medcode_assets.synthesis.tally import Tally
from medcode_assets.warehouse import fingerprint
from medcode_assets.writing import refusing_unwritable
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from medcode_assets.synthesis.endpoints import Endpoint

SAVED, INFORMATION = "state.json", "dataset_info.json"
"""Files of every data set that `save_to_disk` wrote; the second names its columns."""
JOURNAL = "conversion.journal"
RULES = (
    "structure.yaml",
    "terms.yaml",
    "converting/cues.yaml",
    "converting/faithful.yaml",
    "converting/prompts.yaml",
)
"""Files that decide what comes out."""


@dataclass(frozen=True)
class Outcome:
    """What came of a conversion."""

    rows: tuple[Conversation, ...]
    """As many as were given, in their order; one that was not converted keeps its answer."""
    unanswered: int
    """Rows for which the model's server gave no reply; the next run asks for them again."""
    complete: bool = True
    """Every row was tried; False: it was stopped before."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Why rows got no reply in this run, with how many it was."""

    @property
    def converted(self) -> int:
        """Rows with a hierarchical list."""
        return sum(row.success for row in self.rows)

    @property
    def why(self) -> str:
        """Why rows got no reply, for people; empty if that is not known."""
        return "; ".join(f"{reason} ({count:,})" for reason, count in self.failures.items())


def conversion_fingerprint(content: str, section: ConsultSection) -> str:
    """Return the fingerprint of what a conversion comes from.

    Args:
        content: Hash of the conversations.
        section: Names the converter.
    """
    who: dict[str, Any] = {"converter": section.converter}
    if section.converter == "llm":
        who |= {"model": section.converter_model, "api_base": section.api_base, "attempts": section.attempts}
    return fingerprint(content=content, rules=rules_hash(), version=2, **who)


def rules_hash() -> str:
    """Return a hash over the rules of structure, cues, faithfulness and prompts."""
    folder = resources.files("medcode_assets.recipes.consult")
    contents = [folder.joinpath(name).read_bytes() for name in RULES]
    return hashlib.sha256(b"\0".join(contents)).hexdigest()


def convert(
    rows: Sequence[Conversation],
    section: ConsultSection,
    journal: Path,
    *,
    content: str,
    anew: bool = False,
    stop: threading.Event | None = None,
    on_progress: Callable[[Tally], None] | None = None,
) -> Outcome:
    """Convert rows; those of a source that is converted already stay as they are.

    Args:
        rows: With the doctors' answers.
        section: Names the converter.
        journal: File that keeps a model's replies; a later run with the same arguments, or more rows, goes on from it.
        content: Hash of the conversations that `rows` begin with.
        anew: Throw away what the journal has.
        stop: Ends the run after what is under way, when it is set from outside.
        on_progress: Told how far it is.

    Raises:
        MedcodeError: the host is not allowed, refuses or is away, or the journal is of another run.
    """
    if any(row.original is not None for row in rows):
        return Outcome(tuple(rows), 0)
    if section.converter == "outline":
        return _by_outline(rows, on_progress)
    return _by_model(rows, section, journal, content, anew, stop or threading.Event(), on_progress)


def _by_outline(rows: Sequence[Conversation], on_progress: Callable[[Tally], None] | None) -> Outcome:
    tally = Tally()
    found = []
    for row in rows:
        written = outline_prose(row.doctor)
        found.append(_with_answer(row, written))
        tally.answers += 1
        tally.accepted += written is not None
        tally.rejected += written is None
        tally.given_up += written is None
        if on_progress:
            on_progress(tally)
    return Outcome(tuple(found), 0)


def _with_answer(row: Conversation, written: str | None) -> Conversation:
    return replace(row, doctor=written or row.doctor, original=row.doctor, success=written is not None)


def _by_model(
    rows: Sequence[Conversation],
    section: ConsultSection,
    file: Path,
    content: str,
    anew: bool,
    stop: threading.Event,
    on_progress: Callable[[Tally], None] | None,
) -> Outcome:
    from medcode_assets.recipes.consult.converting.asking import Conversion, replayed
    from medcode_assets.synthesis.client import Client
    from medcode_assets.synthesis.journal import open_journal

    endpoint = converter_endpoint(section)
    arguments = {
        "converts": content,
        "count": len(rows),
        "model": section.converter_model,
        "api_base": section.api_base,
        "attempts": section.attempts,
        "rules": rules_hash()[:12],
    }
    with open_journal(file, arguments, anew=anew) as journal:
        conversion = Conversion(rows, journal, replayed(journal), attempts=section.attempts)
        client = Client(endpoint, retries=section.retries, timeout_s=section.timeout_s, stop=stop)
        if on_progress:
            on_progress(conversion.state.tally)
        try:
            complete = conversion.run(client.ask, workers=section.workers, stop=stop, on_progress=on_progress)
        finally:
            client.close()
        state = conversion.state
        found = tuple(
            _with_answer(row, journal.at(state.converted[number])["doctor"] if number in state.converted else None)
            for number, row in enumerate(rows)
        )
    unanswered = sum(state.is_open(number) for number in range(len(rows)))
    return Outcome(found, unanswered, complete, dict(state.tally.failures.most_common()))


def converter_endpoint(section: ConsultSection) -> "Endpoint":
    """Return where the model is asked, if that is permitted. Raises MedcodeError if not, or nobody knows where."""
    from medcode_assets.synthesis.endpoints import resolve_endpoint

    try:
        return resolve_endpoint(section.converter_model, section.api_base, section.allowed_hosts)
    except MedcodeError as error:
        told = str(error).replace("--allow-host ", "add to consult.allowed_hosts ")
        told = told.replace("--api-base", "consult.api_base").replace("--model", "consult.converter_model")
        raise MedcodeError(told) from None


def refuse_foreign_folder(target: Path, source: str | None = None) -> None:
    """Refuse to write a data set over something else.

    Args:
        target: Where it is to be written.
        source: What is converted; a data set in the place of its own source would take the rest of that away.

    Raises:
        MedcodeError: a file, another folder, a data set that no conversion wrote, or the source is there.
    """
    if not target.name or (target.exists() and not _is_replaceable(target)):
        raise MedcodeError(f"{target}: is there and no data set that was converted; name another --output")
    if source is not None and target.exists() and Path(source).exists() and target.samefile(source):
        raise MedcodeError(f"{target}: is the source itself; name another --output")


def refuse_loss(target: Path, rows: Sequence[Conversation], source: str) -> None:
    """Refuse to write a data set over one with rows that it has not: of another source, or with a smaller limit.

    Args:
        target: Where it is to be written; the place is `refuse_foreign_folder`'s to judge.
        rows: That are to be converted.
        source: Where they are from, for the message.

    Raises:
        MedcodeError: the data set there has other rows, or more; or it cannot be read.
    """
    if not (target / SAVED).is_file():
        return
    from medcode_assets.recipes.consult.sources import dataset_rows

    known = {(row.description, row.patient, _original(row)) for row in rows}
    there = [
        tuple(str(row[name] or "") for name in (*COLUMNS[:2], ORIGINAL))
        for _, row in dataset_rows(target, (*COLUMNS[:2], ORIGINAL))
    ]
    lost = sum(row not in known for row in there)
    if lost:
        raise MedcodeError(
            f"{target}: is a data set of {len(there):,} rows, and {lost:,} of them are not among the {len(rows):,} of "
            f"{source}; name another --output, or begin anew with --no-resume, which replaces it"
        )


def _is_replaceable(target: Path) -> bool:
    """Whether a folder is empty, or holds a converted data set."""
    if not target.is_dir() or not any(target.iterdir()):
        return target.is_dir()
    saved = target / INFORMATION
    return (target / SAVED).is_file() and saved.is_file() and SUCCESS.encode() in saved.read_bytes()


def publish_dataset(rows: Sequence[Conversation], target: Path) -> None:
    """Write rows as a data set and put it in the place of an earlier one. Raises MedcodeError if the disk is full."""
    refuse_foreign_folder(target)
    aside = target.with_name(f".{target.name}.new")
    with refusing_unwritable(target, "--output"):
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(parents=True, exist_ok=True)
        write_dataset(rows, aside)
        replace_folder(aside, target)


def write_dataset(rows: Sequence[Conversation], folder: Path) -> None:
    """Write rows as a data set that `datasets.load_from_disk` reads, into an empty or new folder."""
    import datasets

    columns: dict[str, list[Any]] = {
        "Description": [row.description for row in rows],
        "Patient": [row.patient for row in rows],
        "Doctor": [row.doctor for row in rows],
        "Status": [row.status for row in rows],
        ORIGINAL: [_original(row) for row in rows],
        SUCCESS: [row.success for row in rows],
    }
    texts = {name: datasets.Value("string") for name in (*COLUMNS, ORIGINAL)}
    features = datasets.Features({**texts, SUCCESS: datasets.Value("bool")})
    with _without_bars():
        datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(folder))


def _original(row: Conversation) -> str:
    return row.doctor if row.original is None else row.original


@contextmanager
def _without_bars() -> Iterator[None]:
    import datasets

    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
