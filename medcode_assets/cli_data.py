"""The commands of `medcode data`: looking at the files that models learn from."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    from medcode_assets.recipes.reasoning.quality_report import ProblemCount, QualityReport
    from medcode_assets.recipes.reasoning.rules import Limits

data = typer.Typer(no_args_is_help=True, help="Training data of recipe `reasoning`: JSONL files of its three stages.")

FAILED = 1
"""Exit code where a file has errors."""
LINES_NAMED = 8
"""Lines that the table names of a kind of problem."""


@data.callback()
def _group() -> None:
    """Keep `check` a command of its own while it is the only one."""


@data.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL file of one of the stages.")],
    stage: Annotated[
        int | None, typer.Option("--stage", help="1, 2 or 3; by the file's lines if not given.", show_default=False)
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", help="File of another split, in which none of its narratives may stand; repeatable."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="HTML report; FILE.quality.html if not given.")
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no HTML report.")] = False,
    json_: Annotated[Path | None, typer.Option("--json", help="Also write the report as JSON.")] = None,
    cpt_descriptions: Annotated[
        Path | None,
        typer.Option("--cpt-descriptions", help="CSV with the columns code and description, of a licensee of the AMA."),
    ] = None,
    max_reasoning_words: Annotated[
        int | None, typer.Option("--max-reasoning-words", min=1, help="Longer reasoning is an error.")
    ] = None,
) -> None:
    """Check lines, codes, reasoning, duplicates, leakage and balance of a file; exit code 1 if it has errors."""
    from medcode_assets.recipes.reasoning.lines import refuse_no_file
    from medcode_assets.recipes.reasoning.quality_page import quality_page
    from medcode_assets.recipes.reasoning.rules import Limits

    refuse_no_file(file)
    html = None if no_report else report or file.with_name(f"{file.name}.quality.html")
    _refuse_writing_over((file, *(against or ()), cpt_descriptions), {"--json": json_, "--report": html})
    limits = Limits() if max_reasoning_words is None else Limits(max_reasoning_words=max_reasoning_words)
    found = _check(file, stage, against or [], limits, cpt_descriptions)
    for line in _table(found):
        typer.echo(line)
    if json_:
        _write(json_, found.model_dump_json(indent=2) + "\n", "--json")
    if html:
        _write(html, quality_page(found), "--report")
        typer.echo(f"report: {html}")
    if not found.passed:
        raise typer.Exit(FAILED)


def _check(
    file: Path, stage: int | None, against: list[Path], limits: "Limits", cpt_descriptions: Path | None
) -> "QualityReport":
    from tqdm import tqdm

    from medcode_assets.progress import advance
    from medcode_assets.recipes.reasoning.lines import detect_stage
    from medcode_assets.recipes.reasoning.quality import check_files
    from medcode_serving.codes.tables import code_tables

    stage = detect_stage(file) if stage is None else stage
    tables = code_tables(cpt_descriptions)
    with tqdm(desc="checking", unit="line", leave=False, mininterval=0.5, delay=1) as bar:
        return check_files(file, stage, against, limits, tables, lambda done, total: advance(bar, done, total))


def _table(report: "QualityReport") -> Iterator[str]:
    """Yield the lines that are printed."""
    from medcode_assets.recipes.reasoning.rules import rules

    yield (
        f"{report.path}: stage {report.stage}, {report.lines:,} lines, {report.with_errors:,} with errors, "
        f"{report.with_warnings:,} with warnings"
    )
    if not report.problems:
        yield "  no problems"
        return
    width = max(len(problem.kind) for problem in report.problems)
    yield f"  {'severity':<9}{'count':>8}  {'kind':<{width}}  where"
    for problem in sorted(report.problems, key=lambda problem: problem.severity):
        yield f"  {problem.severity:<9}{problem.count:>8,}  {problem.kind:<{width}}  {_where(problem)}"
        yield f"  {'':<9}{'':>8}  {rules()[problem.kind].way_out}"


def _where(problem: "ProblemCount") -> str:
    """Return the first lines, or what is said of the file as a whole."""
    if not problem.examples[0].line:
        return problem.examples[0].detail
    lines = [one.line for one in problem.examples[:LINES_NAMED]]
    more = " …" if problem.count > len(lines) else ""
    if len(lines) == 1:
        return f"line {lines[0]}: {problem.examples[0].detail}"
    return f"lines {', '.join(map(str, lines))}{more}"


def _refuse_writing_over(read: Sequence[Path | None], targets: Mapping[str, Path | None]) -> None:
    """Refuse to put a report in the place of what is checked, or of the other report."""
    known = {path.resolve(): f"{path}, which is read" for path in read if path}
    for flag, target in targets.items():
        if target is None:
            continue
        if target.is_dir():
            raise MedcodeError(f"{flag} {target}: is a folder; name a file")
        if said := known.get(target.resolve()):
            raise MedcodeError(f"{flag} would write over {said}; name another file")
        known[target.resolve()] = f"{target}, the other report"


def _write(target: Path, text: str, flag: str) -> None:
    """Write a file aside and rename it."""
    from medcode_assets.writing import refusing_unwritable

    aside = target.with_name(f".{target.name}.{os.getpid()}")
    with refusing_unwritable(target, flag):
        try:
            aside.write_text(text, encoding="utf-8")
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)
