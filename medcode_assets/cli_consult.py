"""The commands `medcode consult ...`: recipe `consult`, from conversations to a bundle, and what belongs to it."""

from pathlib import Path
from typing import Annotated

import typer

from medcode_assets.cli_options import BaseModel, DropExisting, Set
from medcode_assets.cli_serving import OutputDir
from medcode_serving.home import medcode_home

app = typer.Typer(no_args_is_help=True, help="Recipe `consult`: patients' questions to answers as hierarchical lists.")

FAILED = 1
"""Exit code of `convert` where rows got no answer, and of `check` where answers are not valid."""

ConsultName = Annotated[str, typer.Option("--name", help="Name of the set of conversations, its partition in Dagster.")]
ConsultConfig = Annotated[
    Path | None, typer.Option("--config", help="Settings of the recipe; config/consult.yaml if not given.")
]
Source = Annotated[
    str | None,
    typer.Option(
        "--source", help="A hub data set, a CSV, JSONL, JSON, Arrow or parquet file, a folder of one, or `synthetic`."
    ),
]


@app.command()
def run(
    name: ConsultName = "conversations",
    source: Source = None,
    base_model: BaseModel = None,
    config: ConsultConfig = None,
    output_dir: OutputDir = None,
    set_: Set = None,
    drop_existing: DropExisting = False,
) -> None:
    """The whole recipe: conversations, conversion, training, evaluation, comparison, rating sheet, a bundle, GGUF."""
    from medcode_assets.config import parse_assignments
    from medcode_assets.consult_command import run_consult

    flags = {"consult.source": source, "model.base": base_model, **parse_assignments(set_ or [])}
    run_consult(output_dir or medcode_home(), name, config, flags, drop_existing=drop_existing)


@app.command()
def convert(
    output: Annotated[
        Path,
        typer.Option("--output", help="Folder of the data set that is written; F.journal beside it keeps replies."),
    ],
    source: Source = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Convert the first so many rows, to try things out; 0: all.")
    ] = 0,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume",
            help="Go on where an earlier run ended; or begin anew: throw away its replies and its data set.",
        ),
    ] = True,
    converter: Annotated[
        str | None, typer.Option("--converter", help="llm: a model through LiteLLM; outline: cue words, offline.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Name of the model as LiteLLM or the server has it.")
    ] = None,
    api_base: Annotated[
        str | None,
        typer.Option("--api-base", help="Address of a server with OpenAI's protocol: http://127.0.0.1:8080/v1."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="Host that conversations may be sent to besides this machine; repeatable."),
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, max=100, help="Requests at a time.")] = None,
    config: ConsultConfig = None,
    output_dir: OutputDir = None,
    set_: Set = None,
) -> None:
    """Doctors' answers to hierarchical lists, as a data set that `datasets.load_from_disk` reads.

    Every reply is kept at once: the same command goes on where it was killed. Exit code 1: some rows got no reply.
    """
    from medcode_assets.consult_convert_command import convert_conversations

    flags = {
        "source": source,
        "converter": converter,
        "converter_model": model,
        "api_base": api_base,
        "allowed_hosts": allow_host,
        "workers": workers,
    }
    if not convert_conversations(
        output_dir or medcode_home(), output, config, flags, set_ or [], limit=limit, resume=resume
    ):
        raise typer.Exit(FAILED)


@app.command()
def ratings(
    files: Annotated[list[Path], typer.Argument(help="Rating sheets that came back, one a rater.")],
    name: ConsultName = "conversations",
    output_dir: OutputDir = None,
) -> None:
    """How far raters agree, and how often they prefer the tuned model (asset consult/rating_sheet has the sheet)."""
    from medcode_assets.consult_command import print_ratings

    print_ratings(output_dir or medcode_home(), name, files)


@app.command()
def check(
    file: Annotated[
        Path,
        typer.Argument(
            help="Text file of one answer, or a file or data set with the column Doctor, `text` or --column."
        ),
    ],
    column: Annotated[str | None, typer.Option("--column", help="Column that holds the answers.")] = None,
    show: Annotated[int, typer.Option("--show", min=0, help="Invalid answers whose problems are listed.")] = 10,
) -> None:
    """Hold answers against the rules of a hierarchical list. Exit code 1: some are not valid."""
    from medcode_assets.consult_command import print_structure

    if not print_structure(file, column, show):
        raise typer.Exit(FAILED)
