"""What `medcode consult convert` does, once its flags are read."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from medcode_assets.commands import require_assets_extra
from medcode_assets.config import parse_assignments
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from medcode_assets.recipes.consult.converting.convert import Outcome
    from medcode_assets.recipes.consult.settings import ConsultSection
    from medcode_assets.recipes.consult.sources import Conversation, Conversations


def convert_conversations(
    home: Path,
    output: Path,
    config: Path | None,
    flags: Mapping[str, Any],
    assignments: list[str],
    *,
    limit: int,
    resume: bool,
) -> bool:
    """Convert a source into a data set on the disk; return whether every row got a reply.

    Args:
        home: State folder, for downloaded data sets.
        output: Folder of the data set.
        config: Settings file.
        flags: Settings of section `consult` by name; None: not given.
        assignments: Of `--set`.
        limit: Rows, the first ones; 0: all.
        resume: Go on from the journal beside the output, if there is one, and keep a data set there with other rows.

    Raises:
        MedcodeError: the source or a setting is wrong, the host is not allowed, the output is no data set of ours or
            has other rows, or the server is away.
        KeyboardInterrupt: Ctrl-C; everything that was answered is kept.
    """
    require_assets_extra()
    from medcode_assets.recipes.consult.converting.convert import publish_dataset, refuse_foreign_folder, refuse_loss
    from medcode_assets.recipes.consult.settings import load_consult_settings
    from medcode_assets.recipes.consult.sources import read_conversations

    given = {f"consult.{name}": value for name, value in flags.items()}
    section = load_consult_settings(config, {**given, **parse_assignments(assignments)}).consult
    refuse_foreign_folder(output, section.source)
    asked = _permitted(section)
    found = read_conversations(section, home / "cache" / "datasets")
    rows = found.rows[: limit or None]
    if resume:
        refuse_loss(output, rows, section.source)
    _print_read(found, rows, section, asked)
    outcome = _convert(rows, found.rows, section, _journal(output), anew=not resume)
    publish_dataset(outcome.rows, output)
    _print_outcome(outcome, output)
    if not outcome.complete:
        typer.echo("medcode: interrupted; the same command goes on from here", err=True)
        raise KeyboardInterrupt
    return not outcome.unanswered


def _permitted(section: "ConsultSection") -> str | None:
    """Return the host that is asked, None without one. Raises MedcodeError if conversations may not be sent there."""
    if section.converter != "llm":
        return None
    from medcode_assets.synthesis.endpoints import resolve_endpoint

    return resolve_endpoint(section.converter_model, section.api_base, section.allowed_hosts).address


def _journal(output: Path) -> Path:
    return output.with_name(f"{output.name}.journal")


def _print_read(
    found: "Conversations", rows: Sequence["Conversation"], section: "ConsultSection", asked: str | None
) -> None:
    typer.echo(
        f"convert: {found.read:,} rows read; left out: {found.no_answer:,} without an answer, {found.no_question:,} "
        f"without a question, {found.repeated:,} repeated; {len(rows):,} to convert by {section.converter}",
        err=True,
    )
    if found.converted:
        typer.echo("convert: they are converted already and stay as they are", err=True)
    elif asked is not None:
        typer.echo(f"convert: these conversations are sent to {section.converter_model} at {asked}", err=True)


def _convert(
    rows: Sequence["Conversation"],
    every: Sequence["Conversation"],
    section: "ConsultSection",
    journal: Path,
    *,
    anew: bool,
) -> "Outcome":
    """Convert rows of a source behind a bar; a second Ctrl-C ends it at once."""
    from tqdm import tqdm

    from medcode_assets.recipes.consult.converting.convert import convert
    from medcode_assets.recipes.consult.converting.progress import moving
    from medcode_assets.recipes.consult.questions import content_hash
    from medcode_assets.synth_command import stopping_on_interrupt

    stop = threading.Event()
    with tqdm(total=len(rows), desc="converting", unit="row", mininterval=1) as bar, stopping_on_interrupt(stop):
        try:
            return convert(
                rows, section, journal, content=content_hash(every), anew=anew, stop=stop, on_progress=moving(bar)
            )
        except MedcodeError as error:
            raise MedcodeError(str(error).replace("--drop-existing", "--no-resume")) from None  # as this command has it


def _print_outcome(outcome: "Outcome", output: Path) -> None:
    rows = len(outcome.rows)
    typer.echo(f"converted {outcome.converted:,} of {rows:,} answers; the others keep their original", err=True)
    if outcome.unanswered:
        why = f": {outcome.why}" if outcome.why else ""
        typer.echo(f"{outcome.unanswered:,} rows got no reply{why}", err=True)
        typer.echo("the same command asks for them again", err=True)
    replies = f"; replies are kept in {_journal(output)}" if _journal(output).exists() else ""
    typer.echo(f"Written: {output}, {rows:,} rows, {outcome.converted:,} of them converted{replies}")
